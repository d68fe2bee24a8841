"""The study of the associative memory: its points, its claims, its verdicts and its figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from headway.memory.amicl import accuracy
from headway.studies.claim_page import render
from headway.studies.claims import Result, Results, Run, findings
from headway.studies.criteria import Verdict
from headway.studies.residual_streams import amicl as amicl_study
from headway.studies.residual_streams.amicl import AMICL, NOTEBOOK_TRIALS, SWEEPS, TRIALS
from headway.studies.running import run_study
from headway_settings import StudySettings


def made(values: Mapping[str, float], seeds: int = 10) -> Results:
    """Results in which each arm has the same accuracy at all of its points."""
    return Results(
        "small",
        {},
        tuple(
            Result(Run(arm, seed), dict.fromkeys(SWEEPS[arm].points, value), "c", "d", {},
                   "2026-01-01", 0.0)
            for arm, value in values.items()
            for seed in range(seeds)
        ),
    )  # fmt: skip


def test_every_claim_names_a_point_that_its_arm_measures() -> None:
    all_right = made(dict.fromkeys(SWEEPS, 1.0))
    for found in findings(AMICL.claims, all_right):
        assert found.ours is not None, found.claim.claim
        assert found.ours.value == 1.0
        near = found.claim.published is not None and found.claim.published >= 0.985
        assert (found.verdict == Verdict.REPRODUCED) == near


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        (0.907, Verdict.REPRODUCED),
        (0.893, Verdict.REPRODUCED),
        (0.891, Verdict.PARTLY),  # beyond 1.5 points, within the notebook's own sampling error
        (0.875, Verdict.PARTLY),
        (0.873, Verdict.NOT_REPRODUCED),
        (0.95, Verdict.NOT_REPRODUCED),
    ],
)
def test_within_a_point_and_a_half(ours: float, verdict: Verdict) -> None:
    error = 1.96 * math.sqrt(0.907 * 0.093 / NOTEBOOK_TRIALS)
    assert error == pytest.approx(0.018, abs=1e-4)
    found = findings(AMICL.claims, made({"key-weight": ours}))
    (one,) = (f for f in found if f.claim.claim == "Accuracy, a = 1.25, T = 20, D = 100, K = 512")
    assert one.verdict == verdict


def test_a_figure_that_is_always_right_allows_no_sampling_error() -> None:
    found = findings(AMICL.claims, made({"key-weight": 0.984}))
    (one,) = (f for f in found if f.claim.claim == "Accuracy, a = 2, T = 20, D = 100, K = 512")
    assert one.verdict == Verdict.NOT_REPRODUCED


def test_points_that_were_added_to_results_name_the_plots_they_are_read_from() -> None:
    added = {claim.claim: claim for claim in AMICL.claims if claim.asked}
    assert {name: claim.published for name, claim in added.items()} == {
        "Accuracy, a = 0.75, T = 20, D = 100, K = 50": 0.0,
        "Accuracy, a = 1.5, T = 20, D = 100, K = 50": 1.0,
        "Accuracy, Pearson, a = 1.25, T = 20, D = 100, K = 50": 0.87,
    }
    assert all(claim.besides and "from a plot" in claim.differs for claim in added.values())
    own = {"0.75": 0.01, "1.5": 0.99, "1.25": 0.86}
    points = tuple(
        Result(Run(arm, seed), own, "c", "d", {}, "2026-01-01", 0.0)
        for arm in ("dot", "pearson")
        for seed in range(10)
    )
    found = {f.claim.claim: f for f in findings(AMICL.claims, Results("small", {}, points))}
    assert [f.ours.value for name in added if (f := found[name]).ours] == [0.01, 0.99, 0.86]
    assert {found[name].verdict for name in added} == {Verdict.REPRODUCED}


def test_fewer_than_ten_seeds_give_no_verdict() -> None:
    found = findings(AMICL.claims, made({"key-weight": 1.0}, seeds=9))
    assert {f.verdict for f in found} == {Verdict.NOT_TESTABLE, None}


def test_arms_differ_as_they_say() -> None:
    for name, sweep in SWEEPS.items():
        memories = [memory for memory, _ in sweep.points.values()]
        for point, (memory, task) in sweep.points.items():
            if sweep.axis == "a":
                assert memory.a == float(point)
            if sweep.axis == "tokens":
                assert task.tokens == int(point)
            if sweep.axis == "width":
                assert task.width == int(point)
            if sweep.axis == "classes":
                assert (task.classes, memory.a) == (int(point), 1 if name == "classes-tie" else 2)
            if sweep.axis == "sharpness":
                assert (memory.separation, memory.sharpness) == ("softmax", float(point))
        expected = name if name in ("pearson", "euclidean", "manhattan") else "dot"
        assert {memory.similarity for memory in memories} == {expected}
        last = "mixed" if name == "mixed-last-key" else "random"
        assert {memory.last_key for memory in memories} == {last}
    assert {p: (t.tokens, t.width, t.classes) for p, (_, t) in SWEEPS["tie"].points.items()} == {
        "D=1000": (20, 1000, 512),
        "D=1000 K=1024": (20, 1000, 1024),
        "K=1024": (20, 100, 1024),
        "T=100": (100, 100, 512),
    }


def test_what_two_arms_share_is_the_same_point() -> None:
    """So one seed gives the same accuracy in both: the sweep over K goes through the claims."""
    over, tie = SWEEPS["classes"].points, SWEEPS["classes-tie"].points
    assert over["512"] == SWEEPS["key-weight"].points["2"]
    assert over["50"] == SWEEPS["width"].points["100"]
    assert tie["50"] == SWEEPS["dot"].points["1"]
    assert tie["512"] == SWEEPS["key-weight"].points["1"]
    assert tie["1024"] == SWEEPS["tie"].points["K=1024"]


def test_the_number_of_classes_has_a_figure() -> None:
    values = {"classes": 1.0, "classes-tie": 0.25}
    (figure,) = AMICL.figures(made(values, seeds=2))
    assert figure.id == "over-classes"
    lines = [t for t in figure.plot["data"] if t["mode"] == "lines+markers"]
    assert [{*t["y"]} for t in lines] == [{1.0}, {0.25}]
    assert {tuple(t["x"]) for t in lines} == {amicl_study.CLASSES}


def test_the_study_runs_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(amicl_study.TRIALS, "small", 20)
    monkeypatch.setattr(amicl_study, "LONG", 50)
    arms = ("key-weight", "dot", "softmax")
    asked = StudySettings(name=("amicl",), out=tmp_path, device="cpu", arms=arms, seeds=2)
    found = run_study(AMICL, asked, "headway study amicl")
    memory, task = SWEEPS["dot"].points["1.25"]
    assert found.measure("dot", "1.25") == {
        seed: accuracy(memory, task, 20, seed) for seed in (0, 1)
    }
    assert [f.id for f in AMICL.figures(found)] == ["over-a", "over-sharpness"]
    page = render(AMICL, found)
    assert 'id="over-a"' in page
    assert "key-weight" in page
    assert "manhattan" not in page  # which was not run


def test_long_contexts_have_a_tenth_of_the_trials() -> None:
    tasks = {point: task for point, (_, task) in SWEEPS["tokens"].points.items()}
    trials = {point: amicl_study._trials(task, "small") for point, task in tasks.items()}
    few = TRIALS["small"] // 10
    assert trials == {
        p: few if p in ("500", "1000") else TRIALS["small"]
        for p in ("10", "20", "40", "100", "500", "1000")
    }
