"""Multi-query associative recall (MQAR): pairs first, then their keys again, at any distance.

The task `multiquery_ar` of HazyResearch/zoology (Arora et al., arXiv 2312.04927), one pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from headway.tasks.base import IGNORED, Sample, Task
from headway.tasks.draws import distinct


@dataclass(frozen=True, kw_only=True)
class AssociativeRecall(Task):
    """Key-value pairs, and behind them each key once more; its value is the answer.

    A row's keys are different ids of the lower half of the vocabulary (without 0), its values
    different ids of the upper half. Behind the pairs the row is divided into places of two tokens.
    Keys take places one after the other, each a free one with probability proportional to
    place^(power - 1), counted from 1, so that gaps follow a power law. The key stands first in its
    place; all other tokens are filler.

    Attributes:
        vocab_size: V.
        length: T, even.
        pairs: how many, at most T / 4.
        power: `power_a` of zoology; 1 is uniform.
        filler: `random`, zoology's default: any id, so a key of the row may stand there with
            something else behind it, by accident; `values`: ids of the upper half, where that
            cannot happen; `zero`: zoology's `random_non_queries=False`.
    """

    name = "associative_recall"

    vocab_size: int = field(default=8192, metadata={"min": 4})
    length: int = field(default=64, metadata={"min": 4})
    pairs: int = field(default=8, metadata={"min": 1})
    power: float = field(default=0.01, metadata={"min": 0})
    filler: Literal["random", "values", "zero"] = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length % 2:
            raise self.refuse("length", "are even numbers")
        if self.vocab_size <= self.length:
            raise self.refuse("vocab_size", f"are those above length = {self.length}")
        if 4 * self.pairs > self.length:
            raise self.refuse("pairs", f"are at most length / 4 = {self.length // 4}")

    @property
    def first_value(self) -> int:
        return self.vocab_size // 2

    @property
    def chance(self) -> float:
        """Of a guess among all values."""
        return 1 / (self.vocab_size - self.first_value)

    def gaps(self, device: torch.device | str = "cpu") -> Tensor:
        """`(P,)`: probability of each place for the first key that is placed."""
        places = (self.length - 2 * self.pairs) // 2
        ranks = torch.arange(1, places + 1, dtype=torch.float64, device=device)
        weights = ranks ** (self.power - 1)
        return weights / weights.sum()

    def sample(self, batch: int, generator: torch.Generator) -> Sample:
        """Ids `(B, T)`, and at each key's second appearance its value `(B, T)`.

        Slices `(B, T)`: `near` and `far`: the key stands at most, or more than, T / 2 tokens behind
        its first appearance.
        """
        device = generator.device
        keys = 1 + distinct(batch, self.pairs, self.first_value - 1, generator)
        upper = self.vocab_size - self.first_value
        values = self.first_value + distinct(batch, self.pairs, upper, generator)

        # The largest of log-probabilities with Gumbel noise are draws one after the other.
        odds = self.gaps(device).log().float()
        noise = torch.empty(batch, len(odds), device=device).exponential_(generator=generator)
        place = (odds - noise.log()).topk(self.pairs).indices
        asked = 2 * self.pairs + 2 * place

        inputs = self._filler(batch, generator)
        inputs[:, : 2 * self.pairs : 2] = keys
        inputs[:, 1 : 2 * self.pairs : 2] = values
        inputs.scatter_(1, asked, keys)
        targets = torch.full_like(inputs, IGNORED).scatter_(1, asked, values)
        gap = asked - 2 * torch.arange(self.pairs, device=device)
        near = torch.zeros_like(inputs, dtype=torch.bool).scatter_(1, asked, gap <= self.length / 2)
        return Sample(inputs=inputs, targets=targets, slices={"near": near, "far": ~near})

    def _filler(self, batch: int, generator: torch.Generator) -> Tensor:
        device = generator.device
        if self.filler == "zero":
            return torch.zeros(batch, self.length, dtype=torch.long, device=device)
        low = self.first_value if self.filler == "values" else 0
        return torch.randint(
            low, self.vocab_size, (batch, self.length), generator=generator, device=device
        )
