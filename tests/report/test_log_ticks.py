"""Ticks of logarithmic axes are round, written in full, and leave each other room."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.report.curves import Band
from headway.report.figures import CurveText, curve_figure, tick_axis
from headway.report.log_ticks import LETTER, WIDTH, round_ticks, with_round_ticks

TEXT = CurveText("made", "Made", "", "T", "share")


def labels(least: float, most: float) -> list[str]:
    """Those of an axis that shows just this range."""
    ticks = round_ticks(least, most)
    return [
        text
        for tick, text in zip(ticks.get("tickvals", ()), ticks.get("ticktext", ()), strict=True)
        if least <= tick <= most
    ]


@pytest.mark.parametrize(
    ("least", "most", "shown"),
    [
        (5, 500, "5 10 20 50 100 200 500"),
        (10, 1000, "10 30 100 300 1,000"),
        (20, 45, "20 30 40"),
        (0.018, 0.13, "0.02 0.05 0.1"),
        (9, 9e4, "10 100 1,000 10,000"),
        (1e-12, 1, "1e-12 1e-09 1e-06 0.001 1"),
        (3.2, 3.9, ""),
        (32, 32, ""),
    ],
)
def test_ticks_of_a_range(least: float, most: float, shown: str) -> None:
    assert " ".join(labels(least, most)) == shown


@given(st.floats(1e-12, 1e9), st.floats(1, 1e12))
def test_labels_leave_each_other_room(least: float, times: float) -> None:
    most = least * times
    shown = labels(least, most)
    values = [float(text.replace(",", "")) for text in shown]
    assert values == sorted(set(values))
    for (one, first), (other, second) in pairwise(zip(values, shown, strict=True)):
        pixels = math.log(other / one) / math.log(most / least) * WIDTH
        assert pixels >= 0.999 * LETTER * (len(first) + len(second)) / 2


def plot(**axis: object) -> dict[str, object]:
    band = Band((5.0, 50.0, 500.0), (0.1, 0.2, 0.4), (0.1, 0.2, 0.4), (0.1, 0.2, 0.4), (1, 1, 1))
    return dict(curve_figure(TEXT, {"arm": band}, ("arm",), axis).plot)


def test_a_logarithmic_axis_without_ticks_gets_them_and_no_other_does() -> None:
    drawn = with_round_ticks(plot(type="log"))
    assert drawn["layout"]["xaxis"]["ticktext"][3:7] == ["10", "20", "50", "100"]
    assert "tickvals" not in drawn["layout"]["yaxis"]
    chosen = plot(**tick_axis([5, 500]))
    assert with_round_ticks(chosen) == chosen
    linear = plot()
    assert with_round_ticks(linear) == linear
    narrow = plot(type="log")
    for trace in narrow["data"]:  # type: ignore[attr-defined]
        trace["x"] = [None, 0.0, -1.0]
    assert with_round_ticks(narrow) == narrow
