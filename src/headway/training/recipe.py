"""How a run is optimised."""

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """AdamW with warm-up and cosine decay.

    Attributes:
        steps: optimiser steps.
        learning_rate: peak, reached after a tenth of the steps and decayed to a tenth of itself.
        weight_decay: decoupled, on the matrices of linear layers and embeddings only; norms, biases
            and the mechanisms' own numbers are not decayed.
        clip: largest global gradient norm.
    """

    steps: int
    learning_rate: float
    weight_decay: float
    clip: float = 1.0

    def optimiser(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW (0.9, 0.95) over the model's parameters."""
        decayed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.Embedding)}
        parameters = list(model.parameters())
        groups = [
            {
                "params": [p for p in parameters if id(p) in decayed],
                "weight_decay": self.weight_decay,
            },
            {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=self.learning_rate, betas=(0.9, 0.95)
        )

    def update(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Clip the gradients, take the step and clear them."""
        torch.nn.utils.clip_grad_norm_(model.parameters(), self.clip)
        optimiser.step()
        optimiser.zero_grad()

    def rate(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        warm = max(1, self.steps // 10)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))
