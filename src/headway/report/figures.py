"""The figures of the page: plotly figures as plain data, grouped by the section they stand in."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headway.report import curves
from headway.report.arm_summary import ArmSummary
from headway.report.curves import OVER_SEEDS, Band
from headway.report.results import Results
from headway.report.statistics import CONFIDENCE
from headway.report.style import ArmStyle, arm_styles, label, layout, tick_label
from headway.report.summary import Summary

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

CURVE_HEIGHT = 340
MOST_MARKERS = 24
"""Points of a curve up to which each is marked."""
ROW_HEIGHT = 58
FOREST_FRAME = 90


@dataclass(frozen=True)
class Figure:
    """A plot with its title and the sentence that says how to read it.

    `plot` is what plotly.js draws: `data` and `layout`. Each trace's `meta` is the number of its
    arm in the order of the settings, by which the legend shows and hides it.
    """

    id: str
    title: str
    note: str
    plot: Mapping[str, Any]


@dataclass(frozen=True)
class CurveText:
    """The words around a set of curves."""

    id: str
    title: str
    note: str
    x: str
    y: str


VALIDATION = CurveText(
    "validation-loss",
    "Validation loss",
    OVER_SEEDS,
    "training tokens",
    "nats per token",
)
DIFFERENCE = CurveText(
    "difference-over-training",
    "Validation loss less vanilla's",
    "Paired by seed at equal tokens; below zero is better than vanilla.",
    "training tokens",
    "nats per token",
)
TRAINING = CurveText(
    "training-loss",
    "Training loss",
    "As logged, one batch a point.",
    "training tokens",
    "nats per token",
)
GAIN = CurveText(
    "in-context-gain",
    "In-context gain",
    "Loss at token 50 less the loss late in the context; above zero, context helps.",
    "optimiser step",
    "nats per token",
)
REPEAT = CurveText(
    "repeat-accuracy",
    "Repeated random sequences",
    "Fraction of tokens predicted right in the second half of a random sequence said twice.",
    "optimiser step",
    "accuracy (0 to 1)",
)
PREFIX = CurveText(
    "prefix-score",
    "Best prefix-matching head",
    "Largest attention of any head to the token after the last occurrence of the current one.",
    "optimiser step",
    "score (0 to 1)",
)
POSITION = CurveText(
    "position-loss",
    "Loss by position in the context",
    "At the last evaluation of each finished run.",
    "tokens of context read",
    "nats per token",
)


def result_figures(summary: Summary) -> list[Figure]:
    """The paired differences, if any arm has one."""
    arms = [arm for arm in summary["arms"].values() if arm["difference_mean"] is not None]
    return [forest(arms, list(summary["arms"]))] if arms else []


def loss_figures(results: Results) -> list[Figure]:
    """Losses over training."""
    return drawn(
        results,
        (VALIDATION, curves.validation_bands(results)),
        (DIFFERENCE, curves.difference_bands(results)),
        (TRAINING, curves.training_bands(results)),
    )


def context_figures(results: Results) -> list[Figure]:
    """When the ability to learn in context appears, and what it gives at each position."""
    figures = drawn(
        results,
        (GAIN, curves.gain_bands(results)),
        (REPEAT, curves.repeat_bands(results)),
        (PREFIX, curves.prefix_bands(results)),
    )
    return figures + position_figures(results)


def position_figures(results: Results) -> list[Figure]:
    """Loss by position, on a logarithmic axis."""
    bands = curves.position_bands(results)
    if not bands:
        return []
    axis = power_axis([x for band in bands.values() for x in band.x])
    return [curve_figure(POSITION, bands, results.arms, axis)]


def power_axis(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis with a tick at every power of four."""
    return tick_axis(4**power for power in range(math.ceil(math.log(max(values), 4)) + 1))


def tick_axis(values: Iterable[float]) -> dict[str, Any]:
    """A logarithmic axis with a tick at each of these values, and nowhere else."""
    ticks = sorted(set(values))
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:,.10g}" for tick in ticks]}


def drawn(results: Results, *sets: tuple[CurveText, Mapping[str, Band]]) -> list[Figure]:
    """A figure for each set of bands that has any."""
    return [curve_figure(text, bands, results.arms) for text, bands in sets if bands]


def curve_figure(
    text: CurveText,
    bands: Mapping[str, Band],
    arms: Sequence[str],
    x_axis: Mapping[str, Any] | None = None,
) -> Figure:
    """Mean curves with seed bands, one colour an arm; `x_axis` adds to the layout of the axis."""
    import plotly.graph_objects as go

    styles = arm_styles(arms)
    look = layout(text.x, text.y, CURVE_HEIGHT)
    look["xaxis"] |= x_axis or {}
    look["yaxis"] |= {"zeroline": text is DIFFERENCE, "zerolinewidth": 2}
    figure = go.Figure(layout=look)
    shown = [arm for arm in arms if arm in bands]
    for arm in shown:
        figure.add_trace(go.Scatter(**band_trace(bands[arm], styles[arm], arms.index(arm))))
    for arm in shown:
        figure.add_trace(go.Scatter(**mean_trace(arm, bands[arm], styles[arm], arms.index(arm))))
    return Figure(text.id, text.title, text.note, as_data(figure))


