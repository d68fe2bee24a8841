"""Which earlier layers' outputs are read: 0 is the embedding, l the output of the l-th layer."""

from typing import Literal

from headway.errors import HeadwayError
from headway.mechanisms.base import Dims

Taps = Literal["all"] | tuple[int, ...]


def check_taps(label: str, taps: Taps, dims: Dims) -> None:
    """Raise HeadwayError where a tap does not lie below the last layer."""
    last = dims.num_hidden_layers - 1
    if taps == "all":
        if last < 1:
            raise HeadwayError(
                f"{label}: 'all' taps nothing in a model of {dims.num_hidden_layers} layer; "
                "accepted are models of at least 2 layers, or the tap 0 (the embedding)"
            )
        return
    for tap in taps:
        if not 0 <= int(tap) <= last:
            raise HeadwayError(
                f"{label}: {tap} is beyond the depth; accepted are 0 (the embedding) to {last} in "
                f"a model of {dims.num_hidden_layers} layers"
            )
    if not taps:
        raise HeadwayError(f"{label}: the list is empty; accepted is 'all' or at least one layer")


def tap_indices(taps: Taps, dims: Dims) -> tuple[int, ...]:
    """The taps as numbers; 'all' is every layer but the last."""
    return tuple(range(1, dims.num_hidden_layers)) if taps == "all" else tuple(int(t) for t in taps)
