"""Claims on language models: measures of two arms compared by seed, each at its best rate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from headway.studies.claims import SIZES, Claim, Results
from headway.studies.criteria import Criterion, Estimate, beyond_zero, within
from headway.studies.estimates import ANY, Bounds, exact, paired
from headway.studies.language_models.rates import best_rate, compared, measured, tuning_seeds
from headway.studies.races.tuning import TEST

Part = tuple[str, ...]
"""Names of a measure and of parts of it."""
LOSS: Part = ("loss",)
OURS = "ours; not in the paper"
SEEDS = 3
"""That a comparison needs."""
MATTERS = -0.005
"""A difference of losses that would matter, in nats: of an interval that holds both it and zero,
nothing follows."""
LOWER = beyond_zero(MATTERS)
"""Of a difference of losses that is published without a figure."""


def less(
    arm: str, base: str, part: Part, rate: float | None, bounds: Bounds, results: Results
) -> Estimate | None:
    """A measure of an arm less one of another, paired by seed.

    Args:
        arm, base: arms.
        part: what is measured.
        rate: learning rate; None: the best one of each.
        bounds: of the difference.
        results: of a study.
    """
    ours, theirs = (measured(results, name, *part, rate=rate) for name in (arm, base))
    return paired(ours, theirs, bounds)


def tuned_unlike(
    arm: str, base: str, part: Part, shown: str, results: Results, _: Estimate | None
) -> str:
    """Sentences on two arms whose rates were tuned on different numbers of seeds: one that is tuned
    on more is less likely to be run at a rate that was lucky once. Where both were run at the same
    rate besides, the difference there. Nothing of arms that were tuned alike.

    Args:
        arm, base, part: as in `less`.
        shown: the format of a difference.
        results: of a study.
    """
    seeds = {one: tuning_seeds(results, one) for one in (arm, base)}
    if len(set(seeds.values()) - {0}) < 2:
        return ""
    told = ", ".join(
        f"{one} on {count} (chosen: {best_rate(results, one):g})" for one, count in seeds.items()
    )
    there = [{r.run.options["rate"] for r in results.of([one], stage=TEST)} for one in seeds]
    alike = {
        rate: found
        for rate in sorted(set.intersection(*there))
        if (found := less(arm, base, part, rate, ANY, results)) is not None
    }
    others = ", ".join(f"{found.told(shown)} at {rate:g}" for rate, found in alike.items())
    same = f" With both at the same rate: {others}." if others else ""
    return f"Rates were tuned on different numbers of seeds: {told}.{same}"


def compare(
    sentence: str,
    source: str,
    published: float | None,
    criterion: Criterion,
    arm: str,
    base: str,
    *,
    told: str = "",
    part: Part = LOSS,
    rate: float | None = None,
    bounds: Bounds = ANY,
    shown: str = "+.4f",
    differs: str = "",
    asked: str = "",
) -> Claim:
    """A claim on a measure of an arm less that of another; arguments as in `Claim` and `less`."""
    return Claim(
        claim=sentence,
        source=source,
        published=published,
        criterion=criterion,
        arms=tuple(dict.fromkeys((arm, base))),
        estimate=partial(less, arm, base, part, rate, bounds),
        told=told,
        shown=shown,
        seeds=SEEDS,
        sizes=("paper",),
        differs=differs,
        asked=asked,
        caveat=partial(tuned_unlike, arm, base, part, shown),
    )


def adds(
    sentence: str,
    source: str,
    published: float,
    arm: str,
    base: str,
    each: Callable[[Results], float] = lambda _: 1.0,
) -> Claim:
    """A claim on the number of parameters that an arm has more than another, which any size tests.

    Args:
        sentence, source, published: of the claim.
        arm, base: that are compared.
        each: what the number is divided by; 0: it is not known.
    """

    def estimate(results: Results) -> Estimate | None:
        counts = [
            {r.measures["parameters"] for r in compared(results, name)} for name in (arm, base)
        ]
        parts = each(results)
        if not parts or any(len(found) != 1 for found in counts):
            return None
        return exact((counts[0].pop() - counts[1].pop()) / parts)

    return Claim(
        claim=sentence,
        source=source,
        published=published,
        criterion=within(published, 0),
        arms=(arm, base),
        estimate=estimate,
        shown=".0f",
        sizes=SIZES,
    )
