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


def _told(result: Mapping[str, Any]) -> str:
    return f"{result['outcome']} at step {result['trained_steps']:,}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
