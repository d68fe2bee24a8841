"""How much faster an arm gets to a score: ratios of steps, paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from headway.studies.criteria import (
    SURE,
    Criterion,
    Estimate,
    Verdict,
    is_sure,
    ruled_out,
    verdict_of,
)
from headway.studies.estimates import median_ratio


def steps_ratio(
    arm: Mapping[int, float], base: Mapping[int, float], limit: float, least: bool = False
) -> Estimate | None:
    """Median of arm / base with its bootstrap interval, and the p-value of the signed ranks.

    Against the arm throughout: where it did not reach the score it is infinitely slow, and where
    only the other did not, that one counts as if it had at the end. A seed where neither did does
    not count; None where fewer than two are left.

    Args:
        arm, base: steps by seed, infinite where the score was not reached.
        limit: most steps of a run.
        least: in favour of the arm in the same way, which gives the least that the ratio can be.
    """
    if least:
        arm = _ended(arm, base, limit)
    else:
        base = _ended(base, arm, limit)
    found = median_ratio(arm, base)
    if found is None:
        return None
    shared = sorted(arm.keys() & base.keys())
    differences = [_log(arm[s]) - _log(base[s]) for s in shared if arm[s] != base[s]]
    return replace(found, p=signed_rank_p(differences))


def _ended(
    steps: Mapping[int, float], other: Mapping[int, float], limit: float
) -> dict[int, float]:
    """The steps, where only the other reached the score as if this one had at the end."""
    return {s: min(n, limit) if math.isfinite(other.get(s, n)) else n for s, n in steps.items()}


def seen_ratio(
    criterion: Criterion, arm: Mapping[int, float], base: Mapping[int, float], limit: float
) -> Estimate | None:
    """The same for a criterion that a slow arm can meet; None where it would be judged otherwise if
    runs that did not reach the score were counted in favour of the arm.

    Args:
        criterion: which asks for no p-value.
        arm, base, limit: as in `steps_ratio`.
    """
    most, least = (steps_ratio(arm, base, limit, favour) for favour in (False, True))
    if most is None or least is None or criterion.judge(most) != criterion.judge(least):
        return None
    return most


def as_seen(criterion: Criterion) -> Criterion:
    """A criterion that says in words what `seen_ratio` asks for besides."""
    return replace(
        criterion,
        words=f"{criterion.words}; not testable where that hangs on how long runs would have "
        "needed that did not get there",
    )


def _log(steps: float) -> float:
    return math.log(steps) if math.isfinite(steps) else math.inf


def signed_rank_p(differences: Sequence[float]) -> float:
    """Exact two-sided p-value of Wilcoxon's signed ranks; ties share their mean rank.

    Args:
        differences: none of them zero; they may be infinite.
    """
    sizes = sorted(abs(d) for d in differences)
    # Twice the rank, so that the mean rank of a tie is a whole number.
    ranks = [sizes.index(abs(d)) * 2 + sizes.count(abs(d)) + 1 for d in differences]
    whole = sum(ranks)
    ways = [1] + [0] * whole  # of signs, by the sum of the ranks with a plus
    for rank in ranks:
        for total in range(whole, rank - 1, -1):
            ways[total] += ways[total - rank]
    above = sum(rank for rank, d in zip(ranks, differences, strict=True) if d > 0)
    tail = sum(ways[: min(above, whole - above) + 1])
    return min(1.0, tail / sum(ways) * 2)


MATTERS = 0.95
"""A ratio that would matter where none was published: of an interval that holds both it and 1,
nothing follows."""


def faster(published: float, share: float = 0.5) -> Criterion:
    """Surely fewer steps, and not much less of a gain than published.

    Without the p-value it is not partly, as a difference is: the interval is a bootstrap's and not
    that of the p-value, which is of ranks, so that it alone shows less.

    Args:
        published: ratio of steps, at most 1; 1 where no size was published.
        share: of the published gain that ours must reach; less is partly.
    """
    sized = published < 1
    enough = 1 - share * (1 - published)

    def judge(ours: Estimate) -> Verdict:
        sooner = ours.high < 1 and is_sure(ours)
        return verdict_of(
            counts=sooner and ours.value <= enough,
            weaker=sooner,
            reaches=ours.low <= (enough if sized else MATTERS),
        )

    size = f", and at least {share:.0%} of the published gain; partly: less of it"
    rest = size if sized else f"; {ruled_out(format(MATTERS, 'g'))}"
    return Criterion(f"below 1 with its interval, {SURE}{rest}", judge)
