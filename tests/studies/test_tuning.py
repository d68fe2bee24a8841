"""Races for a learning rate, what is trained together, and ratios of steps."""

from __future__ import annotations

import math
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_studies import result
from torch import Tensor, nn

from headway.errors import HeadwayError
from headway.studies import estimates
from headway.studies.claims import Result, Results, Run
from headway.studies.criteria import Estimate, Verdict
from headway.studies.races.courses import Course, Progress, follow, seed_of
from headway.studies.races.speed import faster, signed_rank_p, steps_ratio
from headway.studies.races.table import race_table
from headway.studies.races.tuning import (
    FIRST_TUNING_SEED,
    TEST,
    TUNING,
    Tuning,
    chosen_rate,
    score_points,
    settled,
    steps_of,
)
from headway.training.ensemble import Ensemble
from headway.training.update_rules import SGD
from headway_settings import StudySettings

RACES = Tuning(rates=(0.1, 0.2), seeds=3, published=0.01)
ARMS = ("a", "b")


def race(rate: float, seed: int, steps: int | None, **more: object) -> Result:
    run = Run("a", FIRST_TUNING_SEED + seed, {"stage": TUNING, "rate": rate})
    measures = {"steps": steps, "trained": steps or 100, "diverged": False, "score": 0.5}
    return result(run, **measures | more)


def results(*found: Result) -> Results:
    return Results("paper", {}, found)


def raced(by_rate: dict[float, list[int | None]], arm: str = "a") -> list[Result]:
    found = [race(r, seed, n) for r, steps in by_rate.items() for seed, n in enumerate(steps)]
    return [result(Run(arm, f.run.seed, f.run.options), **f.measures) for f in found]


def asked(tmp_path: Path, **fields: int) -> StudySettings:
    return StudySettings(name=("made",), out=tmp_path, **{"seeds": 2, **fields})


def test_tests_follow_when_the_races_of_their_arm_are_over(tmp_path: Path) -> None:
    first = RACES.runs(ARMS, asked(tmp_path), results())
    assert {run.options["stage"] for run in first} == {TUNING}
    assert len(first) == 2 * 2 * 3
    assert min(run.seed for run in first) == FIRST_TUNING_SEED
    there = results(*raced({0.1: [10, 20, 90], 0.2: [30, 30, 5]}))
    tests = [
        run for run in RACES.runs(ARMS, asked(tmp_path), there) if run.options["stage"] == TEST
    ]
    assert {(run.arm, run.seed, run.options["rate"]) for run in tests} == {
        ("a", seed, rate) for seed in (0, 1) for rate in (0.01, 0.1)
    }
    cut = results(*there.found[1:])
    assert {run.options["stage"] for run in RACES.runs(ARMS, asked(tmp_path), cut)} == {TUNING}


FURTHER = Tuning(rates=(0.1, 0.2), seeds=2, further=(0.4, 0.8, 0.05))
FAST, SLOW = [10, 10], [30, 30]


@pytest.mark.parametrize(
    ("by_rate", "rates", "over"),
    [
        ({0.1: FAST}, {0.1, 0.2}, False),
        ({0.1: SLOW, 0.2: FAST}, {0.1, 0.2, 0.4}, False),
        ({0.1: FAST, 0.2: SLOW}, {0.05, 0.1, 0.2}, False),
        ({0.1: SLOW, 0.2: FAST, 0.4: [5]}, {0.1, 0.2, 0.4}, False),
        ({0.1: SLOW, 0.2: FAST, 0.4: SLOW}, {0.1, 0.2, 0.4}, True),
        ({0.1: SLOW, 0.2: SLOW, 0.4: FAST}, {0.1, 0.2, 0.4, 0.8}, False),
        ({0.1: SLOW, 0.2: SLOW, 0.4: SLOW, 0.8: FAST}, {0.1, 0.2, 0.4, 0.8}, True),
        ({0.1: SLOW, 0.2: SLOW, 0.05: FAST}, {0.05, 0.1, 0.2}, True),
        ({0.1: SLOW, 0.2: SLOW, 0.05: SLOW}, {0.05, 0.1, 0.2}, True),
    ],
)
def test_further_rates_are_raced_where_the_best_is_at_the_edge(
    by_rate: dict[float, list[int | None]], rates: set[float], over: bool
) -> None:
    runs, done = FURTHER.races("a", results(*raced(by_rate)))
    assert {run.options["rate"] for run in runs} == rates
    assert len(runs) == 2 * len(rates)
    assert done is over


def test_no_arm_is_compared_before_its_further_races_are_over(tmp_path: Path) -> None:
    there = raced({0.1: [30, 30], 0.2: [10, 10]})

    def rates(*found: Result) -> set[float]:
        runs = FURTHER.runs(("a",), asked(tmp_path), results(*found))
        return {run.options["rate"] for run in runs if run.options["stage"] == TEST}

    assert not rates(*there)
    assert rates(*there, *raced({0.4: [20, 20]})) == {0.2}
    assert (
        FURTHER.told == "0.1, 0.2 (and, one by one where the best is at the edge, 0.05, 0.4, 0.8)"
    )


