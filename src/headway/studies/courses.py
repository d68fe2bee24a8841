"""Copies that are trained together until each has reached a score."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from headway.training.ensemble import Ensemble

Batches = Callable[[int, int], Any]
"""Tensors `(N, S, ...)` of the steps from a first one to before a last one, counted from 0."""
Look = Callable[[], dict[str, Tensor]]
"""Scores `(S,)` by name."""
DIGITS = 4
"""Decimals of a score that is kept."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """How long copies are trained, and what for.

    Attributes:
        limit: most steps, a multiple of `every`.
        every: steps between looks, a multiple of `together`.
        together: steps that a GPU replays from one graph.
        score: that is to be reached.
        target: of it.
    """

    limit: int
    every: int
    together: int
    score: str
    target: float


@dataclass
class Progress:
    """What came of one copy.

    Attributes:
        scores: at each look until it was done, by name.
        steps: at which the score was first seen at its target; None: it was not.
        trained: steps until it was done, or all were left.
        diverged: its loss or gradient was not finite.
    """

    scores: dict[str, list[float]] = field(default_factory=dict)
    steps: int | None = None
    trained: int = 0
    diverged: bool = False

    @property
    def done(self) -> bool:
        """Nothing more is to be learned from it."""
        return self.diverged or self.steps is not None


def all_done(copies: Sequence[Progress]) -> bool:
    """Every copy got there, or never will."""
    return all(copy.done for copy in copies)


def follow(
    ensemble: Ensemble,
    batches: Batches,
    rate: Callable[[int], float],
    look: Look,
    course: Course,
    enough: Callable[[Sequence[Progress]], bool] = all_done,
) -> list[Progress]:
    """Train until enough is known of the copies; what is told of each ends where it got there.

    Args:
        ensemble: whose copies they are.
        batches: of steps.
        rate: learning rate of a step, counted from 0, before each copy's factor.
        look: at all copies.
        course: how long, and what for.
        enough: ends the training, asked after each look.
    """
    copies = [Progress() for _ in range(len(ensemble))]
    for start in range(0, course.limit, course.together):
        stop = start + course.together
        rates = torch.tensor([rate(step) for step in range(start, stop)])
        ensemble.run(batches(start, stop), rates)
        if stop % course.every == 0:
            _note(copies, look(), ensemble.active.tolist(), stop, course)
            if enough(copies):
                break
    return copies


def _note(
    copies: Sequence[Progress],
    scores: dict[str, Tensor],
    active: Sequence[bool],
    step: int,
    course: Course,
) -> None:
    told = {name: values.tolist() for name, values in scores.items()}
    for number, copy in enumerate(copies):
        if copy.done:
            continue
        copy.trained = step
        copy.diverged = not active[number]
        if copy.diverged:
            continue
        for name, values in told.items():
            copy.scores.setdefault(name, []).append(round(values[number], DIGITS))
        if told[course.score][number] >= course.target:
            copy.steps = step


def seed_of(*words: object) -> int:
    """A seed of its own for each list of words, so that weights, data and tests share no draw."""
    digest = hashlib.blake2b("/".join(map(str, words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def or_never(steps: float | None) -> float:
    """Steps as a number; infinite where it never got there."""
    return math.inf if steps is None else float(steps)
