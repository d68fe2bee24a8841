"""n-grams: a fixed table says which token follows each of some contexts.

The comparison of KV Shifting Attention (arXiv 2411.19574, section 3): about 200 random pairs, each
with one random third token. How rows are made of them is not told there and chosen here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from headway.tasks.base import IGNORED, Sample, Task
from headway.tasks.draws import distinct


@dataclass(frozen=True, kw_only=True)
class NGram(Task):
    """Rows of n-grams, one after the other; the last token of each is the answer.

    Unlike in the other tasks, what is learned is in the weights: the table is the same in every
    row. A context is followed by its own token alone, so the last n - 1 tokens tell the answer; one
    token fewer does not, as several contexts share their last tokens.

    Attributes:
        order: n; the paper's 3.
        contexts: how many there are, drawn without repeats; about 200 in the paper.
        vocab_size: V, not told in the paper. The default lets a token end some six contexts.
        length: T, not told in the paper.
        world: seed of the table.
    """

    name = "ngram"

    order: int = field(default=3, metadata={"min": 2})
    contexts: int = field(default=200, metadata={"min": 1})
    vocab_size: int = field(default=32, metadata={"min": 2})
    length: int = field(default=128, metadata={"min": 2})
    world: int = field(default=0, metadata={"min": 0})

    def __post_init__(self) -> None:
        super().__post_init__()
        possible = self.vocab_size ** (self.order - 1)
        if self.contexts > possible:
            raise self.refuse("contexts", f"are at most vocab_size^(order - 1) = {possible}")
        if possible >= 2**62:
            raise self.refuse("order", "are those with fewer than 2^62 possible contexts")
        if self.length < self.order:
            raise self.refuse("length", f"are at least order = {self.order}")

    @property
    def chance(self) -> float:
        """Of the answer that most contexts share."""
        return float(self.table()[:, -1].bincount().max()) / self.contexts

    def table(self, device: torch.device | str = "cpu") -> Tensor:
        """`(contexts, n)`: the n-grams; the same on every device."""
        return _table(self, str(device))

    def sample(self, batch: int, generator: torch.Generator) -> Sample:
        """Ids `(B, T)`, and at the end of each context its token `(B, T)`.

        Rows begin anywhere in an n-gram, so that positions do not tell where contexts end; one
        that is cut by the beginning is not scored.
        """
        device = generator.device
        count = self.length // self.order + 2
        chosen = torch.randint(self.contexts, (batch, count), generator=generator, device=device)
        grams = self.table(device)[chosen].flatten(1)
        begin = torch.randint(self.order, (batch, 1), generator=generator, device=device)
        where = begin + torch.arange(self.length + 1, device=device)
        tokens = grams.gather(1, where)
        ends = where[:, :-1] % self.order == self.order - 2
        whole = where[:, :-1] - (self.order - 2) >= begin
        targets = tokens[:, 1:].where(ends & whole, IGNORED)
        return Sample(inputs=tokens[:, :-1], targets=targets)


@lru_cache(maxsize=64)
def _table(task: NGram, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(task.world)
    numbers = distinct(1, task.contexts, task.vocab_size ** (task.order - 1), generator)[0]
    powers = task.vocab_size ** torch.arange(task.order - 1)
    contexts = numbers[:, None] // powers % task.vocab_size
    answers = torch.randint(task.vocab_size, (task.contexts, 1), generator=generator)
    return torch.cat([contexts, answers], dim=1).to(device)
