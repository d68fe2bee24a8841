"""Optimisers of an ensemble: elementwise, so that stacked copies do not mix."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

State = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class UpdateRule:
    """How a gradient changes a parameter.

    Attributes:
        clip: largest global gradient norm of a copy, or None.
    """

    kept: ClassVar[tuple[str, ...]] = ()
    """What is kept for each parameter from step to step; zeros at first."""

    clip: float | None = None

    def shrink(self, norm: Tensor) -> Tensor:
        """Factor `(S,)` on the gradients of copies with the global norm `(S,)`, as
        `torch.nn.utils.clip_grad_norm_` has it."""
        if self.clip is None:
            return torch.ones_like(norm)
        return (self.clip / (norm + 1e-6)).clamp(max=1.0)

    def update(
        self, name: str, p: Tensor, gradient: Tensor, kept: State, rate: Tensor, steps: Tensor
    ) -> tuple[Tensor, State]:
        """New values of `p` `(S, ...)` and of what is kept.

        Args:
            name: of the parameter.
            p: `(S, ...)`.
            gradient: `(S, ...)`.
            kept: from the last step.
            rate: `(S, 1, ...)`, learning rate.
            steps: `(S, 1, ...)`, number of this step, from 1.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class SGD(UpdateRule):
    """Plain gradient descent, as `torch.optim.SGD` without momentum."""

    def update(
        self, name: str, p: Tensor, gradient: Tensor, kept: State, rate: Tensor, steps: Tensor
    ) -> tuple[Tensor, State]:
        return p - rate * gradient, kept


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

    def update(
        self, name: str, p: Tensor, gradient: Tensor, kept: State, rate: Tensor, steps: Tensor
    ) -> tuple[Tensor, State]:
        first, second = self.betas
        mean = torch.lerp(kept["mean"], gradient, 1 - first)
        square = kept["square"] * second + gradient.square() * (1 - second)
        corrected = square.sqrt() / (1 - second**steps).sqrt() + self.eps
        if name in self.decayed:
            p = p - rate * self.weight_decay * p
        p = p - rate / (1 - first**steps) * mean / corrected
        return p, {"mean": mean, "square": square}
