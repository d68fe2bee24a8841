"""Paired statistics: how an arm differs from vanilla, how sure that is, and what it costs.

Losses and their differences are in nats per token; a negative difference is a lower loss.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

SIGNIFICANCE = 0.05
"""A Holm-corrected p-value below this counts as a difference."""
CONFIDENCE = 1 - SIGNIFICANCE
"""Coverage of the intervals."""

BETTER = "better"
WORSE = "worse"
NOT_SEPARABLE = "not separable"
NOT_AFTER_HOLM = "not separable after Holm"
TOO_FEW = "too few seeds"
IS_BASELINE = "baseline"


@dataclass(frozen=True)
class PairedDifference:
    """An arm less vanilla over the seeds that both have finished.

    `low` and `high` bound the t-interval of the mean, `p` is that of the paired t-test; all three
    are None below two seeds, `mean` is None without any.
    """

    differences: Mapping[int, float]
    mean: float | None
    low: float | None
    high: float | None
    p: float | None


@dataclass(frozen=True)
class Spread:
    """Median and extremes of repeated measurements."""

    median: float
    low: float
    high: float


def paired_difference(arm: Mapping[int, float], baseline: Mapping[int, float]) -> PairedDifference:
    """Difference of two losses by seed, over the seeds that both have."""
    shared = sorted(arm.keys() & baseline.keys())
    differences = {seed: arm[seed] - baseline[seed] for seed in shared}
    values = list(differences.values())
    if len(values) < 2:
        return PairedDifference(differences, fmean(values) if values else None, None, None, None)
    low, high, p = t_interval(values)
    return PairedDifference(differences, fmean(values), low, high, p)


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Bounds of the mean's t-interval and the two-sided p-value that the mean is zero.

    Values that are all equal leave no doubt: the interval is that point, p is 1 at zero, else 0.
    """
    from scipy.stats import t

    mean = fmean(values)
    error = stdev(values) / math.sqrt(len(values))
    if error == 0:
        return mean, mean, 1.0 if mean == 0 else 0.0
    freedom = len(values) - 1
    reach = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    p = 2 * float(t.sf(abs(mean) / error, freedom))
    return mean - reach, mean + reach, p


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down corrected p-values, in the order given.

    The k-th smallest of m is multiplied by m - k + 1; none may be smaller than one before it, and
    none exceeds 1.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def verdict(difference: PairedDifference, holm_p: float | None) -> str:
    """What can be said about a loss difference, in words."""
    if difference.low is None or difference.high is None or holm_p is None:
        return TOO_FEW
    if difference.low <= 0 <= difference.high:
        return NOT_SEPARABLE
    if holm_p >= SIGNIFICANCE:
        return NOT_AFTER_HOLM
    return BETTER if difference.high < 0 else WORSE


def tokens_to_reach(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """Tokens at which a curve of (tokens, loss) points first is at or below a loss.

    Straight lines join the points; None when the curve never gets there.
    """
    before: tuple[float, float] | None = None
    for tokens, loss in curve:
        if loss <= target:
            if before is None:
                return tokens
            fraction = (before[1] - target) / (before[1] - loss)
            return before[0] + fraction * (tokens - before[0])
        before = (tokens, loss)
    return None


def mean_curve(curves: Sequence[Mapping[int, float]]) -> list[tuple[float, float]]:
    """Mean over runs of tokens-to-loss curves, at the token counts that all of them have."""
    if not curves:
        return []
    shared = set(curves[0]).intersection(*curves[1:])
    return [(tokens, fmean(curve[tokens] for curve in curves)) for tokens in sorted(shared)]


def spread(values: Sequence[float]) -> Spread | None:
    """Median, least and largest of some measurements; None without any."""
    return Spread(median(values), min(values), max(values)) if values else None


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are there; None without any."""
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def deviation_or_none(values: Sequence[float]) -> float | None:
    """Standard deviation (n - 1) of at least two values; None below."""
    return stdev(values) if len(values) > 1 else None
