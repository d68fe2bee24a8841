"""Intervals and verdicts of claims."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean, median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_studies import ALWAYS, claim, fixed, results
from scipy import stats

from headway.report.statistics import holm
from headway.studies import estimates
from headway.studies.claim_page import told
from headway.studies.claims import NOT_TESTED, findings
from headway.studies.criteria import (
    Estimate,
    Verdict,
    at_least,
    difference,
    within,
)
from headway.studies.estimates import mean_of, median_ratio, paired, resampled, share_of_seeds
from headway.studies.races.speed import as_seen, faster, seen_ratio

YES, PARTLY, NO = Verdict.REPRODUCED, Verdict.PARTLY, Verdict.NOT_REPRODUCED
OPEN = Verdict.NOT_TESTABLE
STEPS = st.sampled_from([10.0, 20.0, 30.0, math.inf])


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["", "untested", "late"])), max_size=7))
def test_p_values_are_corrected_apart_for_what_is_asked_besides(
    drawn: list[tuple[float, str]],
) -> None:
    fields = {"": {}, "untested": {"told": NOT_TESTED}, "late": {"asked": "2026-01-02"}}
    claims = [
        claim(estimate=lambda _, p=p: Estimate(0.0, -1.0, 1.0, 3, p), **fields[kind])
        for p, kind in drawn
    ]
    found = findings(claims, results({"base": {0: 1.0}, "arm": {0: 1.0}}))
    for besides in (False, True):
        own = [i for i, (_, kind) in enumerate(drawn) if bool(kind) == besides]
        corrected = [one.p for i in own if (one := found[i].ours) is not None]
        assert corrected == holm([drawn[i][0] for i in own])
    together = [other.ours.p for one in found if (other := one.in_one_family) and other.ours]
    assert together == holm([p for p, _ in drawn])


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12))
def test_a_mean_has_scipys_interval(values: list[float]) -> None:
    found = mean_of(dict(enumerate(values)))
    assert found is not None
    assert found.seeds == len(values)
    assert math.isclose(found.value, fmean(values), abs_tol=1e-12)
    error = stats.sem(values)
    if error > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, fmean(values), error)
        assert math.isclose(found.low, low, rel_tol=1e-9, abs_tol=1e-9)
        assert math.isclose(found.high, high, rel_tol=1e-9, abs_tol=1e-9)
    assert mean_of({0: 1.0}) is None


def test_a_paired_difference_takes_the_seeds_that_both_have() -> None:
    found = paired({1: 1.0, 2: 3.0, 3: 4.0, 9: 7.0}, {1: 0.0, 2: 1.0, 3: 3.0, 8: 5.0})
    assert found is not None
    assert (found.seeds, found.value) == (3, pytest.approx(4 / 3))
    wanted = stats.ttest_rel([1, 3, 4], [0, 1, 3])
    assert found.p == pytest.approx(wanted.pvalue)
    low, high = wanted.confidence_interval()
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_an_interval_ends_at_the_bounds_of_its_measure(values: list[float]) -> None:
    free, cut = mean_of(dict(enumerate(values))), mean_of(dict(enumerate(values)), bounds=(0, 1))
    assert free is not None
    assert cut == replace(free, low=max(0.0, free.low), high=min(1.0, free.high))


def test_the_interval_of_a_difference_ends_at_its_bounds_and_its_p_value_stays() -> None:
    arm, base = {0: 1.0, 1: 0.9, 2: 1.0}, {0: 0.0, 1: 0.3, 2: 0.0}
    free, cut = paired(arm, base), paired(arm, base, bounds=(-1, 1))
    assert free is not None
    assert free.high > 1
    assert cut == replace(free, high=1)
    below = paired(base, arm, bounds=(-1, 1))
    assert below == replace(cut, value=-cut.value, low=-1, high=-cut.low)


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_a_share_of_seeds_has_the_exact_interval(seeds: list[bool]) -> None:
    """Clopper and Pearson's: quantiles of beta distributions."""
    found = share_of_seeds(dict(enumerate(seeds)))
    assert found is not None
    n, k = len(seeds), sum(seeds)
    low = stats.beta.ppf(0.025, k, n - k + 1) if k else 0.0
    high = stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
    assert (found.value, found.seeds, found.p) == (k / n, n, None)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.low < found.high
    assert share_of_seeds({}) is None


NEVER = math.inf


@pytest.mark.parametrize(
    ("arm", "base", "verdict"),
    [
        (100, 100, YES),
        (100, 200, NO),
        (NEVER, 400, YES),  # slower than the limit allows to see
        (390, NEVER, None),  # at the limit the base would be no slower; when it is, is not known
        (100, NEVER, NO),  # faster, however late the base
    ],
)
def test_slowness_that_was_not_seen_meets_no_criterion(
    arm: float, base: float, verdict: Verdict | None
) -> None:
    slow = as_seen(at_least(0.9))
    steps, others = dict.fromkeys(range(10), arm), dict.fromkeys(range(10), base)
    found = seen_ratio(slow, steps, others, 400)
    assert (found and slow.judge(found)) == verdict
    assert slow.words.startswith(at_least(0.9).words + "; not testable where that hangs on how")


def test_a_seed_whose_ratio_is_not_known_does_not_hinder_where_others_decide() -> None:
    others = {**dict.fromkeys(range(10), 100.0), 0: NEVER}
    found = seen_ratio(at_least(0.9), dict.fromkeys(range(10), 150.0), others, 400)
    assert found is not None
    assert (found.value, found.seeds) == (1.5, 10)


