"""What the looks and the rising learning rate of a race leave open of a ratio of steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from headway.studies.claims import Results, Size
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
    told = []
    for name in arms:
        steps = steps_of(results, name, rate).values()
        there = sum(map(math.isfinite, steps))
        if there < len(steps):
            told.append(f"{name} in {there} of {len(steps)} seeds")
    return f"Got there: {', '.join(told)}." if told else ""


def _rising(warm_up: int, arm: str, base: str, results: Results) -> str:
    told = []
    for name in (arm, base):
        steps = list(steps_of(results, name).values())
        if early := sum(n <= warm_up for n in steps):
            told.append(f"{name} in {early} of {len(steps)} seeds")
    if not told:
        return ""
    return f"Within the {warm_up:,} steps in which the learning rate rises: {', '.join(told)}."


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
        looks = [0, *(step for step, _ in result.measures["curve"])]
        never = result.measures["steps"] is None
        found[result.run.seed] = math.inf if never else looks[-2] + 1.0
    return found
