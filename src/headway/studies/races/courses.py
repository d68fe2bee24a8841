"""Copies that are trained together until each has reached a score."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from headway.tasks.base import Task
from headway.training.ensemble import Ensemble

Batches = Callable[[int, int], Any]
"""Tensors `(N, S, ...)` of the steps from a first one to before a last one, counted from 0."""
Scores = Callable[[], dict[str, Tensor]]
"""Scores `(S,)` by name, of the copies as they are."""
DIGITS = 4
"""Decimals of a score that is kept."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """How long copies are trained, and what for.

    Attributes:
        limit: most steps, a multiple of `every`.
        every: least steps between looks, a multiple of `together`.
        together: steps that a GPU replays from one graph.
        target: score that is to be reached.
        apart: least share of the steps so far between looks, so that what is quick is seen as
            closely as what is slow.
        beyond: copies that got there are trained on to the limit; else they stay as they were.
    """

    limit: int
    every: int
    together: int
    target: float
    apart: float = 0.0
    beyond: bool = False

    def looks(self) -> list[int]:
        """Steps after which scores are looked at, the last one included."""
        steps: list[int] = []
        for step in range(self.every, self.limit + 1, self.every):
            if not steps or step >= steps[-1] * (1 + self.apart) or step == self.limit:
                steps.append(step)
        return steps

    @property
    def told_looks(self) -> str:
        """How often scores are looked at, in words."""
        later = f", later every {self.apart:.0%} of the steps so far" if self.apart else ""
        return f"every {self.every} steps{later}"


@dataclass
class Progress:
    """What came of one copy.

    Attributes:
        curve: steps and score of each look until it was done.
        steps: at which the score was first seen at its target; None: it was not.
        trained: steps until it was done, or all were left.
        diverged: its loss or gradient was not finite.
        beyond: it is trained on when it got there.
    """

    curve: list[tuple[int, float]] = field(default_factory=list)
    steps: int | None = None
    trained: int = 0
    diverged: bool = False
    beyond: bool = False

    @property
    def done(self) -> bool:
        """Nothing more is to be learned from it."""
        return self.diverged or (self.steps is not None and not self.beyond)


def all_done(copies: Sequence[Progress]) -> bool:
    """Every copy got there, or never will."""
    return all(copy.done for copy in copies)


def follow(
    ensemble: Ensemble,
    batches: Batches,
    rate: Callable[[int], float],
    look: Callable[[], Tensor],
    course: Course,
    enough: Callable[[Sequence[Progress]], bool] = all_done,
) -> list[Progress]:
    """Train until enough is known of the copies.

    Args:
        ensemble: whose copies they are.
        batches: of steps.
        rate: learning rate of a step, counted from 0, before each copy's factor.
        look: at the score `(S,)` of all copies.
        course: how long, and what for.
        enough: ends the training, asked after each look.
    """
    copies = [Progress(beyond=course.beyond) for _ in range(len(ensemble))]
    looks = set(course.looks())
    for start in range(0, course.limit, course.together):
        stop = start + course.together
        rates = torch.tensor([rate(step) for step in range(start, stop)])
        ensemble.run(batches(start, stop), rates)
        if stop in looks:
            active = ensemble.active.tolist()
            for copy, score, alive in zip(copies, look().tolist(), active, strict=True):
                if not copy.done:
                    _note(copy, score, alive, stop, course.target)
            ensemble.freeze(torch.tensor([copy.done for copy in copies]))
            if enough(copies):
                break
    return copies


def _note(copy: Progress, score: float, alive: bool, step: int, target: float) -> None:
    copy.trained = step
    copy.diverged = not alive
    if alive:
        copy.curve.append((step, round(score, DIGITS)))
        if copy.steps is None and score >= target:
            copy.steps = step


def seed_of(*words: object) -> int:
    """A seed of its own for each list of words, so that weights, data and tests share no draw."""
    digest = hashlib.blake2b("/".join(map(str, words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def or_never(steps: float | None) -> float:
    """Steps as a number; infinite where it never got there."""
    return math.inf if steps is None else float(steps)


def task_batches(task: Task, rows: int, seeds: Sequence[int], device: str) -> Batches:
    """Training data of copies with these seeds; copies with the same seed see the same.

    Args:
        task: that rows are drawn from.
        rows: a step.
        seeds: one a copy.
        device: to draw on.
    """
    different = list(dict.fromkeys(seeds))
    drawing = [generator_of("data", seed, device) for seed in different]
    of_copy = torch.tensor([different.index(seed) for seed in seeds], device=device)

    def batches(start: int, stop: int) -> dict[str, Tensor]:
        steps = stop - start
        drawn = [task.sample(steps * rows, generator) for generator in drawing]
        parts = {"inputs": [s.inputs for s in drawn], "targets": [s.targets for s in drawn]}
        return {
            name: torch.stack([t.unflatten(0, (steps, -1)) for t in part], 1)[:, of_copy]
            for name, part in parts.items()
        }

    return batches


def generator_of(what: str, seed: int, device: str) -> torch.Generator:
    """Random numbers of a seed for one purpose, apart from those for others."""
    return torch.Generator(device).manual_seed(seed_of(what, seed))
