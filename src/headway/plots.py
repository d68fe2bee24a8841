"""Figures of sinks for notebooks: `headway.plots.sink_map(profile).show()`. They need plotly.

The page of `headway sinks` draws the same figures.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from headway.errors import HeadwayError
from headway.report.log_ticks import round_ticks
from headway.report.sinks_data import (
    kept_positions,
    norm_ratios,
    strongest,
    values_of,
    visible,
)
from headway.report.style import BASELINE_COLOUR, COLOURS, MARKERS, label, layout
from headway.waiver.profile import SinkProfile

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from headway.waiver.battery import Battery
    from headway.waiver.effects import Effect

Measure = Literal["received", "sink_rate", "value_ratio", "contribution"]

MEASURES: Mapping[str, str] = {
    "received": "attention received",
    "sink_rate": "share of samples with a sink",
    "value_ratio": "value norm / median",
    "contribution": "share of what the head writes",
}
"""What a map can show of a position, with its title."""
SCALE = "Cividis"
"""Colours that differ in lightness too: the same to colour-blind eyes."""
BLUE, ORANGE, GREEN, PINK = COLOURS[:4]
CELL, MAP_FRAME, HIGHEST_MAP = 26, 150, 760
FOREST_ROW, FOREST_LINE, FOREST_FRAME, FOREST_LETTERS = 20, 15, 80, 44
WIDEST_EFFECT = 2.5
"""Effects above it stand at the edge of the forest, as triangles."""
BARS = 160
"""Positions up to which attention is drawn as bars."""


def sink_map(
    profile: SinkProfile, position: int | None = None, measure: Measure = "received"
) -> Figure:
    """Layers by heads: how strong a sink a position is.

    Args:
        profile: of a model.
        position: of the token; None: in each head the one that receives most.
        measure: 'received', 'sink_rate', 'value_ratio' or 'contribution' (see `SinkProfile`).

    Raises:
        HeadwayError: a position or measure that is not there.
    """
    import plotly.graph_objects as go

    if measure not in get_args(Measure):
        accepted = ", ".join(get_args(Measure))
        raise HeadwayError(f"measure: value is {measure!r}; accepted are {accepted}")
    if position is not None and not 0 <= position < profile.tokens:
        raise HeadwayError(f"position: value is {position}; accepted are 0 to {profile.tokens - 1}")
    most = strongest(profile)
    where = most if position is None else torch.full_like(most, position)
    values = measured(profile, measure).gather(-1, where[..., None]).squeeze(-1)
    layers, heads = values.shape
    look = layout("head", "layer", min(MAP_FRAME + CELL * layers, HIGHEST_MAP))
    look["xaxis"] |= {"dtick": _step(heads), "showgrid": False, "fixedrange": True}
    look["yaxis"] |= {
        "autorange": "reversed", "dtick": _step(layers), "showgrid": False, "fixedrange": True,
    }  # fmt: skip
    trace = go.Heatmap(
        z=values.tolist(),
        customdata=[
            [[p, label(visible(profile.token_texts[p]))] for p in row] for row in where.tolist()
        ],
        zmin=0,
        zmax=1 if measure != "value_ratio" else 2,
        colorscale=SCALE,
        xgap=1,
        ygap=1,
        hovertemplate=(
            "layer %{y}, head %{x}<br>position %{customdata[0]}: %{customdata[1]}<br>"
            "<b>%{z:.3g}</b><extra></extra>"
        ),
        colorbar={
            "orientation": "h",
            "thickness": 12,
            "len": 1.0,
            "y": 1.0,
            "yanchor": "bottom",
            "title": {"text": MEASURES[measure], "side": "top"},
            "nticks": 6,
        },
    )
    return go.Figure(trace, layout=look)


def measured(profile: SinkProfile, measure: Measure) -> Tensor:
    """`(L, H, T)`, what a map shows."""
    if measure == "value_ratio":
        return norm_ratios(values_of(profile))
    found: Tensor = getattr(profile, measure)
    return found


def head_profile(profile: SinkProfile, layer: int, head: int) -> Figure:
    """One head along the tokens: what they receive, and below it how large their values are.

    Norms are shown over their median along the tokens, which is 1; a waiver has a high bar and a
    small value. A long profile is drawn at chosen positions (see `kept_positions`).

    Args:
        profile: of a model.
        layer: number of the attention.
        head: number of the query head.

    Raises:
        HeadwayError: a layer or head that is not there.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    layers, heads = profile.received.shape[:2]
    for name, value, count in (("layer", layer, layers), ("head", head, heads)):
        if not 0 <= value < count:
            raise HeadwayError(f"{name}: value is {value}; accepted are 0 to {count - 1}")
    kept = kept_positions(profile)
    tokens = [label(visible(profile.token_texts[i])) for i in kept]
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.07, row_heights=[0.5, 0.5]
    )
    figure.add_trace(_received(profile, layer, head, kept, tokens), row=1, col=1)
    for trace in _norms(profile, layer, head, kept, tokens):
        figure.add_trace(trace, row=2, col=1)
    look = layout("", "attention received", 470)
    below = layout("position of the token", "norm / median", 470)
    figure.update_layout(
        {name: value for name, value in look.items() if not name.endswith("axis")}
        | {"showlegend": True, "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom"}}
    )
    figure.update_layout(
        yaxis=look["yaxis"] | {"range": [0, 1]},
        yaxis2=below["yaxis"] | {"rangemode": "tozero"},
        xaxis={"ticks": "", "showticklabels": False, "zeroline": False},
        xaxis2=below["xaxis"],
    )
    figure.add_hline(
        y=profile.threshold,
        row=1,
        col=1,
        line={"dash": "dot", "width": 1.5, "color": ORANGE},
        annotation={"text": "threshold", "font": {"size": 11}},
        annotation_position="top right",
    )
    figure.add_hline(y=1, row=2, col=1, line={"dash": "dot", "width": 1, "color": "#7d828a"})
    return go.Figure(figure)


