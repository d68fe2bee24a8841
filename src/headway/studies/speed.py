"""How much faster an arm gets to a score: ratios of steps, paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from headway.studies.criteria import SURE, Criterion, Estimate, Verdict, is_sure, left_open, unless
from headway.studies.estimates import median_ratio


def steps_ratio(
    arm: Mapping[int, float], base: Mapping[int, float], limit: float
) -> Estimate | None:
    """Median of arm / base with its bootstrap interval, and the p-value of the signed ranks.

    Against the arm throughout: where it did not reach the score it is infinitely slow, and where
    only the other did not, that one counts as if it had at the end. A seed where neither did does
    not count; None where fewer than two are left.

    Args:
        arm, base: steps by seed, infinite where the score was not reached.
        limit: most steps of a run.
    """
    ended = {s: min(n, limit) if math.isfinite(arm.get(s, n)) else n for s, n in base.items()}
    found = median_ratio(arm, ended)
    if found is None:
        return None
    shared = sorted(arm.keys() & ended.keys())
    differences = [_log(arm[s]) - _log(ended[s]) for s in shared if arm[s] != ended[s]]
    return replace(found, p=signed_rank_p(differences))


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

    Args:
        published: ratio of steps, at most 1; 1 where no size was published.
        share: of the published gain that ours must reach; less is partly.
    """
    sized = published < 1
    enough = 1 - share * (1 - published)

    def judge(ours: Estimate) -> Verdict:
        if ours.high < 1 and is_sure(ours):
            return Verdict.REPRODUCED if ours.value <= enough else Verdict.PARTLY
        return left_open(ours.low <= (enough if sized else MATTERS))

    size = f", and at least {share:.0%} of the published gain; partly: less of it"
    return Criterion(
        f"below 1 with its interval, {SURE}{size if sized else ''}; "
        f"{unless('so far' if sized else f'{MATTERS:g}')}",
        judge,
    )
