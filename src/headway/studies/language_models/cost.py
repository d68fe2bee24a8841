"""What a training step of an arm costs beside that of another, in turn and in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import torch

from headway.studies.claims import Measures, Run
from headway.studies.language_models.course import Course
from headway.training.cost import step_times
from headway.training.graphs import many_graphs
from headway.training.recipe import Recipe
from headway.training.run import mean_loss, precision

COST = "cost"
"""Stage of a run that measures steps."""
ROUNDS = 20
"""Timed steps an arm."""


def step_costs(course: Course, base: str, runs: Sequence[Run]) -> list[tuple[Run, Measures]]:
    """Seconds of a training step of the arms of some runs, all of them and `base` in turn.

    Args:
        course: of the study.
        base: the arm that ratios are taken to, round by round.
        runs: one an arm.
    """
    by_arm = {run.arm: run for run in (replace(runs[0], arm=base), *runs)}
    steps = {arm: _step(course, run) for arm, run in by_arm.items()}
    taken = step_times(steps, course.device, ROUNDS)
    found: list[tuple[Run, Measures]] = []
    for run in runs:
        pairs = zip(taken[run.arm], taken[base], strict=True)
        measures = {
            "step_ratios": [round(ours / theirs, 4) for ours, theirs in pairs],
            "step_seconds": median(taken[run.arm]),
            "base_seconds": median(taken[base]),
            "corpus": course.text_hash,
        }
        found.append((run, measures))
    return found


def _step(course: Course, run: Run) -> Callable[[], object]:
    """One step of an arm, over the first batch."""
    model, asked = course.drawn(run).train(), course.settings
    recipe = Recipe(steps=1, learning_rate=1e-5, weight_decay=0.1)
    optimiser, windows = recipe.optimiser(model), course.data(run).batch(0)
    loss_of = torch.compile(mean_loss) if asked.compile else mean_loss

    def step() -> None:
        with precision(course.device, asked.dtype), many_graphs():
            loss = loss_of(model, windows)
        loss.backward()
        recipe.update(model, optimiser)

    return step
