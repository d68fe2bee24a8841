"""Paired statistics against scipy, against definitions, and by hand."""

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t, ttest_1samp, ttest_rel

from headway.report.statistics import (
    BETTER,
    CONFIDENCE,
    NOT_AFTER_HOLM,
    NOT_SEPARABLE,
    TOO_FEW,
    WORSE,
    PairedDifference,
    deviation_or_none,
    holm,
    mean_curve,
    mean_or_none,
    paired_difference,
    spread,
    tokens_to_reach,
    verdict,
)


@pytest.mark.parametrize("seeds", [2, 3, 5, 12])
def test_paired_difference_is_scipys(seeds: int) -> None:
    draw = random.Random(seeds)
    arm = {seed: draw.gauss(3, 0.1) for seed in range(seeds)}
    vanilla = {seed: draw.gauss(3, 0.1) for seed in range(seeds)}
    ours = paired_difference(arm, vanilla)
    test = ttest_rel(list(arm.values()), list(vanilla.values()))
    bounds = test.confidence_interval(CONFIDENCE)
    assert ours.p == pytest.approx(test.pvalue, rel=1e-9)
    assert ours.low == pytest.approx(bounds.low, rel=1e-9)
    assert ours.high == pytest.approx(bounds.high, rel=1e-9)


def test_paired_difference_by_hand() -> None:
    ours = paired_difference({0: 1.0, 1: 3.0, 2: 9.0}, {0: 2.0, 1: 3.0, 2: 8.0, 7: 1.0})
    assert ours.differences == {0: -1.0, 1: 0.0, 2: 1.0}
    assert ours.mean == 0.0
    assert ours.high == pytest.approx(4.302652729911275 / 3**0.5)  # t(0.975, 2), sd 1
    assert ours.low == pytest.approx(-4.302652729911275 / 3**0.5)
    assert ours.p == pytest.approx(1.0)


def test_too_few_seeds_have_no_interval() -> None:
    none = paired_difference({1: 2.0}, {2: 2.0})
    one = paired_difference({1: 2.5, 2: 0.0}, {1: 2.0})
    assert none == PairedDifference({}, None, None, None, None)
    assert one == PairedDifference({1: 0.5}, 0.5, None, None, None)
    assert verdict(none, None) == verdict(one, None) == TOO_FEW


def test_equal_differences_leave_no_doubt() -> None:
    same = paired_difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert (same.mean, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    assert verdict(same, same.p) == NOT_SEPARABLE
    lower = paired_difference({0: 1.0, 1: 2.0}, {0: 1.5, 1: 2.5})
    assert (lower.mean, lower.low, lower.high, lower.p) == (-0.5, -0.5, -0.5, 0.0)
    assert verdict(lower, lower.p) == BETTER


@pytest.mark.parametrize(
    ("low", "high", "holm_p", "expected"),
    [
        (-0.3, -0.1, 0.01, BETTER),
        (0.1, 0.3, 0.01, WORSE),
        (-0.1, 0.3, 0.4, NOT_SEPARABLE),
        (-0.3, 0.0, 0.04, NOT_SEPARABLE),
        (-0.3, -0.1, 0.05, NOT_AFTER_HOLM),
        (0.1, 0.3, 0.2, NOT_AFTER_HOLM),
        (None, None, None, TOO_FEW),
    ],
)
def test_verdict(
    low: float | None, high: float | None, holm_p: float | None, expected: str
) -> None:
    assert verdict(PairedDifference({}, 0.0, low, high, holm_p), holm_p) == expected


probabilities = st.lists(st.floats(0, 1), max_size=9)


@given(probabilities)
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float]) -> None:
    """At every level: walk up the sorted p-values, reject while p (m - k) <= level, then stop."""
    corrected = holm(p_values)
    for level in (0.001, 0.01, 0.05, 0.3, 0.8):
        rejected = set()
        for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if (len(p_values) - rank) * p_values[index] > level:
                break
            rejected.add(index)
        assert rejected == {index for index, p in enumerate(corrected) if p <= level}