def _received(
    profile: SinkProfile, layer: int, head: int, kept: list[int], tokens: list[str]
) -> Any:
    import plotly.graph_objects as go

    shared: dict[str, Any] = {
        "x": kept,
        "y": profile.received[layer, head, kept].tolist(),
        "customdata": tokens,
        "name": "attention received",
        "hovertemplate": "position %{x}: %{customdata}<br>receives <b>%{y:.3g}</b><extra></extra>",
    }
    if len(kept) == profile.tokens <= BARS:
        return go.Bar(**shared, marker={"color": BLUE})
    return go.Scatter(
        **shared, mode="lines+markers", line={"color": BLUE, "width": 1.5}, marker={"size": 4}
    )


def _norms(
    profile: SinkProfile, layer: int, head: int, kept: list[int], tokens: list[str]
) -> list[Any]:
    import plotly.graph_objects as go

    looks = (
        ("value", profile.value_norm, ORANGE, "solid", "circle"),
        ("value behind the output projection", profile.written_norm, GREEN, "dash", "square"),
        ("key", profile.key_norm, PINK, "dot", "diamond"),
    )
    traces = []
    for name, norms, colour, dash, symbol in looks:
        own = norms[layer, head]
        if bool(own.isnan().any()):
            continue
        traces.append(
            go.Scatter(
                x=kept,
                y=norm_ratios(own)[kept].tolist(),
                customdata=list(zip(tokens, own[kept].tolist(), strict=True)),
                name=name,
                mode="lines+markers" if len(kept) <= BARS else "lines",
                line={"color": colour, "dash": dash, "width": 1.5},
                marker={"symbol": symbol, "size": 5, "color": colour},
                hovertemplate=(
                    f"position %{{x}}: %{{customdata[0]}}<br>{name}: <b>%{{y:.3g}}</b> of the "
                    "median, norm %{customdata[1]:.4g}<extra></extra>"
                ),
            )
        )
    return traces


def hidden_norms(profile: SinkProfile) -> Figure:
    """The norm of hidden states after each layer: at position 0, at the sinks, elsewhere.

    Args:
        profile: of a model.
    """
    import plotly.graph_objects as go

    look = layout("layer", "norm of the hidden state", 360)
    look |= {"showlegend": True, "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom"}}
    norms = profile.hidden_norm
    least, most = (max(float(norm), 1e-6) for norm in (norms.min(), norms.max()))
    look["yaxis"] |= {"type": "log", **round_ticks(least, most)}
    layers = list(range(len(norms)))
    look["xaxis"] |= {"dtick": _step(len(norms))}
    shown = sorted({0, *profile.sinks()[:2]})
    lines = [
        (f"position {p}: {label(visible(profile.token_texts[p]))}", norms[:, p], colour, "solid")
        for p, colour in zip(shown, (BLUE, ORANGE, PINK), strict=False)
    ]
    lines.append(("median of all positions", norms.median(-1).values, GREEN, "dash"))
    figure = go.Figure(layout=look)
    for (name, values, colour, dash), symbol in zip(lines, MARKERS, strict=False):
        figure.add_scatter(
            x=layers,
            y=values.tolist(),
            name=name,
            mode="lines+markers",
            line={"color": colour, "dash": dash},
            marker={"symbol": symbol, "size": 7},
            hovertemplate=f"{name}<br>layer %{{x}}: <b>%{{y:.4g}}</b><extra></extra>",
        )
    return figure


