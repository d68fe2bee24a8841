"""Ticks of logarithmic axes: few, round, and written in full.

Between powers of ten plotly writes single small digits, of which a reader cannot tell 20 from 200.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

WIDTH, LETTER = 225, 8
"""Pixels of an axis on a telephone, and of a character of its labels."""
_DIGITS = (range(1, 10), (1, 2, 5), (1, 3), (1,))


def round_ticks(least: float, most: float) -> dict[str, Any]:
    """Ticks for an axis that shows at least this range: as many round numbers as are legible.

    They are all digits of each power of ten, or 1, 2 and 5, or 1 and 3, or the powers, or every nth
    of these. Nothing is given, and plotly chooses, where no two of them lie in the range.
    """
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))
    sets = [
        [digit * 10.0**power for power in range(low, high + 1) for digit in digits]
        for digits in _DIGITS
    ]
    sets += [sets[-1][::step] for step in range(2, len(sets[-1]))]
    ticks = next((each for each in sets if _legible(each, least, most)), sets[-1])
    if sum(least <= tick <= most for tick in ticks) < 2:
        return {}
    return {"tickvals": ticks, "ticktext": [_text(tick) for tick in ticks]}


def _legible(ticks: Sequence[float], least: float, most: float) -> bool:
    """Whether the labels within a range do not touch each other."""
    shown = [tick for tick in ticks if least <= tick <= most]
    return all(
        math.log(after / tick) * WIDTH
        >= (len(_text(tick)) / 2 + 1 + len(_text(after)) / 2) * LETTER * math.log(most / least)
        for tick, after in pairwise(shown)
    )


def _text(tick: float) -> str:
    return f"{tick:,.10g}"


def with_round_ticks(plot: Mapping[str, Any]) -> dict[str, Any]:
    """What plotly.js draws, with `round_ticks` on logarithmic axes that have none of their own."""
    layout = dict(plot["layout"])
    for name, axis in layout.items():
        if name[1:5] != "axis" or axis.get("type") != "log" or "tickvals" in axis:
            continue
        letter, number = name[0], name[5:]
        values = [
            value
            for trace in plot["data"]
            if trace.get(f"{letter}axis", letter) == letter + number
            for value in trace[letter]
            if value is not None and value > 0
        ]
        if values:
            layout[name] = axis | round_ticks(min(values), max(values))
    return {**plot, "layout": layout}
