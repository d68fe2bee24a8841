"""What counts as reproduced: the same in words and as a function of our figure.

A study says it before anything is run. Verdicts are computed from results, never typed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from headway.report.statistics import SIGNIFICANCE


class Verdict(StrEnum):
    """What a study says of a claim: the last one too where seeds are too few to tell."""

    REPRODUCED = "reproduced"
    PARTLY = "partly"
    NOT_REPRODUCED = "not reproduced"
    NOT_TESTABLE = "not testable at this scale"


@dataclass(frozen=True)
class Estimate:
    """Our figure.

    Attributes:
        value: of the figure.
        low, high: its 95 % interval; both are the value where nothing is drawn at random.
        seeds: that it was taken from.
        p: that there is no difference, where the figure is one; Holm-corrected over claims of
            a study before it is judged.
    """

    value: float
    low: float
    high: float
    seeds: int
    p: float | None = None


@dataclass(frozen=True)
class Criterion:
    """What counts as reproduced: the same in words and as a function of our figure."""

    words: str
    judge: Callable[[Estimate], Verdict]


def within(published: float, tolerance: float, error: float = 0.0, shown: str = "g") -> Criterion:
    """A figure whose whole interval lies near the published one; partly, an interval that reaches
    as near, the sampling error of the published figure added."""

    def judge(ours: Estimate) -> Verdict:
        low, high = published - tolerance, published + tolerance
        return _reaches(
            low <= ours.low and ours.high <= high,
            low - error <= ours.high and ours.low <= high + error,
        )

    added = f", its own sampling error of {error:{shown}} added" if error else ""
    return Criterion(
        f"within {tolerance:{shown}} of it with its interval; partly: an interval that reaches "
        f"there{added}",
        judge,
    )


def at_most(limit: float, shown: str = "g") -> Criterion:
    """A figure whose whole interval is not above the limit; partly, the figure alone."""
    return Criterion(
        f"at most {limit:{shown}} with its interval; partly: without it",
        lambda ours: _reaches(ours.high <= limit, ours.value <= limit),
    )


def at_least(limit: float, shown: str = "g") -> Criterion:
    """A figure whose whole interval is not below the limit; partly, the figure alone."""
    return Criterion(
        f"at least {limit:{shown}} with its interval; partly: without it",
        lambda ours: _reaches(ours.low >= limit, ours.value >= limit),
    )


def _reaches(surely: bool, probably: bool) -> Verdict:
    if surely:
        return Verdict.REPRODUCED
    return Verdict.PARTLY if probably else Verdict.NOT_REPRODUCED


SURE = f"Holm p < {SIGNIFICANCE}"
"""What `is_sure` asks for, in words."""


def is_sure(ours: Estimate) -> bool:
    """Whether the p-value says so too; a figure without one is never sure."""
    return ours.p is not None and ours.p < SIGNIFICANCE


def unless(reached: str) -> str:
    """What becomes of a figure that shows nothing, in words.

    Args:
        reached: where its interval must not reach, lest as much as would count is left open.
    """
    return f"else not reproduced, but not testable where the interval reaches {reached}"


def left_open(reached: bool) -> Verdict:
    """The same as a verdict."""
    return Verdict.NOT_TESTABLE if reached else Verdict.NOT_REPRODUCED


def difference(published: float, share: float = 0.5) -> Criterion:
    """A difference on the published side of zero, surely, and not much smaller than published.

    Args:
        published: difference, not zero.
        share: of it that ours must reach; less is partly.
    """
    side = math.copysign(1, published)
    enough = share * abs(published)

    def judge(ours: Estimate) -> Verdict:
        nearest, farthest = sorted((side * ours.low, side * ours.high))
        if nearest > 0 and is_sure(ours):
            return Verdict.REPRODUCED if side * ours.value >= enough else Verdict.PARTLY
        return left_open(farthest >= enough)

    return Criterion(
        f"{_beyond_zero(published)}, {SURE}, and at least {share:.0%} of the published; partly: "
        f"less of it; {unless('so far')}",
        judge,
    )


def beyond_zero(matters: float, shown: str = "g") -> Criterion:
    """A difference on one side of zero, surely, where none was published as a figure.

    Args:
        matters: the least difference on that side that would matter, not zero.
        shown: its format.
    """
    side = math.copysign(1, matters)

    def judge(ours: Estimate) -> Verdict:
        nearest, farthest = sorted((side * ours.low, side * ours.high))
        if nearest > 0:
            return Verdict.REPRODUCED if is_sure(ours) else Verdict.PARTLY
        return left_open(farthest >= abs(matters))

    return Criterion(
        f"{_beyond_zero(matters)}, {SURE}; partly: without the p-value; "
        f"{unless(format(matters, shown))}",
        judge,
    )


def _beyond_zero(difference: float) -> str:
    return f"{'above' if difference > 0 else 'below'} zero with its interval"


def no_difference(margin: float, shown: str = "g") -> Criterion:
    """A difference that is surely small; partly, one that cannot be told from zero."""

    def judge(ours: Estimate) -> Verdict:
        if -margin <= ours.low and ours.high <= margin:
            return Verdict.REPRODUCED
        return Verdict.PARTLY if ours.low <= 0 <= ours.high else Verdict.NOT_REPRODUCED

    return Criterion(
        f"within {margin:{shown}} of zero with its interval; partly: an interval that holds zero",
        judge,
    )
