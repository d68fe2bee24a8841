"""Tables and figures of the studies of shortcuts: losses, attention over depth and position, and
what each depth is worth."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from headway.report.cells import Table
from headway.report.figures import CurveText, Figure, as_data
from headway.report.marks import Mark, mark_figure
from headway.report.style import layout
from headway.report.words import loss as loss_words
from headway.studies.claims import Result, Results
from headway.studies.estimates import mean_of, paired
from headway.studies.language_models.rates import best_rate, compared, loss_figures, measured
from headway.studies.shortcuts.arms import KINDS, PLAIN, Condition
from headway.studies.shortcuts.maps import distance_bins

SCALE = "Cividis"
"""Colours that differ in lightness too: the same to colour-blind eyes."""
ROW, FRAME = 34, 170
"""Pixels of a depth, and of what stands around a map."""
WORTH = CurveText(
    "worth",
    "Does the loss follow the attention?",
    "One mark a layer and seed: it is taken out of the softmax of the trained model.",
    "share of the attention",
    "nats per token more without the layer",
)


def loss_tables(conditions: Sequence[Condition], results: Results) -> list[Table]:
    """Losses, sizes and operations of all arms, one table a condition."""
    made = ((condition, _rows(condition, results)) for condition in conditions)
    return [
        Table(
            title=f"Loss on the test split, nats per token: {condition.name}",
            columns=(
                "arm", "loss", "less plain's [95 % interval]", "seeds", "rate", "parameters",
                "operations a token",
            ),
            rows=tuple(rows),
        )
        for condition, rows in made
        if rows
    ]  # fmt: skip


def _rows(condition: Condition, results: Results) -> list[tuple[str, ...]]:
    plain = measured(results, condition.arm(PLAIN), "loss")
    rows: list[tuple[str, ...]] = []
    for arm in map(condition.arm, KINDS):
        if not (runs := compared(results, arm)):
            continue
        losses = measured(results, arm, "loss")
        mean, less = mean_of(losses), paired(losses, plain)
        shown = mean.told(".4f") if mean else ""
        compares = less.told("+.4f") if less else ""
        rows.append(
            (
                arm,
                shown or loss_words(next(iter(losses.values()), None)),
                "" if arm == condition.arm(PLAIN) else compares,
                str(len(runs)),
                f"{best_rate(results, arm):g}",
                f"{runs[0].measures['parameters']:,}",
                f"{runs[0].measures.get('operations', 0):,}",
            )
        )
    return rows


def shortcut_figures(conditions: Sequence[Condition], results: Results) -> list[Figure]:
    """Losses, maps of attention and the worth of each depth, condition by condition."""
    arms = [condition.arm(kind) for kind in KINDS for condition in conditions]
    drawn: list[Figure] = []
    for condition in conditions:
        drawn += loss_figures(arms, results, condition=condition.name, own=condition.arms)
        drawn += [figure for arm in condition.arms if (figure := depth_figure(arm, results))]
    worth = worth_figure(arms, results)
    return [*drawn, worth] if worth else drawn


def _mapped(arm: str, results: Results) -> list[Result]:
    return [r for r in compared(results, arm) if "map" in r.measures]


def depth_figure(arm: str, results: Results) -> Figure | None:
    """Attention of the last layer by depth and distance, a mean over seeds; None without any."""
    import plotly.graph_objects as go

    if not (runs := _mapped(arm, results)):
        return None
    maps = [r.measures["map"] for r in runs]
    mean = [[fmean(cells) for cells in zip(*row, strict=True)] for row in zip(*maps, strict=True)]
    taps = [f"layer {tap}" for tap in runs[0].measures["taps"]]
    names = distance_bins(1 << (len(mean[0]) - 1))
    look = layout("positions back", "", FRAME + ROW * len(taps))
    look["xaxis"] |= {"type": "category", "showgrid": False, "fixedrange": True, "tickangle": -45}
    look["yaxis"] |= {"showgrid": False, "fixedrange": True}
    trace = go.Heatmap(
        z=mean,
        x=names,
        y=taps,
        zmin=0,
        colorscale=SCALE,
        xgap=1,
        ygap=1,
        hovertemplate="%{y}, %{x} back<br><b>%{z:.4f}</b> of the attention<extra></extra>",
        colorbar={
            "orientation": "h", "thickness": 12, "len": 1.0, "y": 1.0, "yanchor": "bottom",
            "title": {"text": "share of the attention", "side": "top"}, "nticks": 6,
        },
    )  # fmt: skip
    return Figure(
        f"depth-{arm}",
        f"Where the last layer looks: {arm}",
        "Mean over heads, tokens of the test split and seeds. Cells further back gather more "
        "positions; all together are 1.",
        as_data(go.Figure(trace, layout=look)),
    )


def worth_figure(arms: Sequence[str], results: Results) -> Figure | None:
    """What the loss is more without a tap, over the attention that it has; None without any."""
    there = [arm for arm in arms if results.of([arm])]
    marks = {arm: [m for r in _mapped(arm, results) for m in _worth(r)] for arm in there}
    return mark_figure(WORTH, marks, there) if any(marks.values()) else None


def _worth(result: Result) -> list[Mark]:
    found = result.measures
    if "removed" not in found:
        return []
    taps = zip(found["taps"], found["mass"], found["removed"], strict=True)
    return [
        (mass, more, f"layer {tap}<br>{mass:.3f} of the attention, {more:+.4f} nats without it")
        for tap, mass, more in taps
    ]
