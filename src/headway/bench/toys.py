"""Small models whose seeds are trained together, and the data that their seeds see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headway.decoder import HeadwayConfig, HeadwayForCausalLM
from headway.tasks.base import IGNORED, Task
from headway.tasks.classification import Classification
from headway.tasks.induction import Induction
from headway.training.ensemble import Loss
from headway.training.initialise import seed_weights
from headway.training.update_rules import SGD, AdamW, UpdateRule


class Classifier(nn.Module):
    """The two-layer toy of Burns et al. (arXiv 2412.15113, released code), of Reddy (2312.03002).

    Twice `x <- x + softmax(Q K^T) V`, one causal head, no scale, norm, bias or output projection;
    then three layers `x <- relu(x W^T + b)` with a scalar b, and a readout without bias. Only the
    last token is read, so the second layer has one query, and it projects that query back onto the
    keys' input and the weighted sum of inputs onto values instead of every token.

    Args:
        width: of a token.
        item: of its item or label vector, which the initial weights go by.
        labels: answers.
        seed: of the initial weights.
    """

    def __init__(self, width: int, item: int, labels: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int, deviation: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) * deviation)

        self.first = drawn(3 * width, width, deviation=item**-0.5)
        self.second = drawn(3 * width, width, deviation=item**-0.5)
        self.layers = nn.ParameterList(
            drawn(width, width, deviation=(2 / width) ** 0.5) for _ in range(3)
        )
        self.biases = nn.ParameterList(drawn(1, deviation=width**-0.5) for _ in range(3))
        self.readout = drawn(labels, width, deviation=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, labels)` of tokens `(B, T, width)`."""
        q, k, v = F.linear(x, self.first).chunk(3, -1)
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        scores = (q @ k.transpose(1, 2)).masked_fill(hidden, float("-inf"))
        x = x + scores.softmax(-1) @ v
        to_query, to_key, to_value = self.second.chunk(3)
        asked = F.linear(x[:, -1], to_query) @ to_key
        weights = (x * asked[:, None]).sum(-1).softmax(-1)
        y = x[:, -1] + F.linear((weights[..., None] * x).sum(1), to_value)
        for matrix, bias in zip(self.layers, self.biases, strict=True):
            y = F.relu(F.linear(y, matrix) + bias)
        return F.linear(y, self.readout)


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
