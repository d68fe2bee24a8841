"""The runs of the study `combine`: a screening, and the confirmation of what it chose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby

from headway.decoder import HeadwayForCausalLM
from headway.studies.claims import Measures, Results, Run, Size
from headway.studies.combine.found import IN_CONTEXT, SCREENED, best_left, chosen_parts, left_of
from headway.studies.combine.parts import (
    ARMS,
    CONFIRMING,
    DESIGN,
    PLAIN,
    SCREENED_SEEDS,
    SCREENING,
    SHARES,
    name_of,
)
from headway.studies.language_models.cost import COST, step_costs
from headway.studies.language_models.course import DIGITS, Course, performing
from headway.studies.running import seeds_of
from headway.training.matched import forward_operations
from headway.training.probes import repeat_probe, validate
from headway_settings import StudySettings

FIRST_SCREENING_SEED = 2_000_000
PROBED = 8
"""Random sequences that in-context scores are taken from."""


def runs(settings: StudySettings, results: Results) -> list[Run]:
    """The screening; then plain and the subset it chose, with all tokens and with fewer; then that
    subset less each of its parts, the best of these with fewer tokens too. The later ones are
    listed when those before are done.

    Raises:
        HeadwayError: as `Rates.runs`.
    """
    done = {result.run.key for result in results}
    listed: list[Run] = []
    for further in _stages(settings, results):
        listed += further
        if any(run.key not in done for run in listed):
            break
    return listed


def _stages(settings: StudySettings, results: Results) -> Iterator[list[Run]]:
    """Runs that are known once those before are done."""
    yield screening_runs(settings.size)
    chosen, rates = chosen_parts(results), CONFIRMING[settings.size].rates
    if not chosen:
        return
    name, left = name_of(chosen), left_of(chosen)
    yield rates.runs({PLAIN: (), name: ()}, settings, results, {name: SHARES})
    yield [_cost_run(name, settings)]
    yield rates.runs(dict.fromkeys(left, ()), settings, results)
    yield [_cost_run(arm, settings) for arm in left]
    if (best := best_left(results)) is not None:
        yield rates.runs({best: ()}, settings, results, {best: SHARES})


def screening_runs(size: Size) -> list[Run]:
    """Those of the design, seed by seed."""
    (rate,) = SCREENING[size].rates.first
    return [
        Run(name_of(parts), FIRST_SCREENING_SEED + seed, {"stage": SCREENED, "rate": rate})
        for seed in range(SCREENED_SEEDS[size])
        for parts in DESIGN.runs
    ]


def _cost_run(arm: str, settings: StudySettings) -> Run:
    return Run(arm, seeds_of(settings).start, {"stage": COST})


@cache
def operations(arm: str, size: Size) -> int:
    """Of a forward pass over a row of tokens, in an arm's model of the screening."""
    extent = SCREENING[size]
    return forward_operations(extent.config(ARMS[arm], extent.vocab_size, eot=0), extent.context)


def relative_operations(arm: str, size: Size) -> float:
    """Operations of a token over those of the plain model."""
    return operations(arm, size) / operations(PLAIN, size)


class Screening(Course):
    """Runs that take as many operations each, so that what costs more sees less text."""

    def steps_of(self, run: Run) -> int:
        """Optimiser steps for which the operations are those of the plain model."""
        relative = relative_operations(run.arm, self.settings.size)
        return max(1, round(self.steps / relative))


def perform(asked: Sequence[Run], settings: StudySettings) -> Iterator[tuple[Run, Measures]]:
    """`Study.perform`, in the order asked; costs that follow each other are measured together."""
    # The screening's models are small: compiling one would take longer than it trains.
    eager = replace(settings, compile=False)
    for stage, group in groupby(asked, _kind):
        together = list(group)
        if stage == SCREENED:
            yield from performing(ARMS, SCREENING, _screened, Screening)(together, eager)
        elif stage == COST:
            course = Course(ARMS, CONFIRMING[settings.size], settings)
            yield from step_costs(course, PLAIN, together)
        else:
            yield from performing(ARMS, CONFIRMING, look)(together, settings)


def _kind(run: Run) -> str:
    stage = run.options["stage"]
    return stage if stage in (SCREENED, COST) else "confirming"


def _screened(course: Course, model: HeadwayForCausalLM, run: Run) -> Measures:
    relative = relative_operations(run.arm, course.settings.size)
    return {**look(course, model, run), "operations": round(relative, DIGITS)}


def look(course: Course, model: HeadwayForCausalLM, run: Run) -> Measures:
    """In-context scores, as `headway compare` measures them."""
    dtype = course.settings.dtype
    repeated = repeat_probe(model, course.extent.context, PROBED, dtype)
    held = validate(model, course.held(run), course.batch_size, dtype)
    found: dict[str, float] = {
        "repeat_accuracy": repeated.accuracy,
        "prefix_score": max(max(heads) for heads in repeated.prefix_scores),
    }
    if held.early is not None and held.late is not None:
        found[IN_CONTEXT] = held.early - held.late
    return {name: round(value, DIGITS) for name, value in found.items()}
