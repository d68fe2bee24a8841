"""What results of the study `combine` say: effects of parts, what is chosen, tokens and time."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean, median

from headway.studies.claims import Results
from headway.studies.combine.factorial import Subset
from headway.studies.combine.parts import DESIGN, PLAIN, SHARES, SUBSETS, name_of, without
from headway.studies.criteria import Estimate
from headway.studies.estimates import paired, resampled
from headway.studies.language_models.cost import COST
from headway.studies.language_models.rates import measured
from headway.studies.language_models.shares import share_needed, share_without_interval

SCREENED = "screening"
"""Stage of the runs of the design."""
IN_CONTEXT = "in_context_gain"
"""Measure: the loss around token 50 less that late in the context; more is better."""


def effects_on(results: Results, name: str) -> dict[str, Estimate]:
    """What each part does to a measure of the screening; nothing before it is whole."""
    return DESIGN.effects(_responses(results, name))


def pairs_on(results: Results, name: str) -> dict[tuple[Subset, ...], float]:
    """What pairs of parts do beyond their effects, as `Factorial.interactions`."""
    return DESIGN.interactions(_responses(results, name))


def _responses(results: Results, name: str) -> dict[Subset, dict[int, float]]:
    responses: dict[Subset, dict[int, float]] = {}
    for result in results.of(map(name_of, DESIGN.runs), stage=SCREENED):
        if (value := result.measures.get(name)) is not None:
            responses.setdefault(SUBSETS[result.run.arm], {})[result.run.seed] = float(value)
    return responses


def chosen_parts(results: Results) -> Subset:
    """The parts whose main effect on the loss is below zero with its interval."""
    return tuple(part for part, effect in effects_on(results, "loss").items() if effect.high < 0)


def left_of(chosen: Subset) -> list[str]:
    """Arms with the chosen parts less one. Of one part, what is left is the plain model."""
    return [arm for less in without(chosen).values() if (arm := name_of(less)) != PLAIN]


def best_left(results: Results) -> str | None:
    """Of the chosen parts less one, the arm with the least loss; None before all of them ran."""
    losses = {arm: measured(results, arm, "loss") for arm in left_of(chosen_parts(results))}
    if not losses or not all(losses.values()):
        return None
    return min(losses, key=lambda arm: fmean(losses[arm].values()))


def soonest(results: Results) -> str | None:
    """The arm that gets to plain's final loss in the least time, among the chosen parts and these
    less one; None where no time is known."""
    chosen = chosen_parts(results)
    arms = [name_of(chosen), *left_of(chosen)] if chosen else []
    times = {arm: time for arm in arms if (time := time_needed(arm, results)) is not None}
    return min(times, key=lambda arm: times[arm], default=None)


def time_needed(arm: str, results: Results) -> float | None:
    """The time that an arm takes to plain's final loss, over plain's: tokens times step time."""
    share, step = tokens_share(arm, results), step_median(arm, results)
    return None if share is None or step is None else share * step


def less_plain(name: str, arm: str, share: float | None, results: Results) -> Estimate | None:
    """A measure of an arm with a share of its tokens, None: all, less that of plain with all."""
    return paired(measured(results, arm, name, share=share), measured(results, PLAIN, name))


def tokens_needed(arm: str, results: Results) -> Estimate | None:
    """The share of its tokens with which an arm gets to plain's final loss."""
    return share_needed(arm, PLAIN, SHARES, results)


def tokens_share(arm: str, results: Results) -> float | None:
    """The same without an interval, from any number of seeds."""
    return share_without_interval(arm, PLAIN, SHARES, results)


def step_median(arm: str, results: Results) -> float | None:
    """Step time over plain's: the median of the rounds of all processes that measured it."""
    return median(rounds) if (rounds := _rounds(arm, results)) else None


def step_ratio(arm: str, results: Results) -> Estimate | None:
    """The same with its bootstrap interval over rounds; each process counts as a seed."""
    ratios: list[tuple[float, ...]] = [(ratio,) for ratio in _rounds(arm, results)]
    found = resampled(ratios, lambda rounds: median(ratio for (ratio,) in rounds))
    return None if found is None else replace(found, seeds=len(results.of([arm], stage=COST)))


def _rounds(arm: str, results: Results) -> list[float]:
    processes = results.of([arm], stage=COST)
    return [ratio for process in processes for ratio in process.measures["step_ratios"]]
