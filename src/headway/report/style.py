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
DASHES = {
    "solid": "",
    "dash": "9 9",
    "dot": "3 3",
    "dashdot": "9 3 3 3",
    "longdash": "15 15",
}
"""Patterns of lines, as plotly draws them at a width of 2 pixels: lengths of ink and gap."""
MARKERS = {
    "circle": "M5 0A5 5 0 1 1 -5 0A5 5 0 1 1 5 0Z",
    "square": "M-4.5 -4.5H4.5V4.5H-4.5Z",
    "diamond": "M0 -6.5L6.5 0L0 6.5L-6.5 0Z",
    "triangle-up": "M0 -6L6 5H-6Z",
    "cross": "M-2 -6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
    "x": "M0 -3L3 -6L6 -3L3 0L6 3L3 6L0 3L-3 6L-6 3L-3 0L-6 -3L-3 -6Z",
    "star": "M0 -7L1.7 -2.3L6.7 -2.2L2.7 0.9L4.1 5.7L0 2.9L-4.1 5.7L-2.7 0.9L-6.7 -2.2L-1.7 -2.3Z",
}
"""Shapes of marks, with their outline in the legend as the path of an SVG."""
HOLLOW = "-open"
"""What the name of a shape ends in where only its outline is drawn."""
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

    @property
    def dash_lengths(self) -> str:
        """The dash as an SVG has it."""
        return DASHES[self.dash]

    @property
    def outline(self) -> str:
        """The mark as the path of an SVG."""
        return MARKERS[self.marker.removesuffix(HOLLOW)]

    @property
    def hollow(self) -> bool:
        """Whether only the outline of the mark is drawn."""
        return self.marker.endswith(HOLLOW)


def arm_styles(arms: Sequence[str]) -> dict[str, ArmStyle]:
    """Styles by arm; vanilla is grey, colours repeat with another dash and mark after the last."""
    styles = {BASELINE: ArmStyle(BASELINE_COLOUR, "solid", f"circle{HOLLOW}")}
    dashes, markers = list(DASHES), list(MARKERS)
    for index, arm in enumerate(arm for arm in arms if arm != BASELINE):
        lap = index // len(COLOURS)
        styles[arm] = ArmStyle(
            colour=COLOURS[index % len(COLOURS)],
            dash=dashes[lap % len(dashes)],
            marker=markers[(index + lap) % len(markers)],
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
