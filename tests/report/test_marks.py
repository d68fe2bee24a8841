"""Marks in a plane, and figures with their intervals."""

from headway.report.figures import CurveText
from headway.report.marks import interval_figure, mark_figure
from headway.report.style import COLOURS, arm_styles

TEXT = CurveText("id", "Title", "note", "across", "up")
ARMS = ["vanilla", "shift", "gate"]


def test_each_mark_stands_in_its_arms_colour_with_its_words() -> None:
    made = mark_figure(TEXT, {"gate": [(1.0, -2.0, "one"), (0.5, 3.0, "two")], "shift": []}, ARMS)
    (trace,) = made.plot["data"]
    assert (list(trace["x"]), list(trace["y"])) == ([1.0, 0.5], [-2.0, 3.0])
    assert list(trace["customdata"]) == ["one", "two"]
    assert trace["meta"] == ARMS.index("gate")
    assert trace["marker"]["color"] == arm_styles(ARMS)["gate"].colour
    assert made.plot["layout"]["xaxis"]["title"]["text"] == "across"
    assert (made.id, made.title, made.note) == ("id", "Title", "note")


def test_arms_of_one_colour_have_marks_of_their_own() -> None:
    arms = [str(number) for number in range(3 * len(COLOURS))]
    made = mark_figure(TEXT, {arm: [(0.0, 0.0, "here")] for arm in arms}, arms)
    looks = {(trace["marker"]["color"], trace["marker"]["symbol"]) for trace in made.plot["data"]}
    assert len(looks) == len(arms)


def test_intervals_reach_from_their_lower_to_their_upper_end() -> None:
    made = interval_figure(TEXT, {"a": (1.0, 0.5, 3.0), "b": (-1.0, -1.0, 0.0)})
    (trace,) = made.plot["data"]
    assert (list(trace["x"]), list(trace["y"])) == ([1.0, -1.0], ["a", "b"])
    assert list(trace["error_x"]["array"]) == [2.0, 1.0]
    assert list(trace["error_x"]["arrayminus"]) == [0.5, 0.0]
    assert made.plot["layout"]["yaxis"]["autorange"] == "reversed"
