"""Rates: tried further where the best is at an edge, and chosen by the least loss."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_studies import settings
from scipy import stats
from small_language_models import compared_run, raced

from headway.errors import HeadwayError
from headway.report.statistics import SIGNIFICANCE
from headway.studies.claims import Result, Results
from headway.studies.criteria import Estimate
from headway.studies.language_models.rates import (
    SHARE,
    Rates,
    best_rate,
    compared,
    measured,
    not_tried,
)
from headway.studies.language_models.shares import share_needed, share_without_interval
from headway.studies.races.tuning import FIRST_TUNING_SEED, TEST, TUNING
from headway.studies.running import settled
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


def test_more_tuning_seeds_try_each_rate_again_and_may_choose_another() -> None:
    first = raced("arm", {1.0: 3, 2.0: 2, 4.0: 1.9, 8.0: 2.5})
    assert best_rate(found(*first), "arm") == 4.0
    runs, over = RATES.races("arm", found(*first), seeds=2)
    tried = [(run.seed - FIRST_TUNING_SEED, run.options["rate"]) for run in runs]
    assert tried == [(seed, rate) for seed in (0, 1) for rate in (1.0, 2.0, 4.0, 8.0)]
    assert not over
    part = found(*first, *raced("arm", {1.0: 2, 2.0: 2}, seed=1))
    assert best_rate(part, "arm") == 4.0  # what all rates were tried with
    whole = found(*part, *raced("arm", {4.0: 2.4, 8.0: 3}, seed=1))
    assert best_rate(whole, "arm") == 2.0
    assert RATES.races("arm", whole, seeds=2)[1]
    lower = found(*first, *raced("arm", {1.0: 0, 2.0: 2, 4.0: 2.4, 8.0: 3}, seed=1))
    runs, over = RATES.races("arm", lower, seeds=2)
    assert ({run.options["rate"] for run in runs}, over) == ({0.5, 1.0, 2.0, 4.0, 8.0}, False)
    asked = _settings(seeds=1)
    two = RATES.runs({"arm": ()}, replace(asked, tuning_seeds=2), whole)
    assert [r.options["rate"] for r in two if r.options["stage"] == TEST] == [2.0]
    assert not [r for r in RATES.runs({"arm": ()}, replace(asked, tuning_seeds=2), part)
                if r.options["stage"] == TEST]  # fmt: skip


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


SHARED = Rates(first=(2.0, 4.0), most=4, shared=True)
LOW = raced("low", {0.5: 3, 1.0: 2, 2.0: 2.5, 4.0: 3})
HIGH = raced("high", {2.0: 2.5, 4.0: 2, 8.0: 3})
"""Better than its neighbours, and never tried at the rate of the other one."""


def raced_and_tested(rates: Rates, *there: Result, **fields: Any) -> tuple[Any, Any]:
    """Arms and rates of the runs at rates that were not tried yet, and of the tests."""
    asked = replace(_settings(seeds=1), **fields)
    runs = rates.runs({"low": (), "high": ()}, asked, found(*there))
    done = {one.run.key for one in there}
    wanted = [run for run in runs if run.key not in done]
    return tuple(
        [(run.arm, run.options["rate"]) for run in wanted if run.options["stage"] == stage]
        for stage in (TUNING, TEST)
    )


def test_shared_rates_are_those_that_won_for_other_arms() -> None:
    apart = replace(SHARED, shared=False)
    assert raced_and_tested(apart, *LOW, *HIGH) == ([], [("low", 1.0), ("high", 4.0)])
    assert raced_and_tested(SHARED, *LOW, *HIGH) == ([("high", 1.0)], [])
    worse = raced("high", {1.0: 2.2})
    assert raced_and_tested(SHARED, *LOW, *HIGH, *worse) == ([], [("low", 1.0), ("high", 4.0)])
    better = raced("high", {1.0: 1.9})  # at the edge, and there are as many rates as there may be
    assert raced_and_tested(SHARED, *LOW, *HIGH, *better) == ([], [("low", 1.0), ("high", 1.0)])
    further = replace(SHARED, most=5)
    assert raced_and_tested(further, *LOW, *HIGH, *better) == ([("high", 0.5)], [])


def test_shared_rates_wait_for_the_races_of_all_arms_that_are_asked_for() -> None:
    going_on = HIGH[:2]  # 4 is the best so far and the largest
    assert raced_and_tested(SHARED, *LOW, *going_on) == ([("high", 1.0)], [])
    assert raced_and_tested(SHARED, *LOW, *going_on, arms=("low",))[1] == [("low", 1.0)]
    assert raced_and_tested(SHARED) == ([(a, r) for a in ("low", "high") for r in (2.0, 4.0)], [])


def test_what_is_tried_is_told() -> None:
    told = "Rates 2, 4, and beyond where the best is at the edge,"
    assert replace(SHARED, shared=False).told.startswith(f"{told} for every arm")
    assert SHARED.told.startswith(f"{told} and what won for another arm, for every arm")


def test_an_arm_that_was_not_tried_at_the_rate_of_another_is_told() -> None:
    assert not_tried(("low", "high"), found(*LOW, *HIGH)) == (
        "high was not tried at 1, which low chose."
    )
    assert not_tried(("low", "high"), found(*LOW, *HIGH, *raced("high", {1.0: 2.2}))) == ""
    both = not_tried(("low", "high"), found(*LOW[:2], *HIGH))
    assert both == "low was not tried at 4, which high chose. high was not tried at 1, which low " \
        "chose."  # fmt: skip
    assert not_tried(("low", "given"), found(*LOW, compared_run("given", 9.0, 0, loss=1))) == ""


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


def shared_run(arm: str, seed: int, loss: float, share: float | None = None) -> Result:
    made = compared_run(arm, 2.0, seed, loss=loss)
    options = {**made.run.options} | ({SHARE: share} if share else {})
    return replace(made, run=replace(made.run, options=options))


def test_shares_of_the_steps_are_runs_of_their_own() -> None:
    there = found(*raced("one", {1.0: 3, 2.0: 2, 4.0: 3}), *raced("two", {1.0: 3, 2.0: 2, 4.0: 3}))
    runs = RATES.runs({"one": (), "two": ()}, _settings(seeds=1), there, {"one": (0.5, 0.75)})
    tests = [(r.arm, r.options.get(SHARE)) for r in runs if r.options["stage"] == TEST]
    assert tests == [("one", 0.5), ("one", 0.75), ("one", None), ("two", None)]
    assert len({run.key for run in runs}) == len(runs)
    ran = found(*there, shared_run("one", 0, 1.5), shared_run("one", 0, 1.9, 0.5))
    assert measured(ran, "one", "loss") == {0: 1.5}
    assert measured(ran, "one", "loss", share=0.5) == {0: 1.9}


def shares(losses: dict[float | None, float], target: float, seeds: int = 3) -> Results:
    """An arm with these losses at shares of its steps, and another one that ends with one."""
    races = [*raced("arm", {2.0: 1}), *raced("base", {2.0: 1})]
    runs = [
        shared_run("arm", s, loss, share) for share, loss in losses.items() for s in range(seeds)
    ]
    return found(*races, *runs, *(shared_run("base", s, target) for s in range(seeds)))


@pytest.mark.parametrize(
    ("losses", "target", "share"),
    [
        ({0.5: 3.0, 0.75: 2.0, None: 1.0}, 2.0, 0.75),
        ({0.5: 3.0, 0.75: 2.0, None: 1.0}, 2.5, 0.625),
        ({0.5: 3.0, 0.75: 2.0, None: 1.0}, 1.25, 0.9375),
        ({0.5: 3.0, 0.75: 2.0, None: 1.0}, 3.5, 0.5),  # the least that was run
        ({0.5: 3.0, 0.75: 2.0, None: 1.0}, 0.5, math.inf),
    ],
)
def test_the_share_needed_is_where_lines_between_runs_meet_the_other_loss(
    losses: dict[float | None, float], target: float, share: float
) -> None:
    ours = share_needed("arm", "base", (0.5, 0.75), shares(losses, target))
    assert ours is not None
    assert (ours.value, ours.low, ours.high, ours.seeds) == (share, share, share, 3)
    one = shares(losses, target, seeds=1)
    assert share_needed("arm", "base", (0.5, 0.75), one) is None
    assert share_without_interval("arm", "base", (0.5, 0.75), one) == share
    assert share_without_interval("arm", "base", (0.5, 0.8), one) is None


def test_the_interval_of_the_share_is_over_seeds() -> None:
    unsure = shares({0.5: 3.0, None: 0.5}, 2.0)
    runs = [
        replace(r, measures={**r.measures, "loss": r.measures["loss"] + 0.1 * (r.run.seed - 1)})
        if r.run.arm == "base" and r.run.options["stage"] == TEST
        else r
        for r in unsure
    ]
    ours = share_needed("arm", "base", (0.5,), found(*runs))
    assert ours is not None
    assert ours.value == pytest.approx(0.7)
    reach = stats.sem([1.1, 1.0, 0.9]) * stats.t.ppf(0.975, 2)
    ends = [0.5 + 0.5 * (1 + side * reach) / 2.5 for side in (-1, 1)]
    assert [ours.low, ours.high] == pytest.approx(ends)
    assert ours.p == pytest.approx(stats.ttest_rel([0.5] * 3, [1.9, 2.0, 2.1]).pvalue)


SHARES = (0.5, 0.75)


def drawn_shares(columns: Sequence[Sequence[float]]) -> Estimate:
    """From losses by seed with each share, with all, and of the other arm."""
    *arm, base = columns
    runs = [shared_run("base", seed, loss) for seed, loss in enumerate(base)]
    for share, losses in zip((*SHARES, None), arm, strict=True):
        runs += [shared_run("arm", seed, loss, share) for seed, loss in enumerate(losses)]
    races = [*raced("arm", {2.0: 1}), *raced("base", {2.0: 1})]
    ours = share_needed("arm", "base", SHARES, found(*races, *runs))
    assert ours is not None
    return ours


LOSSES = st.lists(st.integers(0, 400).map(lambda n: n / 100), min_size=3, max_size=3)


@given(st.lists(LOSSES, min_size=4, max_size=4))
def test_a_share_lies_in_its_interval_and_is_sure_where_its_p_value_is(
    columns: list[list[float]],
) -> None:
    ours = drawn_shares(columns)
    assert ours.low - 1e-9 <= ours.value <= ours.high + 1e-9
    assert ours.p is not None
    if ours.p < SIGNIFICANCE and fmean(columns[2]) < fmean(columns[3]):
        assert ours.high <= 1


def test_intervals_of_three_seeds_hold_the_share_as_often_as_they_say() -> None:
    draw = random.Random(0)
    rounds = 400
    held = 0
    for _ in range(rounds):
        columns = [[draw.gauss(mean, 0.2) for _ in range(3)] for mean in (3.0, 2.5, 1.5, 2.0)]
        ours = drawn_shares(columns)
        held += ours.low <= 0.875 <= ours.high
    assert held / rounds >= 0.93