def test_the_bootstrap_interval_is_scipys() -> None:
    values = [0.3, 0.9, 1.4, 0.7, 0.8, 1.1, 0.2, 0.75, 0.66, 0.91]
    found = resampled([(v,) for v in values], lambda rows: fmean(r[0] for r in rows))
    wanted = stats.bootstrap((values,), fmean, method="percentile", vectorized=False,
                             rng=0).confidence_interval  # fmt: skip
    assert found is not None
    assert found.low == pytest.approx(wanted.low, abs=0.01)
    assert found.high == pytest.approx(wanted.high, abs=0.01)
    assert resampled([(1.0,)], lambda rows: 0.0) is None


def test_a_median_ratio_counts_runs_that_never_got_there() -> None:
    never = math.inf
    found = median_ratio(dict.fromkeys(range(9), 76.0), dict.fromkeys(range(9), 100.0))
    assert found is not None
    assert (found.value, found.low, found.high, found.seeds) == (0.76, 0.76, 0.76, 9)
    one = median_ratio({0: 50, 1: never, 2: 60, 3: never}, {0: 100, 1: 100, 2: never, 3: never})
    assert one is not None
    assert (one.value, one.seeds, one.high) == (median([0.5, never, 0.0]), 3, never)
    lost = median_ratio({0: never, 1: never, 2: 1}, {0: 1, 1: 1, 2: 1})
    assert lost is not None
    assert (lost.value, lost.low, lost.high, lost.seeds) == (never, 1.0, never, 3)
    assert median_ratio({0: never, 1: never, 2: 1}, {0: never, 1: never, 2: 1}) is None


@given(st.lists(st.tuples(STEPS, STEPS), min_size=2, max_size=9))
def test_a_median_ratio_is_infinite_where_the_arm_got_there_in_half_of_the_seeds_or_fewer(
    steps: list[tuple[float, float]],
) -> None:
    arm, base = (dict(enumerate(column)) for column in zip(*steps, strict=True))
    counted = [pair for pair in steps if min(pair) < math.inf]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(estimates, "RESAMPLES", 99)
        found = median_ratio(arm, base)
    assert (found is None) == (len(counted) < 2)
    if found is not None:
        there = sum(n < math.inf for n, _ in counted)
        assert math.isinf(found.value) == (2 * there <= len(counted))
        assert found.low <= found.value <= found.high


@pytest.mark.parametrize(
    ("low", "text", "verdict"), [(math.inf, "inf", NO), (0.5, "inf [0.50, inf]", OPEN)]
)
def test_an_infinite_ratio_is_told_and_judged(low: float, text: str, verdict: Verdict) -> None:
    ours = Estimate(math.inf, low, math.inf, 10, p=0.01)
    slow = claim("slow", criterion=faster(0.76), estimate=lambda _: ours, shown=".2f")
    small = claim("small", criterion=difference(-1), estimate=fixed(-1, -1, -1))
    one, other = findings((slow, small), results({"base": {0: 1.0}, "arm": {0: 1.0}}))
    assert (one.our_text, one.verdict, one.ours) == (text, verdict, ours)
    assert other.ours is not None
    assert other.ours.p is None


def test_every_claim_gets_one_of_four_verdicts_or_waits() -> None:
    losses = {"base": {s: 3.0 + s / 100 for s in range(5)}}
    losses["arm"] = {s: 2.0 + s / 100 + s % 2 / 100 for s in range(5)}
    claims = (
        claim("near"),
        claim("nearly", criterion=within(-0.88, 0.1, 0.05)),
        claim("far", criterion=within(-0.5, 0.1)),
        claim("too few", seeds=6),
        claim("too small", sizes=("small",)),
        claim("nobody got there", estimate=lambda _: None),
        claim("waits", arms=("other",)),
        claim("waits too", arms=("arm", "other")),
    )
    found = findings(claims, results(losses))
    assert [f.verdict for f in found] == [
        YES, PARTLY, NO, *[Verdict.NOT_TESTABLE] * 3, None, None
    ]  # fmt: skip
    assert found[0].our_text.startswith("-0.996 [-")
    assert found[-1].our_text == "none"
    assert told(found) == ("1 reproduced, 1 partly, 1 not reproduced, 3 not testable at this scale")


def test_p_values_are_corrected_over_the_claims_of_a_study() -> None:
    def with_p(p: float) -> Any:
        return lambda _: Estimate(-1.0, -1.5, -0.5, 10, p)

    claims = [
        claim(f"{p}", criterion=difference(-1.0), estimate=with_p(p)) for p in (0.03, 0.01, 0.04)
    ]
    claims.append(claim("none", criterion=ALWAYS, estimate=fixed(1, 1, 1)))
    found = findings(claims, results({"base": {0: 1.0}, "arm": {0: 1.0}}))
    shown = [f.ours.p if f.ours else None for f in found]
    assert shown == [pytest.approx(0.06), pytest.approx(0.03), pytest.approx(0.06), None]
    assert [f.verdict for f in found] == [PARTLY, YES, PARTLY, YES]
    assert [f.verdict for f in findings(claims[:1], results({"base": {0: 1}, "arm": {0: 1}}))] == [
        YES
    ]
