"""Marks: two numbers of many things in one plane, or one number of a few with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headway.report.figures import CurveText, Figure, as_data
from headway.report.style import arm_styles, label, layout

HEIGHT = 420
ROW, FRAME = 34, 110

Mark = tuple[float, float, str]
"""Where it stands, and what is said of it."""


def mark_figure(
    text: CurveText, marks: Mapping[str, Sequence[Mark]], arms: Sequence[str]
) -> Figure:
    """The figure.

    Args:
        text: the words around it.
        marks: by arm.
        arms: in the order of their colours.
    """
    import plotly.graph_objects as go

    styles = arm_styles(arms)
    look = layout(text.x, text.y, HEIGHT)
    for axis in ("xaxis", "yaxis"):
        look[axis] |= {"zeroline": True, "zerolinewidth": 2}
    figure = go.Figure(layout=look)
    for arm in arms:
        if not (there := marks.get(arm)):
            continue
        x, y, said = zip(*there, strict=True)
        style = styles[arm]
        marker = {"color": style.colour, "symbol": style.marker, "size": 8, "opacity": 0.75}
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                customdata=said,
                mode="markers",
                marker=marker,
                hovertemplate=f"<b>{label(arm)}</b>, %{{customdata}}<extra></extra>",
                meta=arms.index(arm),
            )
        )
    return Figure(text.id, text.title, text.note, as_data(figure))


def interval_figure(text: CurveText, intervals: Mapping[str, tuple[float, float, float]]) -> Figure:
    """A row each, from above: a figure with its interval.

    Args:
        text: the words around it; `y` says what the rows are.
        intervals: the figure, the lower and the upper end, by the row's name.
    """
    import plotly.graph_objects as go

    names, ends = list(intervals), list(intervals.values())
    look = layout(text.x, text.y, FRAME + ROW * len(names))
    look["xaxis"] |= {"zeroline": True, "zerolinewidth": 2, "nticks": 6}
    look["yaxis"] |= {"autorange": "reversed", "showgrid": False, "ticks": "", "fixedrange": True}
    trace = go.Scatter(
        x=[value for value, _, _ in ends],
        y=names,
        customdata=[(low, high) for _, low, high in ends],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [high - value for value, _, high in ends],
            "arrayminus": [value - low for value, low, _ in ends],
            "thickness": 2,
            "width": 0,
        },
        mode="markers",
        marker={"size": 9},
        hovertemplate="<b>%{y}</b><br>%{x:+.4f} [%{customdata[0]:+.4f}, %{customdata[1]:+.4f}]"
        "<extra></extra>",
    )
    return Figure(text.id, text.title, text.note, as_data(go.Figure(trace, layout=look)))
