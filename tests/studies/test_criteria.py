"""Criteria: the rule of verdicts, which is the same for all of them, and the words that say it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.report.statistics import SIGNIFICANCE
from headway.studies.catalogue import CLAIM_STUDIES
from headway.studies.criteria import (
    EVERY_SEED,
    MEANING,
    SURE,
    Criterion,
    Estimate,
    Verdict,
    at_least,
    at_most,
    beyond_zero,
    difference,
    no_difference,
    share_error,
    verdict_of,
    within,
)
from headway.studies.estimates import share_of_seeds
from headway.studies.races.speed import faster

YES, PARTLY, NO = Verdict.REPRODUCED, Verdict.PARTLY, Verdict.NOT_REPRODUCED
OPEN = Verdict.NOT_TESTABLE


@pytest.mark.parametrize(
    ("criterion", "value", "low", "high", "verdict"),
    [
        (within(0.9, 0.015), 0.905, 0.89, 0.915, YES),
        (within(0.9, 0.015), 0.905, 0.88, 0.915, OPEN),
        (within(0.9, 0.015), 0.95, 0.91, 0.99, OPEN),
        (within(0.9, 0.015), 0.95, 0.92, 0.98, NO),
        (within(0.9, 0.015, 0.01), 0.92, 0.917, 0.923, PARTLY),
        (within(0.9, 0.015, 0.01), 0.95, 0.92, 0.98, OPEN),
        (within(0.9, 0.015, 0.01), 0.85, 0.80, 0.87, NO),
        (at_most(1.0), 0.9, 0.8, 1.0, YES),
        (at_most(1.0), 0.9, 0.8, 1.1, OPEN),
        (at_most(1.0), 1.1, 0.8, 1.2, OPEN),
        (at_most(1.0), 1.2, 1.1, 1.3, NO),
        (at_least(1.0), 1.1, 1.0, 1.2, YES),
        (at_least(1.0), 1.1, 0.9, 1.2, OPEN),
        (at_least(1.0), 0.9, 0.8, 1.2, OPEN),
        (at_least(1.0), 0.8, 0.7, 0.9, NO),
        (difference(-0.03), -0.02, -0.03, -0.01, YES),
        (difference(-0.03), -0.01, -0.012, -0.008, PARTLY),
        (difference(-0.03), -0.02, -0.05, 0.01, OPEN),
        (difference(-0.03), 0.01, -0.015, 0.03, OPEN),
        (difference(-0.03), -0.001, -0.014, 0.012, NO),
        (difference(-0.03), 0.02, 0.01, 0.03, NO),
        (difference(24, share=1), 24, 20, 28, YES),
        (difference(24, share=1), 23, 20, 26, PARTLY),
        (difference(24, share=1), 11, -2, 24, OPEN),
        (difference(24, share=1), 11, -2, 23, NO),
        (beyond_zero(-0.005), -0.001, -0.002, -0.0005, YES),
        (beyond_zero(-0.005), -0.001, -0.005, 0.003, OPEN),
        (beyond_zero(-0.005), -0.001, -0.004, 0.003, NO),
        (beyond_zero(-0.005), 0.02, 0.01, 0.03, NO),
        (beyond_zero(0.02), 0.01, 0.001, 0.03, YES),
        (beyond_zero(0.02), 0.01, -0.001, 0.03, OPEN),
        (beyond_zero(0.02), 0.01, -0.001, 0.019, NO),
        (no_difference(0.01), 0.001, -0.009, 0.008, YES),
        (no_difference(0.01), 0.001, -0.02, 0.03, OPEN),
        (no_difference(0.01), 0.02, 0.005, 0.03, OPEN),
        (no_difference(0.01), 0.02, 0.015, 0.03, NO),
    ],
)
def test_criteria(
    criterion: Criterion, value: float, low: float, high: float, verdict: Verdict
) -> None:
    assert criterion.judge(Estimate(value, low, high, 10, p=0.01)) == verdict


@pytest.mark.parametrize("p", [0.05, None])
def test_a_difference_that_holm_takes_away_is_partly_reproduced_where_it_is_large(
    p: float | None,
) -> None:
    ours = Estimate(-0.02, -0.03, -0.01, 10, p=0.04)
    assert difference(-0.03).judge(ours) == beyond_zero(-0.005).judge(ours) == YES
    assert difference(-0.03).judge(replace(ours, p=p)) == PARTLY
    assert beyond_zero(-0.005).judge(replace(ours, p=p)) == PARTLY
    small = replace(ours, value=-0.012)
    assert difference(-0.03).judge(small) == PARTLY
    assert difference(-0.03).judge(replace(small, p=p)) == OPEN  # both are missing
    assert difference(-0.03).judge(replace(small, low=-0.014, p=p)) == NO


@pytest.mark.parametrize(
    ("there", "seeds", "verdict"),
    [(12, 12, YES), (6, 6, YES), (5, 5, OPEN), (1, 1, OPEN), (11, 12, NO), (2, 3, NO), (0, 3, NO)],
)
def test_every_seed_is_open_for_few_of_them_and_ruled_out_by_one(
    there: int, seeds: int, verdict: Verdict
) -> None:
    ours = share_of_seeds({seed: seed < there for seed in range(seeds)})
    assert ours is not None
    assert EVERY_SEED.judge(ours) is verdict


def test_the_error_of_a_published_share_follows_from_its_trials() -> None:
    assert share_error(0.5, 100) == pytest.approx(0.098)
    assert share_error(17 / 128, 128) == pytest.approx(0.0588, abs=1e-4)
    assert share_error(1.0, 1000) == share_error(0.0, 1000) == 0


def test_the_rule_is_one() -> None:
    for counts, weaker, reaches in product((True, False), repeat=3):
        verdict = verdict_of(counts=counts, weaker=weaker, reaches=reaches)
        assert (verdict is YES) == counts
        assert (verdict is PARTLY) == (weaker and not counts)
        assert (verdict is NO) == (not counts and not weaker and not reaches)
    assert set(MEANING) == set(Verdict)


REGIONS = [
    pytest.param(at_least(1.0), 1.0, math.inf, 0.0, id="at least"),
    pytest.param(at_most(1.0), -math.inf, 1.0, 0.0, id="at most"),
    pytest.param(within(1.0, 0.5), 0.5, 1.5, 0.0, id="within"),
    pytest.param(within(1.0, 0.5, 0.25), 0.5, 1.5, 0.25, id="within, with an error"),
    pytest.param(no_difference(0.5), -0.5, 0.5, 0.0, id="no difference"),
]
"""Criteria of where a figure lies: from where to where it counts, and how much further it would
with the sampling error of the published figure."""
EIGHTHS = st.integers(-24, 24).map(lambda n: n / 8)


@pytest.mark.parametrize(("criterion", "least", "most", "error"), REGIONS)
@given(ends=st.tuples(EIGHTHS, EIGHTHS), share=st.floats(0, 1), p=st.none() | st.floats(0, 1))
def test_where_an_interval_lies_gives_the_verdict_and_where_our_figure_lies_in_it_does_not(
    criterion: Criterion, least: float, most: float, error: float,
    ends: tuple[float, float], share: float, p: float | None,
) -> None:  # fmt: skip
    low, high = sorted(ends)
    verdict = criterion.judge(Estimate(low + share * (high - low), low, high, 10, p))
    near, far = least - error, most + error
    assert (verdict is YES) == (least <= low and high <= most)
    assert (verdict is NO) == (high < near or low > far)
    assert (verdict is PARTLY) == (verdict is not YES and near <= low and high <= far)
    if (low < near <= high) or (low <= far < high):
        assert verdict is OPEN


def _judged_by() -> list[Criterion]:
    """Criteria of all claims, each once."""
    all_ = {c.criterion.words: c.criterion for study in CLAIM_STUDIES for c in study.claims}
    assert all_[EVERY_SEED.words] is EVERY_SEED
    return list(all_.values())


@pytest.mark.parametrize("criterion", _judged_by(), ids=lambda c: c.words[:40])
def test_of_an_interval_that_holds_everything_no_claim_is_judged(criterion: Criterion) -> None:
    for value, p in product((-1e6, 0.0, 1.0, 1e6), (None, 0.01, 1.0)):
        assert criterion.judge(Estimate(value, -1e9, 1e9, 10, p)) is OPEN


GAINS = [
    pytest.param(difference(-0.03), 0.0, -0.015, -0.03, id="difference below"),
    pytest.param(difference(24, share=1), 0.0, 24.0, 24, id="difference above"),
    pytest.param(beyond_zero(-0.005), 0.0, -0.005, None, id="below"),
    pytest.param(beyond_zero(0.02, ".0%"), 0.0, 0.02, None, id="above"),
    pytest.param(faster(0.76), 1.0, 0.88, 0.76, id="faster"),
    pytest.param(faster(0.5, share=1), 1.0, 0.5, 0.5, id="much faster"),
    pytest.param(faster(1.0), 1.0, 0.95, None, id="faster at all"),
]
"""Criteria of a gain, the figure that is none, the least that counts and the published one."""
RANKS = [NO, OPEN, PARTLY, YES]
P_VALUES = st.none() | st.floats(0, 1)
PARTS = st.floats(0, 3)


@pytest.mark.parametrize(("criterion", "none", "least", "published"), GAINS)
@given(inner=PARTS, outer=PARTS, beyond=PARTS, p=P_VALUES)
def test_a_verdict_gets_no_worse_as_the_interval_closes_on_what_counts(
    criterion: Criterion, none: float, least: float, published: float | None,
    inner: float, outer: float, beyond: float, p: float | None,
) -> None:  # fmt: skip
    gain = least - none
    value = least + beyond * gain
    near, far = (
        criterion.judge(Estimate(value, value - reach, value + reach, 10, p))
        for reach in sorted((inner * abs(gain), outer * abs(gain)))
    )
    assert RANKS.index(near) >= RANKS.index(far) >= RANKS.index(OPEN)


@pytest.mark.parametrize(("criterion", "none", "least", "published"), GAINS)
@given(value=st.floats(-3, 3), below=PARTS, above=PARTS, p=P_VALUES)
def test_what_is_reproduced_is_sure(
    criterion: Criterion, none: float, least: float, published: float | None,
    value: float, below: float, above: float, p: float | None,
) -> None:  # fmt: skip
    gain = least - none
    ours, low, high = (none + part * gain for part in (value, value - below, value + above))
    judged = criterion.judge(Estimate(ours, min(low, high), max(low, high), 10, p))
    if judged is YES:
        assert p is not None
        assert p < SIGNIFICANCE
    if judged in (YES, PARTLY):
        assert (low > none) == (high > none) == (gain > 0)
    if judged is OPEN and (p is None or p < SIGNIFICANCE / 2):
        assert max(value, value + above) >= 1 - 1e-9


@pytest.mark.parametrize(("criterion", "none", "least", "published"), GAINS)
@given(value=st.floats(-3, 3), below=PARTS, above=PARTS, step=PARTS, p=P_VALUES)
def test_a_verdict_gets_no_worse_as_an_interval_moves_to_what_counts(
    criterion: Criterion, none: float, least: float, published: float | None,
    value: float, below: float, above: float, step: float, p: float | None,
) -> None:  # fmt: skip
    def judged(moved: float) -> Verdict:
        parts = (value + moved, value - below + moved, value + above + moved)
        ours, *ends = (none + part * (least - none) for part in parts)
        return criterion.judge(Estimate(ours, min(ends), max(ends), 10, p))

    assert RANKS.index(judged(step)) >= RANKS.index(judged(0.0))


@pytest.mark.parametrize(("criterion", "none", "least", "published"), GAINS)
@given(below=st.floats(1e-3, 3), above=st.floats(1e-3, 3), value=st.floats(0, 1), p=P_VALUES)
def test_an_interval_around_the_least_that_counts_and_none_is_left_open(
    criterion: Criterion, none: float, least: float, published: float | None,
    below: float, above: float, value: float, p: float | None,
) -> None:  # fmt: skip
    ours, *ends = (none + part * (least - none) for part in (value, -below, 1 + above))
    assert criterion.judge(Estimate(ours, min(ends), max(ends), 10, p)) is OPEN


@pytest.mark.parametrize(("criterion", "none", "least", "published"), GAINS)
def test_words_and_verdicts_draw_the_same_line(
    criterion: Criterion, none: float, least: float, published: float | None
) -> None:
    """The line that the words name, between what is left open and what is ruled out."""
    sure, _, there = criterion.words.partition("; ruled out where the interval ends short of ")
    side = "below" if least < none else "above"
    assert sure.startswith(f"{side} {'zero' if none == 0 else '1'} with its interval, {SURE}")
    if there:
        line = float(there.removesuffix("%")) / (100 if there.endswith("%") else 1)
    else:
        share = re.search(r"at least (\d+)% of the published", sure)
        assert share is not None
        assert published is not None
        line = none + int(share[1]) / 100 * (published - none)
    assert line == pytest.approx(least)
    wrong = none - (least - none)
    for inside, verdict in ((1e-6, NO), (-1e-6, OPEN)):
        end = line - inside * (line - none)
        assert criterion.judge(Estimate(none, min(wrong, end), max(wrong, end), 10, 1)) == verdict
    low, high = sorted((line + (line - none), none + (line - none) / 10))
    small = Estimate(none + (line - none) / 2, low, high, 10, p=0.01)
    large = replace(small, value=line + (line - none) / 2, p=0.2)
    assert (criterion.judge(small) == PARTLY) == ("partly: less of it" in sure)
    assert (criterion.judge(large) == PARTLY) == ("without the p-value" in sure)
    neither = criterion.judge(replace(small, p=0.2))
    assert (neither == PARTLY) == (sure.endswith("partly: without the p-value"))


def test_criteria_say_their_numbers() -> None:
    assert within(0.9, 0.015, 0.02, ".1%").words == (
        "within 1.5% of it with its interval; partly: its own sampling error of 2.0% added; ruled "
        "out beyond that"
    )
    assert within(0.9, 0.015, shown=".1%").words == "within 1.5% of it with its interval"
    assert at_most(1).words == "at most 1 with its interval"
    assert at_least(0.05, shown=".0%").words == "at least 5% with its interval"
    assert "at least 50% of the published" in difference(-1).words
    assert difference(-1).words.startswith("below zero")
    assert difference(1).words.startswith("above zero")
    assert no_difference(0.01).words == "within 0.01 of zero with its interval"
