"""Our figure with its interval from measures by seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median

from headway.report.statistics import CONFIDENCE, paired_difference, t_interval
from headway.studies.criteria import Estimate

RESAMPLES = 9_999
"""Draws of a bootstrap."""


def exact(value: float, seeds: int = 1) -> Estimate:
    """A figure without a sampling error."""
    return Estimate(value, value, value, seeds)


def mean_of(by_seed: Mapping[int, float]) -> Estimate | None:
    """Mean over seeds with its t-interval; None below two seeds."""
    values = list(by_seed.values())
    if len(values) < 2:
        return None
    low, high, _ = t_interval(values)
    return Estimate(fmean(values), low, high, len(values))


def paired(arm: Mapping[int, float], base: Mapping[int, float]) -> Estimate | None:
    """Mean of an arm less another over the seeds that both have, with the p-value of the paired
    t-test; None below two."""
    found = paired_difference(arm, base)
    if found.mean is None or found.low is None or found.high is None:
        return None
    return Estimate(found.mean, found.low, found.high, len(found.differences), found.p)


def resampled(
    values: Sequence[tuple[float, ...]],
    statistic: Callable[[Sequence[tuple[float, ...]]], float],
) -> Estimate | None:
    """A statistic of what each seed gave, with its percentile bootstrap interval over seeds.

    Args:
        values: of each seed, those of its arms together: a seed is drawn with all that is paired.
        statistic: of such rows.

    Returns:
        None below two seeds.
    """
    if len(values) < 2:
        return None
    draw = random.Random(0)
    drawn = sorted(statistic(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    tail = (1 - CONFIDENCE) / 2
    low = drawn[math.floor(tail * (RESAMPLES - 1))]
    high = drawn[math.ceil((1 - tail) * (RESAMPLES - 1))]
    return Estimate(statistic(values), low, high, len(values))


def median_ratio(arm: Mapping[int, float], base: Mapping[int, float]) -> Estimate | None:
    """Median over arm / base of the seeds that both have, with its bootstrap interval.

    A run that never got there is infinite, and so is its ratio: the median is where the arm got
    there in no more than half of the seeds. A seed where neither did does not count.

    Returns:
        None below two seeds that count.
    """
    shared = sorted(arm.keys() & base.keys())
    ratios = [
        (0.0 if math.isinf(base[s]) else arm[s] / base[s],)
        for s in shared
        if not (math.isinf(arm[s]) and math.isinf(base[s]))
    ]
    return resampled(ratios, lambda rows: median(row[0] for row in rows))
