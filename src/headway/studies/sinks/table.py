"""The table of a study of growing sinks: what each arm ends with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headway.report import words
from headway.report.cells import Table

COLUMNS = (
    "arm", "learning rate", "loss", "perplexity", "sink at 0", "strongest", "value norm",
    "key norm", "hidden norm", "massive ratio", "largest", "massive", "entropy", "row mass",
    "verdict",
)  # fmt: skip
READING = (
    "Test loss in nats per token. Sink at 0: share of layers, heads and windows of 64 tokens in "
    "which position 0 receives more than 0.3 (Gu's metric); strongest: the position where that "
    "share is largest. Value, key and hidden norm: position 0 over the median of the positions, "
    "mean over heads, hidden states in the layer where it is most. Massive ratio: largest "
    "activation over the median; massive: activations above 100 and above 1,000 medians a window. "
    "Entropy in nats. Row mass: what a query spends on tokens."
)
"""How to read it."""


EFFECTS = {
    "repeat_kept": "one token repeated",
    "equal_kept": "positions equal",
    "swap_moved": "swapped position: moved",
    "isolate_moved": "isolated token: there",
    "replace_kept": "token replaced",
    "token_moved": "token exchanged: moved",
    "transplant_moved": "state transplanted: there",
}
"""Effects that the second table shows, by key, and what their columns are called."""
EFFECTS_READING = (
    "Sink after the intervention over the sink before, at its place or, where a column says so, at "
    "the new one, with 95 % bootstrap intervals over 100 windows."
)
"""How to read it."""


def sink_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row an arm."""
    return Table(
        title="Sinks at the end of training",
        columns=COLUMNS,
        rows=tuple(_row(arm, result) for arm, result in results.items()),
    )


def _row(arm: str, result: Mapping[str, Any]) -> tuple[str, ...]:
    final = result["final"]
    name = arm if result["outcome"] == "done" else f"{arm} ({_told(result)})"
    rate = f"{result['learning_rate']:g}"
    if final is None:
        return (name, rate, *[words.MISSING] * (len(COLUMNS) - 2))
    return (
        name,
        rate,
        words.loss(final["loss"]),
        f"{final['perplexity']:.2f}",
        _share(final["sink_rate"]),
        f"{final['strongest']} ({_share(final['strongest_rate'])})",
        words.ratio(final["value_ratio"]),
        words.ratio(final["key_ratio"]),
        words.ratio(final["hidden_ratio"]),
        f"{final['massive_ratio']:,.0f}x",
        f"{final['largest']:,.1f}",
        f"{final['massive_count']:.2f}",
        f"{final['entropy']:.2f}",
        f"{final['mass']:.3f}",
        result["verdict"]["kind"],
    )


def effect_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """What the interventions leave of each arm's sink, one row an arm; arms without a sink above
    the verdict's floor are left out."""
    return Table(
        title="What interventions leave of the sink",
        columns=("arm", "sink at", "share of heads", *EFFECTS.values(), "verdict"),
        rows=tuple(
            _effect_row(arm, result["battery"], result["verdict"]["kind"])
            for arm, result in results.items()
            if result["final"] is not None and result["verdict"]["kind"] != "none"
        ),
    )


def _effect_row(arm: str, battery: Mapping[str, Any], kind: str) -> tuple[str, ...]:
    pooled = battery["pooled"]
    told = (_interval(pooled[key]) if key in pooled else words.MISSING for key in EFFECTS)
    place = words.MISSING if battery["origin"] is None else str(battery["origin"])
    if battery["placed"] is not None:
        place = f"token {battery['placed']}"
    return (arm, place, _share(battery["total"]["value"]), *told, kind)


def _interval(effect: Mapping[str, Any]) -> str:
    return f"{effect['value']:.3f} [{effect['low']:.3f}, {effect['high']:.3f}]"


def _told(result: Mapping[str, Any]) -> str:
    return f"{result['outcome']} at step {result['trained_steps']:,}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
