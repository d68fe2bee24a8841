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
Bounds = tuple[float, float]
"""The least and the largest that a measure can be."""
ANY: Bounds = (-math.inf, math.inf)


def exact(value: float, seeds: int = 1) -> Estimate:
    """A figure without a sampling error."""
    return Estimate(value, value, value, seeds)


def share_of_seeds(by_seed: Mapping[int, bool]) -> Estimate | None:
    """Share of the seeds in which something is so, with its exact (Clopper-Pearson) interval; None
    without any."""
    from scipy.stats import binomtest

    if not by_seed:
        return None
    found = binomtest(sum(by_seed.values()), len(by_seed))
    low, high = found.proportion_ci(CONFIDENCE, method="exact")
    return Estimate(float(found.statistic), float(low), float(high), len(by_seed))


def mean_of(by_seed: Mapping[int, float], bounds: Bounds = ANY) -> Estimate | None:
    """Mean over seeds with its t-interval, cut at the bounds of the measure; None below two
    seeds."""
    values = list(by_seed.values())
    if len(values) < 2:
        return None
    low, high, _ = t_interval(values)
    return Estimate(fmean(values), *_cut(low, high, bounds), len(values))


def paired(
    arm: Mapping[int, float], base: Mapping[int, float], bounds: Bounds = ANY
) -> Estimate | None:
    """Mean of an arm less another over the seeds that both have, with its t-interval, cut at the
    bounds of the difference, and the p-value of the paired t-test; None below two."""
    found = paired_difference(arm, base)
    if found.mean is None or found.low is None or found.high is None:
        return None
    low, high = _cut(found.low, found.high, bounds)
    return Estimate(found.mean, low, high, len(found.differences), found.p)


def _cut(low: float, high: float, bounds: Bounds) -> Bounds:
    return max(low, bounds[0]), min(high, bounds[1])


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
