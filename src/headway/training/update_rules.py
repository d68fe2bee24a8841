"""Optimisers of an ensemble: elementwise over rows, so that stacked copies do not mix."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class UpdateRule:
    """How gradients change parameters.

    Attributes:
        clip: largest global gradient norm of a copy, or None.
    """

    kept: ClassVar[tuple[str, ...]] = ()
    """What is kept for each number from step to step; zeros at first."""

    clip: float | None = None

    def shrink(self, norm: Tensor) -> Tensor:
        """Factor `(S,)` on the gradients of copies with the global norm `(S,)`, as
        `torch.nn.utils.clip_grad_norm_` has it."""
        if self.clip is None:
            return torch.ones_like(norm)
        return (self.clip / (norm + 1e-6)).clamp(max=1.0)

    def decay(self, name: str) -> float:
        """Decoupled weight decay of the parameter `name`."""
        return 0.0

    def update(
        self,
        rows: Tensor,
        gradient: Tensor,
        kept: tuple[Tensor, ...],
        rate: Tensor,
        steps: Tensor,
        decay: Tensor,
    ) -> tuple[Tensor, ...]:
        """New rows, and what is kept in the order of `kept`.

        Args:
            rows: `(S, P)`, all parameters of S copies.
            gradient: `(S, P)`.
            kept: from the last step, `(S, P)` each.
            rate: `(S, 1)`, learning rate.
            steps: `(S, 1)`, number of this step, from 1.
            decay: `(P,)`, see `decay`.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class SGD(UpdateRule):
    """Plain gradient descent, as `torch.optim.SGD` without momentum."""

    def update(
        self,
        rows: Tensor,
        gradient: Tensor,
        kept: tuple[Tensor, ...],
        rate: Tensor,
        steps: Tensor,
        decay: Tensor,
    ) -> tuple[Tensor, ...]:
        return (rows - rate * gradient,)


@dataclass(frozen=True, kw_only=True)
class AdamW(UpdateRule):
    """As `torch.optim.AdamW`.

    Attributes:
        betas: decay of the moments.
        eps: beside the root of the second moment.
        weight_decay: decoupled.
        decayed: names of the parameters that are decayed.
    """

    kept: ClassVar[tuple[str, ...]] = ("mean", "square")

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decayed: Collection[str] = field(default_factory=frozenset)

    def decay(self, name: str) -> float:
        return self.weight_decay if name in self.decayed else 0.0

    def update(
        self,
        rows: Tensor,
        gradient: Tensor,
        kept: tuple[Tensor, ...],
        rate: Tensor,
        steps: Tensor,
        decay: Tensor,
    ) -> tuple[Tensor, ...]:
        first, second = self.betas
        mean = torch.lerp(kept[0], gradient, 1 - first)
        square = kept[1] * second + gradient.square() * (1 - second)
        corrected = square.sqrt() / (1 - second**steps).sqrt() + self.eps
        decayed = rows - rate * decay * rows
        return decayed - rate / (1 - first**steps) * mean / corrected, mean, square