def battery_forest(battery: Battery) -> Figure:
    """The effect of each intervention with its 95 % interval over samples.

    1: the place that was looked at is as strong a sink as the original; 0: it is none. Controls,
    where nothing is expected, are grey.

    Args:
        battery: of `run_battery`.
    """
    import plotly.graph_objects as go

    rows = [effect for effect in battery.effects if math.isfinite(effect.total.value)]
    texts = [[label(line) for line in textwrap.wrap(e.words, FOREST_LETTERS)] for e in rows]
    # Where each mark stands, in pixels from the top: its words stand above it.
    places = list(itertools.accumulate(FOREST_ROW + FOREST_LINE * len(lines) for lines in texts))
    height = max([0, *places]) + FOREST_ROW
    look = layout("sink there / original sink", "", FOREST_FRAME + height)
    tests = [effect.test for effect in rows]
    firsts = [i for i, test in enumerate(tests) if i == 0 or tests[i - 1] != test]
    most = min(WIDEST_EFFECT, max([1.1, *(effect.total.high for effect in rows)]))
    look["yaxis"] |= {
        "range": [height, 0],
        # Rows of one test stand together: the first of them names it.
        "tickvals": [places[i] for i in firsts],
        "ticktext": [tests[i] for i in firsts],
        "showgrid": False,
        "ticks": "",
        "fixedrange": True,
    }
    look["xaxis"] |= {"range": [-0.05 * most, 1.05 * most], "nticks": 6}
    figure = go.Figure(layout=look)
    for name, colour, symbol, chosen in (
        ("effect", BLUE, "diamond", [i for i, e in enumerate(rows) if not _control(e)]),
        ("control", BASELINE_COLOUR, "circle-open", [i for i, e in enumerate(rows) if _control(e)]),
    ):
        found = [rows[i].total for i in chosen]
        values, lows, highs = (
            [min(bound, WIDEST_EFFECT) for bound in bounds]
            for bounds in (
                [e.value for e in found], [e.low for e in found], [e.high for e in found]
            )
        )  # fmt: skip
        figure.add_scatter(
            x=values,
            y=[places[i] for i in chosen],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - value for high, value in zip(highs, values, strict=True)],
                "arrayminus": [value - low for low, value in zip(lows, values, strict=True)],
                "color": colour,
                "thickness": 2,
                "width": 4,
            },
            customdata=[[_told(rows[i]), str(rows[i].total)] for i in chosen],
            name=name,
            mode="markers",
            marker={
                "symbol": [symbol if e.value <= WIDEST_EFFECT else "triangle-right" for e in found],
                "size": 9,
                "color": colour,
            },
            hovertemplate="%{customdata[0]}<br><b>%{customdata[1]}</b><extra></extra>",
        )
    for line in (0, 1):
        figure.add_vline(x=line, line={"width": 1, "dash": "dot", "color": BASELINE_COLOUR})
    for place, lines in zip(places, texts, strict=True):
        figure.add_annotation(
            text="<br>".join(lines), x=0, xref="paper", xanchor="left", y=place, yanchor="bottom",
            yshift=5, showarrow=False, font={"size": 11}, align="left",
        )  # fmt: skip
    return figure


def _control(effect: Effect) -> bool:
    return "_control" in effect.key or "_guard" in effect.key


def _told(effect: Effect) -> str:
    """An effect and its damage, for a mark."""
    damage = effect.damage
    if damage is None:
        return label(effect.words)
    told = f"{label(effect.words)}<br>{label(damage.measure)}: {damage.change.value:.3g}"
    if damage.before is not None and damage.after is not None:
        told += f"<br>perplexity {damage.before:.4g} to {damage.after:.4g}"
    return told


def _step(count: int) -> int:
    """Distance of ticks so that at most about a dozen stand beside an axis."""
    return next(step for step in (1, 2, 4, 8, 16, 32, 64, 128) if count <= 12 * step or step == 128)
