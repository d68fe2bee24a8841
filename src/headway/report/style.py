"""How figures look: a colour, dash and marker per arm, a common layout, labels that fit."""

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headway.report.results import BASELINE

BASELINE_COLOUR = "#7d828a"
COLOURS = ("#2a7fc9", "#d9601a", "#0b9270", "#bd5c9d", "#a9820a", "#7666cf", "#c2465a")
"""Legible on white and on near-black (contrast of at least 3), apart for colour-blind eyes."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
TICK_WIDTH = 20
"""Letters of an arm's name in one line beside an axis."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class ArmStyle:
    """The look of one arm, the same in every figure."""

    colour: str
    dash: str
    marker: str

    @property
    def shade(self) -> str:
        """The colour as a see-through fill."""
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},0.12)"


def arm_styles(arms: Sequence[str]) -> dict[str, ArmStyle]:
    """Styles by arm; vanilla is grey, colours repeat with another dash after the last."""
    styles = {BASELINE: ArmStyle(BASELINE_COLOUR, "solid", "circle-open")}
    for index, arm in enumerate(arm for arm in arms if arm != BASELINE):
        styles[arm] = ArmStyle(
            colour=COLOURS[index % len(COLOURS)],
            dash=DASHES[(index // len(COLOURS)) % len(DASHES)],
            marker=MARKERS[index % len(MARKERS)],
        )
    return styles


def label(text: str) -> str:
    """A name as plotly text, which may hold a few HTML tags and `%{...}`: a name has neither."""
    return html.escape(text, quote=False).replace("{", "&#123;")


def tick_label(text: str) -> str:
    """A name as plotly text in short lines, broken at '+' where there is one."""
    pieces = text.replace("+", "+\n").split("\n")
    lines = [line for piece in pieces for line in textwrap.wrap(piece, TICK_WIDTH)]
    return "<br>".join(label(line) for line in lines)


def layout(x_title: str, y_title: str, height: int) -> dict[str, Any]:
    """The common layout: see-through, no legend (the page has one), tight margins.

    The page sets the colours of text and grid, which depend on the reader's scheme.
    """
    axis = {"automargin": True, "zeroline": False, "ticks": "outside", "ticklen": 4, "tickangle": 0}
    return {
        "template": "none",
        "height": height,
        "autosize": True,
        "margin": {"l": 12, "r": 14, "t": 12, "b": 12},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "hovermode": "closest",
        "font": {"family": FONT, "size": 13},
        "hoverlabel": {"font": {"family": FONT, "size": 13}, "align": "left"},
        "xaxis": {**axis, "title": {"text": x_title, "standoff": 10}},
        "yaxis": {**axis, "title": {"text": y_title, "standoff": 8}},
    }
