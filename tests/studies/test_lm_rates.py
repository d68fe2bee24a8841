"""Rates: tried further where the best is at an edge, and chosen by the least loss."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_studies import settings
from small_language_models import compared_run, raced

from headway.errors import HeadwayError
from headway.studies.claims import Result, Results
from headway.studies.lm_rates import Rates, best_rate, compared, measured
from headway.studies.running import settled
from headway.studies.tuning import FIRST_TUNING_SEED, TEST, TUNING
from headway_settings import StudySettings

RATES = Rates(first=(1.0, 2.0, 4.0), most=5)


def found(*results: Result) -> Results:
    return Results("small", {}, results)


@pytest.mark.parametrize(
    ("losses", "rates", "done"),
    [
        ({}, [1, 2, 4], False),
        ({1.0: 3, 2.0: 2}, [1, 2, 4], False),
        ({1.0: 3, 2.0: 2, 4.0: 3}, [1, 2, 4], True),
        ({1.0: 3, 2.0: 2, 4.0: 1}, [1, 2, 4, 8], False),
        ({1.0: 1, 2.0: 2, 4.0: 3}, [0.5, 1, 2, 4], False),
        ({0.5: 2, 1.0: 1, 2.0: 2, 4.0: 3}, [0.5, 1, 2, 4], True),
        ({1.0: 5, 2.0: 4, 4.0: 3, 8.0: 2, 16.0: 1}, [1, 2, 4, 8, 16], True),
    ],
)
def test_further_rates_are_tried_while_the_best_is_at_an_edge(
    losses: dict[float, float], rates: list[float], done: bool
) -> None:
    runs, over = RATES.races("arm", found(*raced("arm", losses)))
    assert [run.options["rate"] for run in runs] == rates
    assert {(run.seed, run.options["stage"]) for run in runs} == {(FIRST_TUNING_SEED, TUNING)}
    assert over == done


def _settings(**fields: object) -> StudySettings:
    from made_studies import study

    return settled(study(), settings(Path("out"), **fields))


def test_an_arm_is_tested_at_its_best_rate_once_its_races_are_over() -> None:
    there = found(*raced("one", {1.0: 3, 2.0: 2, 4.0: 3}), *raced("two", {1.0: 1}))
    runs = RATES.runs({"one": (), "two": (), "fixed": (7.0, 8.0)}, _settings(seeds=2), there)
    tests = [(r.arm, r.seed, r.options["rate"]) for r in runs if r.options["stage"] == TEST]
    expected = [
        (arm, seed, rate)
        for seed in (0, 1)
        for arm, rate in (("one", 2.0), ("fixed", 7.0), ("fixed", 8.0))
    ]
    assert tests == expected
    assert best_rate(there, "fixed") is None


def test_only_runs_at_the_best_rate_are_compared() -> None:
    there = found(
        *raced("arm", {1.0: 3, 2.0: 2, 4.0: 3}),
        compared_run("arm", 2.0, 0, loss=1.5, parts={"a": 2, "b": None}),
        compared_run("arm", 2.0, 1, loss=1.25),
        compared_run("arm", 4.0, 0, loss=9.0),
    )
    assert [r.run.seed for r in compared(there, "arm")] == [0, 1]
    assert measured(there, "arm", "loss") == {0: 1.5, 1: 1.25}
    assert measured(there, "arm", "loss", rate=4.0) == {0: 9.0}
    assert measured(there, "arm", "parts", "a") == {0: 2.0}
    assert measured(there, "arm", "parts", "b") == {}


def test_seeds_of_the_races_and_texts_that_differ_are_refused() -> None:
    with pytest.raises(HeadwayError, match="seed: 999999 is not accepted"):
        RATES.runs({"arm": ()}, _settings(seed=FIRST_TUNING_SEED - 1, seeds=2), found())
    other = compared_run("arm", 1.0, 0, loss=1.0, corpus="two")
    with pytest.raises(HeadwayError, match="results of different texts"):
        RATES.runs({"arm": ()}, _settings(), found(*raced("arm", {1.0: 1}), other))
