"""Fractional factorials: balance, resolution, and effects that are found where they were put."""

from __future__ import annotations

import random
from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.errors import HeadwayError
from headway.studies.combine.factorial import Factorial, Subset
from headway.studies.combine.parts import DESIGN

NAMES = ("a", "b", "c", "d")
HALF = Factorial(NAMES, {"e": ("a", "b", "c", "d")})
SEVEN = Factorial(NAMES, {"e": ("a", "b", "c"), "f": ("b", "c", "d"), "g": ("a", "c", "d")})
DESIGNS = [DESIGN, HALF, SEVEN, Factorial(NAMES, {"e": ("a", "b", "c")})]


def level(factor: str, run: Subset) -> int:
    return 1 if factor in run else -1


@pytest.mark.parametrize("design", DESIGNS)
def test_every_factor_and_every_pair_is_balanced(design: Factorial) -> None:
    runs = design.runs
    assert len(set(runs)) == len(runs) == 2 ** len(design.basic)
    for one in design.factors:
        assert sum(level(one, run) for run in runs) == 0
    for one, two in combinations(design.factors, 2):
        assert sum(level(one, run) * level(two, run) for run in runs) == 0


@pytest.mark.parametrize("design", DESIGNS)
def test_words_of_the_defining_relation_are_the_same_in_all_runs(design: Factorial) -> None:
    assert len(design.defining) == 2 ** len(design.generated) - 1
    for word in design.defining:
        products = set()
        for run in design.runs:
            sign = 1
            for factor in word:
                sign *= level(factor, run)
            products.add(sign)
        assert len(products) == 1


def test_the_design_of_the_study_is_of_resolution_four() -> None:
    assert DESIGN.defining == (
        ("stream", "shift", "temperature", "norm"),
        ("shift", "temperature", "depth", "gate"),
        ("stream", "depth", "norm", "gate"),
    )
    assert (len(DESIGN.runs), len(DESIGN.factors), DESIGN.resolution) == (16, 6, 4)
    assert (SEVEN.resolution, HALF.resolution) == (4, 5)
    # Nothing and everything are among the runs: generators have an odd number of letters.
    assert DESIGN.runs[0] == ()
    assert DESIGN.runs[-1] == DESIGN.factors
    # No pair is a main effect in disguise.
    for one, two, three in combinations(DESIGN.factors, 3):
        assert sum(level(one, r) * level(two, r) * level(three, r) for r in DESIGN.runs) == 0


@settings(max_examples=30)
@given(
    st.lists(st.floats(-2, 2), min_size=6, max_size=6),
    st.lists(st.floats(-5, 5), min_size=1, max_size=3),
)
def test_effects_are_found_where_they_were_put(adds: list[float], means: list[float]) -> None:
    by_factor = dict(zip(DESIGN.factors, adds, strict=True))
    responses = {
        run: {seed: mean + sum(by_factor[f] for f in run) for seed, mean in enumerate(means)}
        for run in DESIGN.runs
    }
    found = DESIGN.effects(responses)
    for factor, added in by_factor.items():
        assert found[factor].value == pytest.approx(added, abs=1e-9)
        assert found[factor].low <= found[factor].value <= found[factor].high
        assert found[factor].seeds == len(means)


def test_an_interaction_moves_no_main_effect_and_widens_all_intervals() -> None:
    draw = random.Random(0)

    def responses(interaction: float) -> dict[Subset, dict[int, float]]:
        found = {}
        for run in DESIGN.runs:
            together = level("shift", run) * level("gate", run)
            found[run] = {0: 0.01 * draw.gauss(0, 1) + interaction * together}
        return found

    without, with_it = (DESIGN.effects(responses(size)) for size in (0.0, 0.2))
    for factor in DESIGN.factors:
        assert abs(with_it[factor].value) < 0.05
        assert with_it[factor].high - with_it[factor].low > 5 * (
            without[factor].high - without[factor].low
        )


def test_an_interaction_is_found_among_pairs_that_cannot_be_told_apart() -> None:
    responses = {
        run: {0: 3 - 0.4 * ("stream" in run) + 0.05 * level("shift", run) * level("gate", run)}
        for run in DESIGN.runs
    }
    found = DESIGN.interactions(responses)
    largest, *others = found
    assert ("shift", "gate") in largest
    assert found[largest] == pytest.approx(0.1)
    assert all(found[pairs] == pytest.approx(0, abs=1e-12) for pairs in others)
    assert sorted(pair for pairs in found for pair in pairs) == sorted(
        combinations(DESIGN.factors, 2)
    )
    for pairs in found:
        for one, other in combinations(pairs, 2):
            word = tuple(f for f in DESIGN.factors if (f in one) != (f in other))
            assert word in DESIGN.defining
    assert DESIGN.interactions({}) == {}


def test_intervals_hold_what_they_say() -> None:
    draw = random.Random(1)
    held = []
    for _ in range(300):
        by_seed = {seed: draw.gauss(0, 3) for seed in range(2)}
        found = DESIGN.effects(
            {
                run: {seed: mean + draw.gauss(0, 1) for seed, mean in by_seed.items()}
                for run in DESIGN.runs
            }
        )
        for effect in found.values():
            assert effect.p is not None
            held.append(effect.low <= 0 <= effect.high)
            assert held[-1] == (effect.p >= 0.05)
    assert 0.93 < fmean(held) < 0.97


def test_only_seeds_that_all_runs_have_count() -> None:
    whole = {run: {0: 1.0 * len(run), 1: 2.0 * len(run)} for run in DESIGN.runs}
    del whole[DESIGN.runs[3]][1]
    assert DESIGN.effects(whole)["shift"].value == pytest.approx(1)
    assert DESIGN.effects(whole)["shift"].seeds == 1
    del whole[DESIGN.runs[3]]
    assert DESIGN.effects(whole) == {}


@pytest.mark.parametrize(
    ("basic", "generated", "told"),
    [
        (("a", "a", "b", "c"), {}, "names one twice"),
        (NAMES, {"a": ("b", "c")}, "names one twice"),
        (NAMES, {"e": ("a", "b", "f")}, "'e' of a, b, f is not accepted"),
        (NAMES, {"e": ()}, "'e' of nothing is not accepted"),
        (("a", "b"), {"c": ("a", "b")}, "3 are not accepted; accepted are at most 2"),
    ],
)
def test_designs_without_meaning_are_refused(
    basic: Subset, generated: dict[str, Subset], told: str
) -> None:
    with pytest.raises(HeadwayError, match=told):
        Factorial(basic, generated)
