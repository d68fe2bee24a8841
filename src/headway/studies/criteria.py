"""What counts as reproduced: the same in words and as a function of our figure.

A study says it before it is run; what was changed afterwards is told in `HISTORY`. Verdicts are
computed from results, never typed, and all of them by one rule: `verdict_of` as a function,
`MEANING` in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from headway.report.statistics import SIGNIFICANCE


class Verdict(StrEnum):
    """What a study says of a claim: the last one too where seeds are too few to tell."""

    REPRODUCED = "reproduced"
    PARTLY = "partly"
    NOT_REPRODUCED = "not reproduced"
    NOT_TESTABLE = "not testable at this scale"


MEANING: Mapping[Verdict, str] = {
    Verdict.REPRODUCED: "what counts is shown, by the whole interval where that is written",
    Verdict.PARTLY: "the weaker condition is shown that is written beside it",
    Verdict.NOT_REPRODUCED: "neither is shown, and the interval rules out what would count",
    Verdict.NOT_TESTABLE: "neither is shown, and the interval does not rule out what would count: "
    "too few seeds to tell; or the size is too small, there are fewer seeds than a verdict needs, "
    "or no run got to the figure or does the task",
}
"""The rule of verdicts, the same for all criteria."""

HISTORY: Sequence[tuple[str, str]] = (
    (
        "2026-11-30",
        "*partly* was given to a figure on the right side whatever its interval, and *not "
        "reproduced* to all else. Since then both ask for the interval, and what it leaves open is "
        "*not testable*: of verdicts with the same figure no other came of it.",
    ),
    (
        "2026-11-30",
        "P-values were corrected over all claims of a study. Since then published claims are a "
        "family of their own; a row whose verdict hangs on that says what it would be.",
    ),
    (
        "2026-11-30",
        "At least 100 % of seeds, or in kv-shift-lm 80 % of those that diverge, with the exact "
        "interval, which few seeds cannot show, became every seed.",
    ),
    (
        "2026-11-30",
        "The least gain in loss that matters is 0.001 nats in fine-tuning (selective-lm), where it "
        "was 0.005 as in training from scratch: the published gain is 0.006.",
    ),
    (
        "2026-11-30",
        "A published share of heads (kv-shift-lm) counts with its own sampling error; the interval "
        "of a ratio of steps (induction) counts that a run got there anywhere between two looks; "
        "effects in a screening of one seed, and step times of fewer than three processes "
        "(combine), have no verdict.",
    ),
    (
        "2026-11-30",
        "Claims that said more, or other, than was measured gave way to others: arms compared at "
        "best rates to the same at published and at best rates (icl-classification), attention "
        "failing beyond 8 hops to accuracy lost there (hops), the sharpest nodes to the order of "
        "all (graph), heads in two quadrants to one claim a quadrant (kv-shift-lm). Two of combine "
        "that could only come out true are gone.",
    ),
)
"""Day (ISO 8601) and what was changed of rules and claims when there were results."""


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

    def told(self, shown: str) -> str:
        """The value with its interval, each in the format `shown`."""
        return f"{self.value:{shown}} [{self.low:{shown}}, {self.high:{shown}}]"


@dataclass(frozen=True)
class Criterion:
    """What counts as reproduced: the same in words and as a function of our figure."""

    words: str
    judge: Callable[[Estimate], Verdict]


def verdict_of(*, counts: bool, weaker: bool = False, reaches: bool) -> Verdict:
    """What follows of a figure, by what its interval shows.

    Args:
        counts: what counts is shown.
        weaker: so is the weaker condition, of a criterion that has one.
        reaches: the interval holds some of what would count, which is not ruled out then.
    """
    if counts:
        return Verdict.REPRODUCED
    if weaker:
        return Verdict.PARTLY
    return Verdict.NOT_TESTABLE if reaches else Verdict.NOT_REPRODUCED


def within(published: float, tolerance: float, error: float = 0.0, shown: str = "g") -> Criterion:
    """A figure whose whole interval lies near the published one; partly, near enough with the
    sampling error of the published figure added. An interval that reaches so far rules nothing out:
    the figure that was published could be another by as much."""
    low, high = published - tolerance, published + tolerance

    def judge(ours: Estimate) -> Verdict:
        return verdict_of(
            counts=_inside(ours, low, high),
            weaker=_inside(ours, low - error, high + error),
            reaches=low - error <= ours.high and ours.low <= high + error,
        )

    added = f"; partly: its own sampling error of {error:{shown}} added; ruled out beyond that"
    return Criterion(
        f"within {tolerance:{shown}} of it with its interval{added if error else ''}", judge
    )


def share_error(share: float, trials: int) -> float:
    """How far the 95 % interval of a published share reaches on either side of it.

    Args:
        share: published.
        trials: of which it is the share.
    """
    return 1.96 * math.sqrt(share * (1 - share) / trials)


def _inside(ours: Estimate, low: float, high: float) -> bool:
    return low <= ours.low and ours.high <= high


def at_most(limit: float, shown: str = "g") -> Criterion:
    """A figure whose whole interval is not above the limit."""
    return Criterion(
        f"at most {limit:{shown}} with its interval",
        lambda ours: verdict_of(counts=ours.high <= limit, reaches=ours.low <= limit),
    )


def at_least(limit: float, shown: str = "g") -> Criterion:
    """A figure whose whole interval is not below the limit."""
    return Criterion(
        f"at least {limit:{shown}} with its interval",
        lambda ours: verdict_of(counts=ours.low >= limit, reaches=ours.high >= limit),
    )


EVERY_SEED = Criterion(
    "every seed, and with the interval more than half",
    lambda ours: verdict_of(counts=ours.value == 1 and ours.low > 0.5, reaches=ours.high >= 1),
)
"""A share of seeds that is all of them. Its exact interval starts below 100 % however many seeds
there are, and ends at 100 % only without one that failed, which rules out that every seed does."""


SURE = f"Holm p < {SIGNIFICANCE}"
"""What `is_sure` asks for, in words."""


def is_sure(ours: Estimate) -> bool:
    """Whether the p-value says so too; a figure without one is never sure."""
    return ours.p is not None and ours.p < SIGNIFICANCE


def ruled_out(line: str) -> str:
    """What rules a gain out of which no size was published, in words.

    Args:
        line: the least gain that would matter; any gain counts, so that there is no other line.
    """
    return f"ruled out where the interval ends short of {line}"


def difference(published: float, share: float = 0.5) -> Criterion:
    """A difference on the published side of zero, surely, and not much smaller than published.

    The sign is asked of the interval and of the p-value, the size of the figure alone. Partly, one
    of the last two is missing: before it is corrected for the other claims the p-value is that of
    the interval, which shows by itself that there is a difference.

    Args:
        published: difference, not zero.
        share: of it that ours must reach.
    """
    side = math.copysign(1, published)
    enough = share * abs(published)

    def judge(ours: Estimate) -> Verdict:
        nearest, farthest = sorted((side * ours.low, side * ours.high))
        sure, large = is_sure(ours), side * ours.value >= enough
        return verdict_of(
            counts=nearest > 0 and sure and large,
            weaker=nearest > 0 and (sure or large),
            reaches=farthest >= enough,
        )

    return Criterion(
        f"{_beyond_zero(published)}, {SURE}, and at least {share:.0%} of the published; partly: "
        "less of it or without the p-value, not both",
        judge,
    )


def beyond_zero(matters: float, shown: str = "g") -> Criterion:
    """A difference on one side of zero, surely, where none was published as a figure; partly,
    as in `difference`, without the p-value.

    Args:
        matters: the least difference on that side that would matter, not zero.
        shown: its format.
    """
    side = math.copysign(1, matters)

    def judge(ours: Estimate) -> Verdict:
        nearest, farthest = sorted((side * ours.low, side * ours.high))
        return verdict_of(
            counts=nearest > 0 and is_sure(ours),
            weaker=nearest > 0,
            reaches=farthest >= abs(matters),
        )

    return Criterion(
        f"{_beyond_zero(matters)}, {SURE}; partly: without the p-value; "
        f"{ruled_out(format(matters, shown))}",
        judge,
    )


def _beyond_zero(difference: float) -> str:
    return f"{'above' if difference > 0 else 'below'} zero with its interval"


def no_difference(margin: float, shown: str = "g") -> Criterion:
    """A difference whose whole interval is small: that it holds zero shows nothing."""
    return Criterion(
        f"within {margin:{shown}} of zero with its interval", within(0.0, margin).judge
    )
