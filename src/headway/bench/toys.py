"""Small models whose seeds are trained together, and the data that their seeds see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headway.decoder import HeadwayConfig, HeadwayForCausalLM
from headway.studies.residual_streams.toy_classifier import Classifier
from headway.tasks.base import IGNORED, Task
from headway.tasks.classification import Classification
from headway.tasks.induction import Induction
from headway.training.ensemble import Loss
from headway.training.initialise import seed_weights
from headway.training.update_rules import SGD, AdamW, UpdateRule


@dataclass(frozen=True, kw_only=True)
class Toy:
    """What is trained.

    Attributes:
        name: of the toy.
        task: where its data come from.
        batch: rows a step.
        model: the freshly drawn model of a seed.
        loss: of one copy on a batch of `inputs` and `targets`.
        rule: of the update.
        learning_rate: of every step.
    """

    name: str
    task: Task
    batch: int
    model: Callable[[int], nn.Module]
    loss: Loss
    rule: UpdateRule
    learning_rate: float

    def batches(self, seeds: int, steps: int, device: str) -> dict[str, Tensor]:
        """Batches `(steps, seeds, B, ...)`; a seed has the same ones in whatever company."""
        drawn = []
        for seed in range(seeds):
            generator = torch.Generator(device).manual_seed(seed)
            sample = self.task.sample(steps * self.batch, generator)
            drawn.append({"inputs": sample.inputs, "targets": sample.targets})
        return {
            key: torch.stack([d[key].unflatten(0, (steps, self.batch)) for d in drawn], dim=1)
            for key in drawn[0]
        }


def classification(batch: int = 128, **sizes: Any) -> Toy:
    """Reddy's task as Burns et al. run it: 17 tokens of width 150, 207,303 parameters, SGD."""
    task = Classification(novel_every=batch, **sizes)
    return Toy(
        name="classification",
        task=task,
        batch=batch,
        model=lambda seed: Classifier(task.channels, task.width, task.labels, seed),
        loss=_label_loss,
        rule=SGD(),
        learning_rate=0.01,
    )


def induction(length: int = 256, hidden_size: int = 128, batch: int = 8) -> Toy:
    """A two-layer decoder on the induction task of KV shifting attention (arXiv 2411.19574)."""
    task = Induction(length=length, candidates=length // 2, vocab_size=length, first_id=0)
    config = HeadwayConfig(
        vocab_size=task.vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=length,
    )

    def model(seed: int) -> nn.Module:
        made = HeadwayForCausalLM(config)
        seed_weights(made, seed)
        return made

    return Toy(
        name="induction",
        task=task,
        batch=batch,
        model=model,
        loss=_token_loss,
        rule=AdamW(clip=1.0),
        learning_rate=1e-3,
    )


def _label_loss(call: Callable[..., Any], batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(call(batch["inputs"]), batch["targets"])


def _token_loss(call: Callable[..., Any], batch: dict[str, Tensor]) -> Tensor:
    logits = call(batch["inputs"], use_cache=False).logits.float()
    targets = batch["targets"].flatten()
    return F.cross_entropy(logits.flatten(0, 1), targets, ignore_index=IGNORED)
