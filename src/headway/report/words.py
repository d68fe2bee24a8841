"""Numbers as the text that a person reads. Missing numbers read `n/a`."""

MISSING = "n/a"
MILLION = 1_000_000
THOUSAND = 1_000
MEBIBYTE = 2**20


def loss(value: float | None) -> str:
    """A loss in nats per token."""
    return MISSING if value is None else f"{value:.4f}"


def signed(value: float | None) -> str:
    """A difference in nats per token, with its sign."""
    return MISSING if value is None else f"{value:+.4f}"


def interval(low: float | None, high: float | None) -> str:
    """An interval of differences; empty where there is none."""
    return "" if low is None or high is None else f"[{low:+.4f}, {high:+.4f}]"


def ratio(value: float | None) -> str:
    """A ratio to vanilla."""
    return MISSING if value is None else f"{value:.2f}x"


def fraction(value: float | None) -> str:
    """A fraction between 0 and 1."""
    return MISSING if value is None else f"{value:.2f}"


def percent(value: float | None) -> str:
    """A fraction as per cent, with its sign."""
    if value is None:
        return MISSING
    return "0%" if value == 0 else f"{100 * value:+.2f}%"


def probability(value: float | None) -> str:
    """A p-value."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: float | None) -> str:
    """A number of tokens or parameters, shortened from ten thousand on."""
    if value is None:
        return MISSING
    if value >= MILLION:
        return f"{value / MILLION:.2f}M"
    return f"{value / THOUSAND:.0f}k" if value >= 10 * THOUSAND else f"{value:.0f}"


def seconds(value: float | None) -> str:
    """A step time, in milliseconds below one second."""
    if value is None:
        return MISSING
    return f"{value:.2f} s" if value >= 1 else f"{value * THOUSAND:.1f} ms"


def memory(value: float | None) -> str:
    """Bytes as mebibytes."""
    return MISSING if value is None else f"{value / MEBIBYTE:.0f} MiB"
