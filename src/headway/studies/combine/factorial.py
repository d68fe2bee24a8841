"""Fractional factorials of two levels: which factors are on in which run, and what each does.

Box, Hunter and Hunter, "Statistics for Experimenters", chapter 6: a factor of a design of
resolution IV is confounded with products of three and more factors alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations, product
from statistics import fmean

from headway.errors import HeadwayError
from headway.report.statistics import CONFIDENCE
from headway.studies.criteria import Estimate

Subset = tuple[str, ...]
"""Factors that are on, in the order of the design."""


@dataclass(frozen=True)
class Factorial:
    """A regular design `2^(k - p)`.

    Attributes:
        basic: factors that take all combinations.
        generated: further factors, each with the basic ones whose product it is; where a level is
            -1 or 1, an odd number of them keeps the run in which nothing is on.

    Raises:
        HeadwayError: a factor twice, one that is the product of factors that are not basic, or so
            many that no run is left to tell noise by.
    """

    basic: Subset
    generated: Mapping[str, Subset]

    def __post_init__(self) -> None:
        if len(set(self.factors)) < len(self.factors):
            raise HeadwayError(f"factors: {', '.join(self.factors)} names one twice")
        for factor, of in self.generated.items():
            if not of or not set(of) <= set(self.basic):
                raise HeadwayError(
                    f"generated: {factor!r} of {', '.join(of) or 'nothing'} is not accepted; "
                    f"accepted are products of {', '.join(self.basic)}"
                )
        if len(self.factors) > 2 ** len(self.basic) - 2:
            raise HeadwayError(
                f"factors: {len(self.factors)} are not accepted; accepted are at most "
                f"{2 ** len(self.basic) - 2}, two fewer than there are runs"
            )

    @property
    def factors(self) -> Subset:
        """All factors."""
        return (*self.basic, *self.generated)

    @cached_property
    def runs(self) -> tuple[Subset, ...]:
        """What is on in each run, the fewest first."""
        found = []
        for levels in product((-1, 1), repeat=len(self.basic)):
            level = dict(zip(self.basic, levels, strict=True))
            for factor, of in self.generated.items():
                level[factor] = math.prod(level[basic] for basic in of)
            found.append(tuple(f for f in self.factors if level[f] > 0))
        return tuple(sorted(found, key=len))

    @property
    def defining(self) -> tuple[Subset, ...]:
        """The defining relation: the products of factors that are the same in all runs."""
        words = [frozenset((factor, *of)) for factor, of in self.generated.items()]
        several = chain.from_iterable(combinations(words, n) for n in range(1, len(words) + 1))
        found = []
        for chosen in several:
            word: frozenset[str] = frozenset()
            for one in chosen:
                word ^= one
            found.append(tuple(f for f in self.factors if f in word))
        return tuple(found)

    @property
    def resolution(self) -> int:
        """Length of the shortest word of the defining relation."""
        return min(map(len, self.defining))

    def effects(self, responses: Mapping[Subset, Mapping[int, float]]) -> dict[str, Estimate]:
        """What each factor adds to a response: its mean over runs with it less that without.

        The interval is that of least squares with a mean a seed; whatever main effects and seeds
        do not explain counts as noise, interactions of factors too.

        Args:
            responses: of each run by seed; seeds that a run lacks do not count.

        Returns:
            Nothing without a seed that all runs have.
        """
        from scipy.stats import t

        seeds, centred = self._centred(responses)
        if not seeds:
            return {}
        effects = {f: _contrast((f,), centred) for f in self.factors}
        residual = [
            y - sum(_sign((f,), run) * effects[f] for f in self.factors) / 2 for run, y in centred
        ]
        freedom = len(centred) - len(seeds) - len(self.factors)
        error = 2 * math.sqrt(sum(r * r for r in residual) / freedom / len(centred))
        reach = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
        return {
            f: Estimate(
                effect,
                effect - reach,
                effect + reach,
                len(seeds),
                2 * float(t.sf(abs(effect) / error, freedom)) if error else float(effect == 0),
            )
            for f, effect in effects.items()
        }

    def interactions(
        self, responses: Mapping[Subset, Mapping[int, float]]
    ) -> dict[tuple[Subset, ...], float]:
        """What pairs of factors do beyond what each does: the mean response of runs in which both
        are on or both off, less that of the others. Pairs that no run tells apart stand together.

        Args:
            responses: as of `effects`.

        Returns:
            The largest first; nothing without a seed that all runs have.
        """
        seeds, centred = self._centred(responses)
        alike: dict[tuple[int, ...], list[Subset]] = {}
        for pair in combinations(self.factors, 2):
            alike.setdefault(tuple(_sign(pair, run) for run in self.runs), []).append(pair)
        found = {tuple(pairs): _contrast(pairs[0], centred) for pairs in alike.values() if seeds}
        return dict(sorted(found.items(), key=lambda item: -abs(item[1])))

    def _centred(
        self, responses: Mapping[Subset, Mapping[int, float]]
    ) -> tuple[list[int], list[tuple[Subset, float]]]:
        """Seeds that all runs have, and the runs' responses less the mean of their seed."""
        by_run = [responses.get(run, {}) for run in self.runs]
        seeds = sorted(set.intersection(*(set(found) for found in by_run)))
        centred = []
        for seed in seeds:
            mean = fmean(found[seed] for found in by_run)
            centred += [(run, by_run[i][seed] - mean) for i, run in enumerate(self.runs)]
        return seeds, centred


def _sign(factors: Subset, run: Subset) -> int:
    """Of the product of factors in a run."""
    return math.prod(1 if factor in run else -1 for factor in factors)


def _contrast(factors: Subset, centred: Sequence[tuple[Subset, float]]) -> float:
    """The mean where the product of factors is 1, less that where it is -1."""
    return 2 * fmean(_sign(factors, run) * y for run, y in centred)
