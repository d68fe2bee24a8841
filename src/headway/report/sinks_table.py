"""A profile in words and as a table: one row a layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from headway.report.cells import Table
from headway.report.sinks_data import kept_positions, norm_ratios, values_of, visible
from headway.report.tables import plain_lines, rich_table
from headway.report.words import MISSING, percent
from headway.waiver.profile import SinkProfile

if TYPE_CHECKING:
    from rich.console import Console

    from headway.report.sinks_page import SinkReport
    from headway.waiver.verdict import Verdict

SMALL = 0.5
"""Value ratio up to which the values of a sink are called small (no literature default)."""
MOST_TOLD = 3
"""Sinks that are named in sentences; the page and the files have all."""
COLUMNS = (
    "layer",
    "strongest sink",
    "heads with it",
    "received there",
    "value ratio",
    "key ratio",
    "hidden ratio",
    "massive activations",
    "entropy (nats)",
    "row mass",
)
LEGEND = (
    "Strongest sink: the position that is a sink in most heads, else the one that receives most; "
    "its token is that of the first sample. Heads with it: share of heads and samples. Received "
    "there: attention in the head that gives it most. Ratios: norm there over the median of the "
    "positions, of values in the heads that have the sink, of their keys, of hidden states behind "
    "the layer. Massive activations: a sample, above 100 and above 1,000 times the median. "
    "Entropy and row mass: means over rows; a mass below 1 is attention that no token receives. "
    "Why: what the interventions say about the layer."
)


@dataclass(frozen=True)
class LayerRow:
    """One attention.

    Attributes:
        position: that is a sink in most heads; without a sink, that which receives most.
        token: there, in the first sample.
        rate: share of heads and samples in which it is a sink.
        received: attention of the head that gives it most.
        value_ratio: value norm over the median, in the heads with the sink.
        key_ratio: the same of keys.
        hidden_ratio: norm of the hidden state behind the layer over the median.
        massive: massive activations a sample.
        entropy: of the rows, nats.
        mass: of the rows.
    """

    position: int
    token: str
    rate: float
    received: float
    value_ratio: float
    key_ratio: float
    hidden_ratio: float
    massive: float
    entropy: float
    mass: float


def layer_rows(profile: SinkProfile) -> list[LayerRow]:
    """What the table shows, as numbers."""
    values, keys = norm_ratios(values_of(profile)), norm_ratios(profile.key_norm)
    hidden = norm_ratios(profile.hidden_norm)
    rows = []
    for layer in range(len(profile.layers)):
        rate = profile.sink_rate[layer, :, : profile.searched].mean(0)
        found = rate if rate.max() > 0 else profile.received[layer, :, : profile.searched].mean(0)
        at = int(found.argmax())
        weight = profile.sink_rate[layer, :, at]
        rows.append(
            LayerRow(
                position=at,
                token=visible(profile.token_texts[at]),
                rate=float(rate[at]),
                received=float(profile.received[layer, :, at].max()),
                value_ratio=_weighted(values[layer, :, at], weight),
                key_ratio=_weighted(keys[layer, :, at], weight),
                hidden_ratio=float(hidden[layer, at]),
                massive=float(profile.massive_count[layer]),
                entropy=float(profile.entropy[layer].mean()),
                mass=float(profile.mass[layer].mean()),
            )
        )
    return rows


def _weighted(ratios: Tensor, weight: Tensor) -> float:
    weight = weight if bool(weight.sum() > 0) else weight + 1
    return float((ratios * weight).sum() / weight.sum())


def sinks_table(profile: SinkProfile, verdict: Verdict | None = None) -> Table:
    """One row a layer, with its class where there is a verdict."""
    rows: list[tuple[str, ...]] = [
        layer_cells(number, row) for number, row in enumerate(layer_rows(profile))
    ]
    columns: tuple[str, ...] = COLUMNS
    if verdict is not None:
        columns = (*COLUMNS, "why")
        rows = [(*row, kind) for row, kind in zip(rows, verdict.layers, strict=True)]
    return Table(
        title=(
            f"Sinks of {profile.model} (attention above {profile.threshold:g}; "
            f"{profile.samples} samples of {profile.tokens:,} tokens)"
        ),
        columns=columns,
        rows=tuple(rows),
    )


def layer_cells(number: int, row: LayerRow) -> tuple[str, ...]:
    """A row as text."""
    place = f"{row.position} {row.token}"
    return (
        str(number),
        place if row.rate else f"none ({place})",
        _share(row.rate),
        f"{row.received:.2f}",
        f"{row.value_ratio:.2f}",
        f"{row.key_ratio:.2f}",
        f"{row.hidden_ratio:.2f}",
        f"{row.massive:.3g}",
        f"{row.entropy:.2f}",
        f"{row.mass:.3f}",
    )


def massive_table(profile: SinkProfile) -> Table | None:
    """The largest activations of each layer, if there are any."""
    rows = [
        (str(layer), str(m.position), str(m.channel), f"{m.value:,.0f}")
        for layer, found in enumerate(profile.massive)
        for m in found
    ]
    if not rows:
        return None
    title = "Largest massive activations (hidden state behind the layer, any sample)"
    return Table(title, ("layer", "position", "channel", "value"), tuple(rows))


def _share(value: float) -> str:
    return percent(value).lstrip("+") or MISSING


def headline(profile: SinkProfile) -> str:
    """Where the sinks are, in one sentence."""
    found = profile.sinks()
    if not found:
        return (
            f"No position is a sink: none receives more than {profile.threshold:g} of the "
            "attention in 1 % of the heads."
        )
    metric = profile.sink_metric()
    told = [
        f"position {p} ({_share(float(metric[p]))} of heads and samples)" for p in found[:MOST_TOLD]
    ]
    more = f" and {len(found) - MOST_TOLD} more" if len(found) > MOST_TOLD else ""
    return f"Attention sinks at {', '.join(told)}{more}."


def remarks(profile: SinkProfile) -> list[str]:
    """What has to be known to read the numbers: position 0, the values of sinks, rows below 1."""
    told = [first_words(profile)]
    sinks, waivers = profile.sinks(), profile.waivers()
    if sinks:
        strongest, ratio = sinks[0], float(profile.value_ratio()[sinks[0]])
        size = "small" if strongest in waivers else "not small"
        told.append(
            f"The values of position {strongest} are {size} where it is a sink: {ratio:.2f} times "
            f"the median of the positions (small: up to {SMALL:g})."
        )
    lost = 1 - profile.mass.mean(-1)
    if float(lost.max()) > 1e-3:
        layer = int(lost.argmax())
        told.append(
            f"Rows sum to less than one: in layer {layer}, {_share(float(lost[layer]))} of the "
            "attention goes to no token (a learned sink, or softmax off by one)."
        )
    if len(profile.token_texts) > len(kept := kept_positions(profile)):
        told.append(
            f"{len(kept):,} of {profile.tokens:,} positions are kept in page and files: the first, "
            "the sinks, those where heads look most, and others at even distances; sinks, medians "
            "and tables come from all."
        )
    return told


def first_words(profile: SinkProfile) -> str:
    """What stands at position 0, and who put it there."""
    first = profile.first
    added = {
        True: "it was put there as the token that begins a text",
        False: "no token that begins a text was put there",
        None: "who made the ids put it there",
    }[first.bos_added]
    if first.text is None:
        what = f"the token {first.ids[0]}" if len(first.ids) == 1 else "different tokens"
        return f"Position 0 holds {what} (no tokenizer to say which); {added}."
    kind = "a special token" if first.special else "no special token"
    name = visible(first.text)
    if len(first.ids) == 1:
        return f"Position 0 holds {name!r} in every sample, {kind}; {added}."
    return (
        f"Position 0 holds {len(first.ids)} different tokens, most often {name!r}, {kind}; {added}."
    )


def print_report(report: SinkReport, folder: Path, console: Console) -> None:
    """Print sentences and tables: boxes on a terminal, aligned plain lines elsewhere."""

    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)

    profile = report.profile
    line(" ".join([headline(profile), *remarks(profile)]))
    line("")
    table = sinks_table(profile, report.verdict)
    if console.is_terminal:
        console.print(rich_table(table))
    else:
        for row in (f"{table.title}:", *plain_lines(table)):
            line(row)
    if report.verdict is not None:
        line(f"\n{report.verdict.words}")
    if report.battery is not None:
        for sentence in (
            *(test.words for test in report.battery.waivers[:MOST_TOLD]),
            *report.battery.skipped,
        ):
            line(sentence)
    line(f"\nThe page: {folder / 'report.html'}")
