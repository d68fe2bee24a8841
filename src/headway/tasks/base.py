"""What all tasks share: a seeded sample, what is scored in it, and the scores of a model's logits.

A task is a frozen dataclass of its numbers. What stays the same between its samples (class means, a
table of n-grams, a graph) is drawn once from its `world`, so that training and test samples agree
on it; everything else comes from the generator, on the generator's device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from headway.errors import HeadwayError
from headway.mechanisms.fields import checked_fields

IGNORED = -100
"""The target of a position that is not scored."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Rows of a task with their answers.

    Attributes:
        inputs: ids `(B, T)`, or vectors `(B, T, C)` where the task is not one of tokens.
        targets: `(B, T)`, the answer that the logits *at* this position give (not shifted), or
            `(B,)`, one answer a row, given by the logits at the last position. `IGNORED` where
            nothing is scored.
        slices: by name, bool and of the targets' shape: parts that are scored apart. Only what is
            scored counts, so a slice may cover positions that are not.
    """

    inputs: Tensor
    targets: Tensor
    slices: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def scored(self) -> Tensor:
        """Bool, of the targets' shape."""
        return self.targets != IGNORED


class Task(ABC):
    """A generator of samples, described by its numbers.

    Subclasses are frozen keyword-only dataclasses; bounds stand in their fields' metadata, and
    `__post_init__` refuses numbers that do not go together.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for key, value in checked_fields(self).items():
            object.__setattr__(self, key, value)

    @property
    @abstractmethod
    def chance(self) -> float:
        """Accuracy of the best guess that reads no more than which position is asked."""

    @abstractmethod
    def sample(self, batch: int, generator: torch.Generator) -> Sample:
        """`batch` rows; the same generator state gives the same rows."""

    def refuse(self, field: str, accepted: str) -> HeadwayError:
        """The error for a value of `field` that does not go with the others."""
        value = getattr(self, field)
        return HeadwayError(f"{self.name}.{field}: {value!r} is not accepted; accepted {accepted}")


def answers(logits: Tensor, sample: Sample) -> Tensor:
    """The logits that answer a sample: `(B, T, V)`, or `(B, V)` where a row has one answer.

    Args:
        logits: `(B, T, V)`, or `(B, V)` of the last position where a row has one answer.

    Raises:
        HeadwayError: other shapes.
    """
    if sample.targets.dim() == 1 and logits.dim() == 3:
        logits = logits[:, -1]
    if logits.shape[:-1] != sample.targets.shape:
        raise HeadwayError(
            f"logits: shape {tuple(logits.shape)} is not accepted; accepted is "
            f"{tuple(sample.targets.shape)} and the number of answers behind it"
        )
    return logits


def loss(logits: Tensor, sample: Sample) -> Tensor:
    """Mean cross-entropy of what is scored, in nats; logits as in `answers`."""
    found = answers(logits, sample)
    return F.cross_entropy(found.flatten(0, -2), sample.targets.flatten(), ignore_index=IGNORED)


def accuracy(logits: Tensor, sample: Sample) -> dict[str, Tensor]:
    """Share of right answers, by slice and over `all`; NaN for a slice with nothing scored."""
    right = answers(logits, sample).argmax(-1) == sample.targets
    return _shares(right, sample.scored, {"all": sample.scored, **sample.slices})


def exact_match(logits: Tensor, sample: Sample) -> dict[str, Tensor]:
    """Share of rows whose every scored answer is right, by slice and over `all`.

    In a slice, a row counts by what of it lies there; rows with nothing there do not count.
    """
    right = answers(logits, sample).argmax(-1) == sample.targets
    scores = {}
    for key, part in {"all": sample.scored, **sample.slices}.items():
        counts = (part & sample.scored).reshape(len(right), -1)
        rows = (right.view_as(counts) | ~counts).all(1)
        scores[key] = _share(rows, counts.any(1))
    return scores


def _shares(right: Tensor, scored: Tensor, slices: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: _share(right, part & scored) for key, part in slices.items()}


def _share(right: Tensor, counted: Tensor) -> Tensor:
    return (right & counted).sum() / counted.sum()