def test_seeds_that_rates_are_tuned_on_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadwayError, match="seed: 999999 is not accepted; accepted are seeds bel"):
        RACES.runs(ARMS, asked(tmp_path, seed=FIRST_TUNING_SEED - 1), results())
    assert RACES.runs(ARMS, asked(tmp_path, seed=FIRST_TUNING_SEED - 2), results())


@pytest.mark.parametrize(
    ("by_rate", "wanted"),
    [
        ({0.1: [10, 20, 90], 0.2: [30, 30, 5]}, 0.1),
        ({0.1: [10, 90, 90], 0.2: [30, 30, 5]}, 0.2),
        ({0.1: [None, None, 1], 0.2: [30, 30, None]}, 0.2),
        ({0.1: [30, 30, 40], 0.2: [10, 30, 40]}, 0.2),
        ({0.1: [30, 30, 30], 0.2: [30, 30, 30]}, 0.1),
    ],
)
def test_the_rate_with_the_fastest_median_wins(
    by_rate: dict[float, list[int | None]], wanted: float
) -> None:
    assert chosen_rate(results(*raced(by_rate)), "a") == wanted
    assert chosen_rate(results(), "a") is None


def test_where_none_gets_there_the_score_decides_and_no_divergence() -> None:
    slow = [race(0.1, 0, None, score=0.4), race(0.2, 0, None, score=0.6)]
    assert chosen_rate(results(*slow), "a") == 0.2
    gone = race(0.4, 0, None, score=0.9, diverged=True, trained=2)
    assert chosen_rate(results(*slow, gone), "a") == 0.2


def test_steps_are_those_of_tests_at_the_rate_that_won() -> None:
    tests = [
        result(Run("a", seed, {"stage": TEST, "rate": rate}), steps=steps)
        for seed, rate, steps in [(0, 0.1, 7), (1, 0.1, None), (0, 0.01, 50)]
    ]
    found = results(*raced({0.1: [10, 10, 10], 0.2: [30, 30, 30]}), *tests)
    assert steps_of(found, "a") == {0: 7, 1: math.inf}
    assert steps_of(found, "a", 0.01) == {0: 50}


def test_bundles_keep_races_and_pairs_whole_and_programs_apart(tmp_path: Path) -> None:
    there = results(*raced({0.1: [1, 1, 1], 0.2: [3, 3, 3]}),
                    *raced({0.1: [1, 1, 1], 0.2: [3, 3, 3]}, "b"))  # fmt: skip
    runs = RACES.runs(ARMS, asked(tmp_path, seeds=5), there)
    bundles = list(RACES.bundles(runs, 6))
    assert sorted(r.key for b in bundles for r in b) == sorted(r.key for r in runs)
    assert [len(b) for b in bundles] == [6, 6, 6, 4, 6, 4]
    for bundle in bundles:
        kinds = {(r.options["stage"], r.options["rate"] == 0.01) for r in bundle}
        if bundle[0].options["stage"] == TEST:
            assert len(kinds) == 1
            seeds = [r.seed for r in bundle]
            assert all(seeds.count(seed) == len(ARMS) for seed in seeds)
        else:
            assert len({r.arm for r in bundle}) == 1
    published = [bundle[0].options["rate"] == 0.01 for bundle in bundles[2:]]
    assert published == [False, False, True, True]  # the slow ones come last
    apart = list(RACES.bundles(runs, 100, lambda run: run.arm))
    assert all(len({run.arm for run in bundle}) == 1 for bundle in apart)
    assert [len(b) for b in RACES.bundles(runs, 1)][:2] == [6, 6]


def progress(*steps: int | None, **more: bool) -> list[Progress]:
    return [Progress(steps=n, **more) for n in steps]


def test_a_race_is_over_when_most_seeds_of_one_rate_are_there() -> None:
    enough = settled(RACES.races("a", results())[0])  # seed by seed, 0.1 and 0.2 in turn
    assert not enough(progress(5, None, None, 5, None, None))
    assert enough(progress(5, None, 5, None, None, None))
    assert enough(progress(*[None] * 6, diverged=True))
    both = settled([run for arm in ARMS for run in RACES.races(arm, results())[0]])
    assert not both(progress(5, None, 5, None, None, None, *[None] * 6))


def test_a_test_ends_when_all_are_there() -> None:
    enough = settled([Run("a", seed, {"stage": TEST, "rate": 0.1}) for seed in range(3)])
    assert not enough(progress(5, 5, None))
    assert enough(progress(5, 5, 5))