@given(probabilities)
def test_holm_lies_between_plain_and_bonferroni(p_values: list[float]) -> None:
    for plain, corrected in zip(p_values, holm(p_values), strict=True):
        assert plain <= corrected <= min(1.0, len(p_values) * plain) or plain == corrected == 0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_interval_covers_as_often_as_it_says() -> None:
    draw = random.Random(3)
    tries, hits = 800, 0
    for _ in range(tries):
        ours = paired_difference(
            {s: draw.gauss(0.2, 1) for s in range(5)}, dict.fromkeys(range(5), 0.0)
        )
        assert ours.low is not None
        assert ours.high is not None
        hits += ours.low <= 0.2 <= ours.high
    error = (CONFIDENCE * (1 - CONFIDENCE) / tries) ** 0.5
    assert abs(hits / tries - CONFIDENCE) < 4 * error


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8, unique=True))
def test_interval_and_p_agree(values: list[float]) -> None:
    ours = paired_difference(dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0))
    assert ours.low is not None
    assert ours.high is not None
    assert ours.p is not None
    if abs(ours.p - (1 - CONFIDENCE)) > 1e-6:
        assert (ours.low <= 0 <= ours.high) == (ours.p > 1 - CONFIDENCE)


def test_scipy_agrees_on_one_sample() -> None:
    values = [0.1, 0.25, -0.05, 0.3]
    ours = paired_difference(dict(enumerate(values)), dict.fromkeys(range(4), 0.0))
    assert ours.p == pytest.approx(ttest_1samp(values, 0).pvalue)
    assert ours.high == pytest.approx(
        0.15 + t.ppf(0.975, 3) * (sum((v - 0.15) ** 2 for v in values) / 12) ** 0.5
    )


@pytest.mark.parametrize(
    ("target", "expected"),
    [(5.0, 10), (4.0, 10), (3.0, 15), (2.5, 17.5), (1.0, 40), (0.5, None)],
)
def test_tokens_to_reach_by_hand(target: float, expected: float | None) -> None:
    curve = [(10, 4.0), (20, 2.0), (30, 3.0), (40, 1.0)]
    assert tokens_to_reach(curve, target) == expected


def test_tokens_to_reach_of_nothing() -> None:
    assert tokens_to_reach([], 1.0) is None


@given(st.lists(st.integers(1, 50), min_size=2, max_size=8), st.integers(1, 60))
def test_tokens_to_reach_is_the_first_crossing(losses: list[int], target: int) -> None:
    curve = [(float(step), float(loss)) for step, loss in enumerate(losses)]
    found = tokens_to_reach(curve, target)
    if found is None:
        assert min(losses) > target
        return
    step = int(found) if found == int(found) else int(found) + 1
    assert all(loss > target for loss in losses[:step])
    if step and found != step:
        share = Fraction(found).limit_denominator(10**6) - (step - 1)
        assert losses[step - 1] + share * (losses[step] - losses[step - 1]) == pytest.approx(target)


def test_mean_curve_takes_the_points_that_all_have() -> None:
    assert mean_curve([{1: 2.0, 2: 4.0, 3: 9.0}, {3: 1.0, 1: 4.0}]) == [(1, 3.0), (3, 5.0)]
    assert mean_curve([]) == []


def test_spread_and_means() -> None:
    found = spread([3.0, 1.0, 2.0])
    assert found is not None
    assert (found.median, found.low, found.high) == (2.0, 1.0, 3.0)
    assert spread([]) is None
    assert mean_or_none([1.0, None, 2.0]) == 1.5
    assert mean_or_none([None]) is None
    assert deviation_or_none([1.0, 3.0]) == pytest.approx(2**0.5)
    assert deviation_or_none([1.0]) is None
