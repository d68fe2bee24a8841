"""Many seeds as one curve: the mean at every point with the least and the largest seed."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from headway.report.results import BASELINE, Results

OVER_SEEDS = "Line: mean over seeds. Band: from the least to the largest seed."
"""What a figure of bands says of them."""


@dataclass(frozen=True)
class Band:
    """Seed mean, least and largest value and number of seeds at each `x`, rising in `x`."""

    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    seeds: tuple[int, ...]


def band(points: Iterable[tuple[float, float | None]]) -> Band | None:
    """Gather the (x, value) points of all seeds; points without a value do not count."""
    gathered: dict[float, list[float]] = defaultdict(list)
    for x, value in points:
        if value is not None:
            gathered[x].append(value)
    if not gathered:
        return None
    rising = sorted(gathered)
    groups = [gathered[x] for x in rising]
    return Band(
        x=tuple(rising),
        mean=tuple(fmean(group) for group in groups),
        low=tuple(min(group) for group in groups),
        high=tuple(max(group) for group in groups),
        seeds=tuple(len(group) for group in groups),
    )


def bands(points: Mapping[str, Iterable[tuple[float, float | None]]]) -> dict[str, Band]:
    """One band an arm; arms without any value are left out."""
    made = {arm: band(values) for arm, values in points.items()}
    return {arm: value for arm, value in made.items() if value is not None}


def validation_bands(results: Results) -> dict[str, Band]:
    """Validation loss over tokens."""
    return bands(
        {
            arm: [(row.tokens, row.validation_loss) for row in results.evals_of(arm)]
            for arm in results.arms
        }
    )


def training_bands(results: Results) -> dict[str, Band]:
    """Training loss over tokens, without the diverged runs."""
    lost = {arm: results.diverged(arm) for arm in results.arms}
    points: dict[str, list[tuple[float, float | None]]] = {arm: [] for arm in results.arms}
    for row in results.train:
        if row.seed not in lost[row.arm]:
            points[row.arm].append((row.tokens, row.loss))
    return bands(points)


def difference_bands(results: Results) -> dict[str, Band]:
    """Validation loss less that of vanilla with the same seed after as many tokens."""
    base = {
        (row.seed, row.tokens): row.validation_loss
        for row in results.evals_of(BASELINE)
        if row.validation_loss is not None
    }
    points: dict[str, list[tuple[float, float | None]]] = {}
    for arm in results.arms:
        if arm != BASELINE:
            points[arm] = [
                (row.tokens, row.validation_loss - base[row.seed, row.tokens])
                for row in results.evals_of(arm)
                if row.validation_loss is not None and (row.seed, row.tokens) in base
            ]
    return bands(points)


def gain_bands(results: Results) -> dict[str, Band]:
    """In-context gain over steps."""
    return bands(
        {
            arm: [(row.step, row.in_context_gain) for row in results.evals_of(arm)]
            for arm in results.arms
        }
    )


def repeat_bands(results: Results) -> dict[str, Band]:
    """Accuracy on repeated random sequences over steps."""
    return bands(
        {
            arm: [(row.step, row.repeat_accuracy) for row in results.evals_of(arm)]
            for arm in results.arms
        }
    )


def prefix_bands(results: Results) -> dict[str, Band]:
    """Largest prefix-matching score of any head over steps."""
    return bands(
        {
            arm: [(row.step, row.best_prefix_score) for row in results.evals_of(arm)]
            for arm in results.arms
        }
    )


def position_bands(results: Results) -> dict[str, Band]:
    """Loss over the tokens of context read, at the last evaluation of finished runs.

    The prediction at token index 0 has read one token.
    """
    return bands(
        {
            arm: [
                (index + 1, loss)
                for row in results.last_evals(arm)
                for index, loss in row.position_losses
            ]
            for arm in results.arms
        }
    )