class Slope(nn.Module):
    """A number that walks down by its rate at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(1.0))

    def forward(self) -> Tensor:
        return self.at


def test_a_copy_is_told_until_it_is_there_and_training_until_all_are() -> None:
    rates = [0.1, 0.05, 0.0, float("nan")]
    ensemble = Ensemble.of([Slope()] * 4, lambda call, batch: call() * batch, SGD(), rates)
    seen: list[int] = []

    def batches(start: int, stop: int) -> Tensor:
        seen.extend(range(start, stop))
        return torch.ones(stop - start, 4)

    def look() -> Tensor:
        return 1 - ensemble.parameters["at"].nan_to_num(0.0)

    course = Course(limit=20, every=4, together=2, target=0.39)
    found = follow(ensemble, batches, lambda step: 1.0, look, course)
    assert [copy.steps for copy in found[:3]] == [4, 8, None]
    assert found[0].curve == [(4, 0.4)]
    assert found[1].curve == [(4, 0.2), (8, 0.4)]
    torch.testing.assert_close(look()[:3], torch.tensor([0.4, 0.4, 0.0]))  # they stay there
    assert [copy.trained for copy in found[:3]] == [4, 8, 20]
    assert seen == list(range(20))
    assert found[3].diverged
    assert found[3].steps is None
    seen.clear()
    follow(ensemble, batches, lambda step: 1.0, look, course, lambda copies: True)
    assert seen == [0, 1, 2, 3]


def test_copies_that_got_there_are_trained_on_where_that_is_asked() -> None:
    ensemble = Ensemble.of([Slope()] * 2, lambda call, batch: call() * batch, SGD(), [0.1, 0.05])

    def look() -> Tensor:
        return 1 - ensemble.parameters["at"]

    course = Course(limit=12, every=4, together=2, target=0.39, beyond=True)
    found = follow(ensemble, lambda a, b: torch.ones(b - a, 2), lambda step: 1.0, look, course)
    assert [(copy.steps, copy.trained) for copy in found] == [(4, 12), (8, 12)]
    torch.testing.assert_close(look(), torch.tensor([1.2, 0.6]))
    races = settled(RACES.races("a", results())[0])
    there = progress(5, None, 5, None, None, None, beyond=True)
    assert not any(copy.done for copy in there)
    assert races(there)


@given(st.integers(1, 60), st.integers(1, 5), st.sampled_from([0.0, 0.05, 0.3, 2.0]))
def test_looks_are_as_near_as_steps_allow(count: int, every: int, apart: float) -> None:
    course = Course(limit=count * every, every=every, together=1, target=0.5, apart=apart)
    looks = course.looks()
    assert looks[0] == every
    assert looks[-1] == course.limit
    assert all(step % every == 0 for step in looks)
    for before, step in pairwise(looks):
        assert before < step
        # No nearer than was asked for, but for the last one, and no step farther than that.
        assert step >= before * (1 + apart) or step == course.limit
        assert step - every < max(before * (1 + apart), before + 1)
    if not apart:
        assert looks == list(range(every, course.limit + 1, every))


def test_seeds_with_other_looks_are_drawn_where_they_were_looked_at() -> None:
    def ran(seed: int, curve: list[list[float]]) -> Result:
        return result(Run("a", seed, {"stage": TEST, "rate": 0.1}), curve=curve)

    curves = [[[10, 0.2], [20, 0.9]], [[10, 0.1], [30, 0.5], [60, 0.6]], []]
    found = results(*(ran(seed, curve) for seed, curve in enumerate(curves)))
    assert sorted(score_points(found, "a", 0.1)) == [
        (10, 0.1), (10, 0.2), (20, 0.9), (30, 0.5), (30, 0.9), (60, 0.6), (60, 0.9)
    ]  # fmt: skip


def test_the_rate_follows_the_steps() -> None:
    ensemble = Ensemble.of([Slope()], lambda call, batch: call() * batch, SGD())
    course = Course(limit=4, every=2, together=1, target=9)
    at: list[float] = []

    def look() -> Tensor:
        at.append(ensemble.parameters["at"].item())
        return torch.zeros(1)

    follow(ensemble, lambda a, b: torch.ones(b - a, 1), lambda step: step / 100, look, course)
    assert at == pytest.approx([0.99, 0.94])


def test_seeds_differ_by_every_word() -> None:
    seeds = [seed_of(word, n) for word in ("data", "weights") for n in range(50)]
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of("data", 1) == seed_of("data", 1)


def test_signed_ranks_are_those_of_scipy() -> None:
    from scipy.stats import wilcoxon

    generator = torch.Generator().manual_seed(0)
    for count in (5, 9, 12):
        values = (torch.randn(count, generator=generator) + 0.5).tolist()
        assert signed_rank_p(values) == pytest.approx(wilcoxon(values, method="exact").pvalue)


@given(st.lists(st.sampled_from([-3.0, -2.0, -1.0, 1.0, 2.0, math.inf]), min_size=1, max_size=7))
def test_signed_ranks_count_all_signs_ties_and_infinities(differences: list[float]) -> None:
    sizes = sorted(abs(d) for d in differences)
    rank = {s: sum(i + 1 for i, o in enumerate(sizes) if o == s) / sizes.count(s) for s in sizes}
    ranks = [rank[abs(d)] for d in differences]

    def above(signs: tuple[bool, ...] | list[bool]) -> float:
        return sum(r for r, plus in zip(ranks, signs, strict=True) if plus)

    ours = above([d > 0 for d in differences])
    low = min(ours, sum(ranks) - ours)
    drawn = [above(signs) for signs in product((True, False), repeat=len(ranks))]
    tail = sum(value <= low for value in drawn) / len(drawn)
    assert signed_rank_p(differences) == pytest.approx(min(1.0, 2 * tail))


def test_a_ratio_is_paired_and_counts_those_who_never_got_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(estimates, "RESAMPLES", 199)
    base = {seed: 100.0 * (seed + 1) for seed in range(10)}
    found = steps_ratio({seed: 0.8 * n for seed, n in base.items()}, base, 1e4)
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.8, 0.8))
    assert found.p == pytest.approx(2 / 2**10)
    halted = steps_ratio({s: math.inf if s < 2 else 0.8 * n for s, n in base.items()}, base, 1e4)
    assert halted is not None
    assert halted.p is not None
    assert halted.p > 0.05
    alone = steps_ratio(base, dict.fromkeys(base, math.inf), 2000)
    assert alone is not None
    assert alone.value == pytest.approx(550 / 2000)
    never = dict.fromkeys(base, math.inf)
    assert steps_ratio(never, never, 1e4) is None
    lost = steps_ratio(never, base, 1e4)
    assert lost is not None
    assert (lost.value, lost.low, lost.high, lost.seeds) == (math.inf, math.inf, math.inf, 10)
    assert lost.p == pytest.approx(2 / 2**10)
    half = steps_ratio({s: math.inf if s < 5 else 0.8 * n for s, n in base.items()}, base, 1e4)
    assert half is not None
    assert (half.value, half.low, half.high) == (math.inf, pytest.approx(0.8), math.inf)
    same = steps_ratio(base, base, 1e4)
    assert same is not None
    assert (same.value, same.p) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("value", "high", "p", "verdict"),
    [
        (0.7, 0.9, 0.01, Verdict.REPRODUCED),
        (0.9, 0.95, 0.01, Verdict.PARTLY),
        (0.7, 1.0, 0.01, Verdict.NOT_TESTABLE),
        (0.7, 0.9, 0.06, Verdict.NOT_TESTABLE),
        (0.7, 0.9, None, Verdict.NOT_TESTABLE),
        (1.3, 1.4, 0.01, Verdict.NOT_REPRODUCED),
        (1.0, 1.1, 1.0, Verdict.NOT_REPRODUCED),
        (math.inf, math.inf, 0.01, Verdict.NOT_REPRODUCED),
    ],
)
def test_faster_is_judged_by_interval_p_and_size(
    value: float, high: float, p: float | None, verdict: Verdict
) -> None:
    assert faster(0.76).judge(Estimate(value, value - 0.1, high, 10, p)) is verdict
    if verdict is Verdict.PARTLY:
        assert faster(1.0).judge(Estimate(value, value - 0.1, high, 10, p)) is Verdict.REPRODUCED
    assert "at least 50% of the published gain" in faster(0.76).words
    assert all(low != high for low, high in pairwise((faster(0.76).words, faster(1.0).words)))


def test_the_table_of_races_tells_when_seeds_got_there_at_each_rate() -> None:
    def ran(arm: str, seed: int, rate: float, steps: int | None, score: float) -> Result:
        run = Run(arm, seed, {"stage": TEST, "rate": rate})
        return result(run, steps=steps, score=score, parameters=1200)

    found = results(
        *raced({0.1: [20, 30, 40], 0.2: [50, 60, None]}),
        ran("a", 0, 0.1, 1000, 0.9),
        ran("a", 1, 0.1, 3000, 0.9),
        ran("a", 2, 0.1, None, 0.3),
        ran("a", 0, 0.01, None, 0.25),
        *raced({0.1: [20, 30, 40], 0.2: [50, 60, None]}, "b"),
    )
    assert race_table(found, ("a", "b"), 0.01).rows == (
        ("a", "0.1", "2 of 3", "3,000 (1,000 to not reached)", "0.7000", "1,200"),
        ("a", "0.01", "0 of 1", "not reached", "0.2500", "1,200"),
    )
    assert [row[1] for row in race_table(found, ("a",)).rows] == ["0.1"]
