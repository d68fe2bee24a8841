"""What the looks and the rising learning rate of a race leave open of a ratio of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from headway.studies.claims import Results, Size
from headway.studies.courses import or_never
from headway.studies.criteria import Criterion, Estimate
from headway.studies.speed import steps_ratio
from headway.studies.tuning import compared_runs, steps_of

if TYPE_CHECKING:
    from headway.studies.token_races import TokenRace


def race_caveat(
    races: Mapping[Size, TokenRace],
    criterion: Criterion,
    arm: str,
    base: str,
    results: Results,
    ours: Estimate | None,
) -> str:
    """Sentences on a ratio of steps, each where it holds: which arm got there while the learning
    rate was rising still; which did not in all seeds; and how far the interval reaches, and what
    the verdict would be, if a run can have got there anywhere between two looks.

    Args:
        races: of the study, by size.
        criterion: of the claim.
        arm, base: that are compared.
        results: of the study.
        ours: the ratio.
    """
    race = races[results.size]
    sentences = [_rising(race.warm_up, arm, base, results), not_all_there((arm, base), results)]
    if ours is not None:
        sentences.append(_between_looks(race.course.limit, criterion, arm, base, results, ours))
    return " ".join(filter(None, sentences))


def not_all_there(arms: Sequence[str], results: Results, rate: float | None = None) -> str:
    """A sentence on the arms some of whose runs did not get to the score, at a rate or at the one
    that won; nothing where all did."""
    there = _seeds(arms, results, math.isfinite, rate)
    told = [f"{name} in {n} of {of} seeds" for name, (n, of) in there.items() if n < of]
    return f"Got there: {', '.join(told)}." if told else ""


def _rising(warm_up: int, arm: str, base: str, results: Results) -> str:
    early = _seeds((arm, base), results, lambda steps: steps <= warm_up)
    told = [f"{name} in {n} of {of} seeds" for name, (n, of) in early.items() if n]
    if not told:
        return ""
    return f"Within the {warm_up:,} steps in which the learning rate rises: {', '.join(told)}."


def _seeds(
    arms: Sequence[str],
    results: Results,
    holds: Callable[[float], bool],
    rate: float | None = None,
) -> dict[str, tuple[int, int]]:
    """By arm, in how many seeds something holds of the steps, and of how many."""
    steps = {name: steps_of(results, name, rate).values() for name in arms}
    return {name: (sum(map(holds, each)), len(each)) for name, each in steps.items()}


def _between_looks(
    limit: int, criterion: Criterion, arm: str, base: str, results: Results, ours: Estimate
) -> str:
    least = steps_ratio(_first_steps(results, arm), steps_of(results, base), limit)
    most = steps_ratio(steps_of(results, arm), _first_steps(results, base), limit)
    assert least is not None
    assert most is not None
    wider = replace(ours, low=least.low, high=most.high)
    shown, with_that = (f"[{one.low:.2f}, {one.high:.2f}]" for one in (ours, wider))
    if with_that == shown:
        return ""
    verdict = criterion.judge(wider)
    other = "" if verdict == criterion.judge(ours) else f", and the verdict *{verdict}*"
    return (
        f"Steps are known from one look to the next: the interval with that is {with_that}{other}."
    )


def _first_steps(results: Results, arm: str) -> dict[int, float]:
    """By seed, the first step at which the score can have been reached: that after the look before
    the one that saw it; infinite where it was not."""
    found = {}
    for result in compared_runs(results, arm):
        there = or_never(result.measures["steps"])
        looks = [0, *(step for step, _ in result.measures["curve"] if step < there)]
        found[result.run.seed] = looks[-1] + 1.0 if math.isfinite(there) else there
    return found
