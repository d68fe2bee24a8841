"""Multi-hop induction: follow the induction step several times.

The task `InductionHopsFullSequenceTask` of chsanford/hop-induction-heads (Sanford et al.), which KV
Shifting Attention (arXiv 2411.19574) uses with the attention changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from headway.tasks.base import IGNORED, Sample, Task
from headway.tasks.draws import previous, walk


@dataclass(frozen=True, kw_only=True)
class Hops(Task):
    """A number of hops, then characters; at each character, where the hops lead is the answer.

    A hop from place i goes to the place after the last earlier appearance of the character at i.
    Zero hops stay: the answer is the character itself. Where a hop finds no earlier appearance, the
    answer is a token that says so. No character equals the one before it.

    Ids, as in the code: first the numbers of hops, then the characters, then "does not exist", then
    the blank that answers the first position.

    Attributes:
        characters: size of the alphabet.
        min_hops: fewest hops in a row.
        max_hops: most.
        length: T, the number of hops and T - 1 characters; the code's 99.
        vocab_size: V; the code's model has 30, of which 23 are used.
        hops: every row asks for this number; None: uniform from `min_hops` to `max_hops`.
        scored: `all`, as in the code: also the blank and "does not exist"; `existing`: answers that
            are characters alone.
    """

    name = "hops"

    characters: int = field(default=4, metadata={"min": 2})
    min_hops: int = field(default=0, metadata={"min": 0})
    max_hops: int = field(default=16, metadata={"min": 0})
    length: int = field(default=99, metadata={"min": 2})
    vocab_size: int = field(default=30, metadata={"min": 1})
    hops: int | None = None
    scored: Literal["all", "existing"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_hops < self.min_hops:
            raise self.refuse("max_hops", f"are at least min_hops = {self.min_hops}")
        if self.hops is not None and not self.min_hops <= self.hops <= self.max_hops:
            raise self.refuse("hops", f"are None and {self.min_hops} to {self.max_hops}")
        if self.vocab_size <= self.blank:
            raise self.refuse("vocab_size", f"are at least the {self.blank + 1} ids in use")

    @property
    def first_character(self) -> int:
        return self.max_hops - self.min_hops + 1

    @property
    def missing(self) -> int:
        """The answer where the hops lead nowhere."""
        return self.first_character + self.characters

    @property
    def blank(self) -> int:
        """The answer at the first position."""
        return self.missing + 1

    @property
    def chance(self) -> float:
        """Of a guess among the characters, where one is the answer.

        Of few hops, the last character tells more: one hop never leads to the same character, two
        do so half of the time; from eight on it tells next to nothing.
        """
        return 1 / self.characters

    def sample(self, batch: int, generator: torch.Generator) -> Sample:
        """Ids `(B, T)`, and what the hops lead to `(B, T)`.

        Slices `(B, T)`: `existing` and `missing`; and `hops_k`: rows that ask for k hops, where the
        answer is a character.
        """
        device = generator.device
        text = walk(batch, self.length - 1, self.characters, generator)
        if self.hops is None:
            drawn = (self.max_hops + 1 - self.min_hops, (batch, 1))
            hops = self.min_hops + torch.randint(*drawn, generator=generator, device=device)
        else:
            hops = torch.full((batch, 1), self.hops, device=device)

        before = previous(text)
        # Place 0 of `step` stands for nowhere, which every hop leads back to.
        step = torch.zeros(batch, self.length, dtype=torch.long, device=device)
        step[:, 1:] = torch.where(before >= 0, before + 2, 0)
        place = torch.arange(1, self.length, device=device).expand(batch, -1)
        for done in range(self.max_hops if self.hops is None else self.hops):
            place = torch.where(hops > done, step.gather(1, place), place)

        answers = torch.full((batch, self.length), self.missing, device=device)
        answers[:, 1:] = text + self.first_character
        targets = torch.full_like(answers, self.blank)
        targets[:, 1:] = answers.gather(1, place)
        inputs = torch.cat([hops - self.min_hops, text + self.first_character], dim=1)
        existing = targets < self.missing
        slices = {"existing": existing, "missing": targets == self.missing}
        for k in range(self.min_hops, self.max_hops + 1):
            slices[f"hops_{k}"] = existing & (hops == k)
        if self.scored == "existing":
            targets = targets.where(existing, IGNORED)
        return Sample(inputs=inputs, targets=targets, slices=slices)
