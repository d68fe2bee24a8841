"""What looks, a rising learning rate and rates that differ leave open of a comparison of arms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headway.studies.claims import Results, Size
from headway.studies.criteria import Criterion, Estimate
from headway.studies.races.courses import or_never
from headway.studies.races.speed import steps_ratio
from headway.studies.races.tuning import TEST, TUNING, chosen_rate, compared_runs, steps_of

if TYPE_CHECKING:
    from headway.studies.races.token_races import TokenRace

RISING = 0.05
"""Score gained in the second half of training by a run that was still learning."""


def race_caveat(
    races: Mapping[Size, TokenRace],
    criterion: Criterion,
    arm: str,
    base: str,
    results: Results,
    ours: Estimate | None,
) -> str:
    """Sentences on a ratio of steps, each where it holds: which arm got there while the learning
    rate was rising still; which did not in all seeds, and in how many it was still learning; how
    far the interval reaches, and what the verdict would be, if a run can have got there anywhere
    between two looks; and at which rates the arms ran where these differ, with the ratio at each
    rate at which both did.

    Args:
        races: of the study, by size.
        criterion: of the claim.
        arm, base: that are compared.
        results: of the study.
        ours: the ratio.
    """
    race = races[results.size]
    sentences = [
        _rising(race.warm_up, arm, base, results),
        not_all_there((arm, base), results),
        not_at_their_end((arm, base), results),
    ]
    limit = race.course.limit
    if ours is not None:
        sentences.append(
            _told_looks(criterion, ours, between_looks(limit, arm, base, results, ours))
        )
    if apart := rates_apart((arm, base), results):
        sentences += [apart, *_at_shared_rates(limit, arm, base, results)]
    return " ".join(filter(None, sentences))


def rates_apart(arms: Sequence[str], results: Results) -> str:
    """A sentence on the learning rates at which arms are compared, where these differ, and on how
    many seeds each was tuned on; nothing where they do not."""
    rates = {arm: rate for arm in arms if (rate := chosen_rate(results, arm)) is not None}
    if len(set(rates.values())) < 2:
        return ""
    told = [
        f"{arm} at {rate:g}, tuned on {count} seed{'s' * (count > 1)}"
        for arm, rate in rates.items()
        if (count := len(results.of([arm], stage=TUNING, rate=rate)))
    ]
    return f"Learning rates differ: {'; '.join(told)}."


def _at_shared_rates(limit: int, arm: str, base: str, results: Results) -> list[str]:
    """The ratio at each rate at which both arms were run."""
    ours, theirs = (
        {r.run.options["rate"] for r in results.of([name], stage=TEST)} for name in (arm, base)
    )
    found = {
        rate: steps_ratio(steps_of(results, arm, rate), steps_of(results, base, rate), limit)
        for rate in sorted(ours & theirs)
    }
    return [
        f"Both at {rate:g}: {ratio.told('.2f')}."
        for rate, ratio in found.items()
        if ratio is not None
    ]


def not_all_there(arms: Sequence[str], results: Results, rate: float | None = None) -> str:
    """A sentence on the arms some of whose runs did not get to the score, at a rate or at the one
    that won; nothing where all did."""
    there = _seeds(arms, results, math.isfinite, rate)
    told = [f"{name} in {n} of {of} seeds" for name, (n, of) in there.items() if n < of]
    return f"Got there: {', '.join(told)}." if told else ""


def still_learning(measures: Mapping[str, Any]) -> bool:
    """Whether a run that did not get to the score was on its way when its training ended."""
    curve = measures["curve"]
    half = [score for step, score in curve if 2 * step <= curve[-1][0]]
    return measures["steps"] is None and bool(half) and curve[-1][1] - half[-1] > RISING


def not_at_their_end(arms: Sequence[str], results: Results) -> str:
    """A sentence on the arms some of whose runs were still learning when their training ended, and
    the scores that these had then; nothing where none was."""
    told = []
    for arm in arms:
        ran = [result.measures for result in compared_runs(results, arm)]
        if scores := [measures["score"] for measures in ran if still_learning(measures)]:
            ends = " to ".join(dict.fromkeys(f"{end:.1%}" for end in (min(scores), max(scores))))
            told.append(f"{arm} in {len(scores)} of {len(ran)} seeds, at {ends}")
    return f"Still learning when training ended: {'; '.join(told)}." if told else ""


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


def between_looks(limit: int, arm: str, base: str, results: Results, ours: Estimate) -> Estimate:
    """A ratio of steps with the interval that it has where a run can have got there anywhere
    between two looks.

    Args:
        limit: most steps of a run.
        arm, base: that are compared.
        results: of the study.
        ours: the ratio, as if runs got there when it was seen.
    """
    least = steps_ratio(_first_steps(results, arm), steps_of(results, base), limit)
    most = steps_ratio(steps_of(results, arm), _first_steps(results, base), limit)
    assert least is not None
    assert most is not None
    return replace(ours, low=least.low, high=most.high)


def _told_looks(criterion: Criterion, ours: Estimate, wider: Estimate) -> str:
    with_that = _interval(wider)
    if with_that == _interval(ours):
        return ""
    verdict = criterion.judge(wider)
    other = "" if verdict == criterion.judge(ours) else f", and the verdict *{verdict}*"
    return (
        f"Steps are known from one look to the next: the interval with that is {with_that}{other}."
    )


def _interval(ratio: Estimate) -> str:
    return f"[{ratio.low:.2f}, {ratio.high:.2f}]"


def _first_steps(results: Results, arm: str) -> dict[int, float]:
    """By seed, the first step at which the score can have been reached: that after the look before
    the one that saw it; infinite where it was not."""
    found = {}
    for result in compared_runs(results, arm):
        there = or_never(result.measures["steps"])
        looks = [0, *(step for step, _ in result.measures["curve"] if step < there)]
        found[result.run.seed] = looks[-1] + 1.0 if math.isfinite(there) else there
    return found