def band_trace(band: Band, style: ArmStyle, number: int) -> dict[str, Any]:
    """The area between the least and the largest seed."""
    return {
        "x": [*band.x, *reversed(band.x)],
        "y": [*band.high, *reversed(band.low)],
        "mode": "lines",
        "line": {"width": 0},
        "fill": "toself",
        "fillcolor": style.shade,
        "hoverinfo": "skip",
        "meta": number,
    }


def mean_trace(arm: str, band: Band, style: ArmStyle, number: int) -> dict[str, Any]:
    """The mean line, with markers where the points are few."""
    few = len(band.x) <= MOST_MARKERS
    return {
        "x": list(band.x),
        "y": list(band.mean),
        "customdata": list(zip(band.low, band.high, band.seeds, strict=True)),
        "mode": "lines+markers" if few else "lines",
        "line": {"color": style.colour, "dash": style.dash, "width": 2},
        "marker": {"symbol": style.marker, "size": 6, "color": style.colour},
        "hovertemplate": (
            f"<b>{label(arm)}</b><br>at %{{x:,}}: %{{y:.4f}}<br>"
            "seeds %{customdata[0]:.4f} to %{customdata[1]:.4f} (%{customdata[2]})<extra></extra>"
        ),
        "meta": number,
    }


def forest(compared: Sequence[ArmSummary], arms: Sequence[str]) -> Figure:
    """Mean and interval of the paired difference of each arm, with a dot for every seed."""
    import plotly.graph_objects as go

    styles = arm_styles(arms)
    height = FOREST_FRAME + ROW_HEIGHT * len(compared)
    look = layout("nats per token", "", height)
    look["yaxis"] |= {
        "tickvals": list(range(len(compared))),
        "ticktext": [tick_label(arm["arm"]) for arm in compared],
        "range": [len(compared) - 0.4, -0.6],
        "showgrid": False,
        "ticks": "",
        "fixedrange": True,
    }
    look["xaxis"] |= {"zeroline": True, "zerolinewidth": 2, "nticks": 6}
    figure = go.Figure(layout=look)
    for row, arm in enumerate(compared):
        number, style = arms.index(arm["arm"]), styles[arm["arm"]]
        figure.add_trace(go.Scatter(**seed_trace(arm, style, row, number)))
        figure.add_trace(go.Scatter(**interval_trace(arm, style, row, number)))
    return Figure(
        "paired-difference",
        "Difference of final validation loss to vanilla",
        f"Large mark: mean over paired seeds with its {100 * CONFIDENCE:.0f}% t-interval. "
        "Small marks: single seeds. Left of the zero line the loss is lower than vanilla's. "
        "An interval that crosses the zero line does not tell the arm from vanilla.",
        as_data(figure),
    )


def seed_trace(arm: ArmSummary, style: ArmStyle, row: int, number: int) -> dict[str, Any]:
    """A dot for every seed, a little below the mean."""
    seeds = list(arm["seed_differences"])
    return {
        "x": list(arm["seed_differences"].values()),
        "y": [row + 0.24] * len(seeds),
        "customdata": [int(seed) for seed in seeds],
        "mode": "markers",
        "marker": {"color": style.colour, "size": 7, "opacity": 0.75},
        "hovertemplate": (
            f"<b>{label(arm['arm'])}</b><br>seed %{{customdata}}: %{{x:+.4f}}<extra></extra>"
        ),
        "meta": number,
    }


def interval_trace(arm: ArmSummary, style: ArmStyle, row: int, number: int) -> dict[str, Any]:
    """The mean with its interval; without an interval only the mean."""
    mean, low, high = arm["difference_mean"], arm["difference_low"], arm["difference_high"]
    trace: dict[str, Any] = {
        "x": [mean],
        "y": [row - 0.08],
        "mode": "markers",
        "marker": {"symbol": "diamond", "size": 12, "color": style.colour},
        "hovertemplate": (
            f"<b>{label(arm['arm'])}</b><br>mean %{{x:+.4f}}<br>{arm['verdict']}<extra></extra>"
        ),
        "meta": number,
    }
    if mean is not None and low is not None and high is not None:
        trace["error_x"] = {
            "type": "data",
            "symmetric": False,
            "array": [high - mean],
            "arrayminus": [mean - low],
            "color": style.colour,
            "thickness": 2,
            "width": 6,
        }
    return trace


def as_data(figure: "PlotlyFigure") -> dict[str, Any]:
    """A checked plotly figure as plain JSON data."""
    data: dict[str, Any] = json.loads(figure.to_json())
    return data
