"""Induction: a token that was seen before is followed by what followed it then.

The generator of KV Shifting Attention (arXiv 2411.19574, section 3.2 and its appendix) without its
defects: a token's successor is fixed when it first appears and never overwritten, and no
placeholder stands for a successor that is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from headway.tasks.base import IGNORED, Sample, Task
from headway.tasks.draws import distinct, walk


@dataclass(frozen=True, kw_only=True)
class Induction(Task):
    """Random tokens; one that was drawn before brings the token that followed it.

    Each row has its own candidates, drawn from the vocabulary, so a successor is never a fact about
    token ids. Tokens are drawn uniformly from the candidates; a draw equal to the last token is
    skipped. A new token stands alone, and what comes next is its successor; a token seen before
    stands with its successor behind it, and at that token the successor is the answer.

    A successor that stands there as an answer is followed by something else than at its first
    appearance. From then on that token has several followers, and what comes behind it is scored
    under `scored="all"` alone.

    Attributes:
        length: T; the paper's 512.
        candidates: how many different tokens a row may draw from.
        vocab_size: V; ids below `first_id` are not used.
        first_id: the paper draws ids from 11 to 7999.
        scored: `clean`: answers that agree with every earlier appearance of their token (a choice:
            the paper is silent). `first`: a row's first repeat alone, as in the paper; it always
            agrees. `all`: every repeat, the answer being what followed the first appearance.
    """

    name = "induction"

    length: int = field(default=512, metadata={"min": 4})
    candidates: int = field(default=512, metadata={"min": 3})
    vocab_size: int = field(default=8000, metadata={"min": 3})
    first_id: int = field(default=11, metadata={"min": 0})
    scored: Literal["clean", "first", "all"] = "clean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates > self.vocab_size - self.first_id:
            room = self.vocab_size - self.first_id
            raise self.refuse("candidates", f"are at most vocab_size - first_id = {room}")

    @property
    def chance(self) -> float:
        """Of a guess among all ids in use."""
        return 1 / (self.vocab_size - self.first_id)

    def sample(self, batch: int, generator: torch.Generator) -> Sample:
        """Ids `(B, T)`, and at each scored token its successor `(B, T)`.

        Slices `(B, T)`: `first`: the row's first repeat; `later`: the others.
        """
        device = generator.device
        drawn = walk(batch, self.length + 1, self.candidates, generator)
        order = torch.arange(self.length + 1, device=device).expand_as(drawn)

        first = self._earliest(drawn, order)
        new = first.gather(1, drawn) == order
        after = first.gather(1, drawn) + 1
        successor = drawn.gather(1, after.clamp(max=self.length))
        kept = ~_same_as_last(drawn, new, successor)
        repeat = kept & ~new

        answered = self._earliest(successor, order.where(repeat, self.length + 1))
        clean = answered.gather(1, drawn) >= order
        first_repeat = repeat & (repeat.cumsum(1) == 1)

        # A draw takes one place when it is new, two when it is a repeat, none when it is skipped.
        places = kept.long() + repeat.long()
        start = places.cumsum(1) - places
        end = self.length + 1
        tokens = torch.zeros(batch, end + 1, dtype=torch.long, device=device)
        tokens.scatter_(1, torch.where(repeat, start + 1, end).clamp(max=end), successor)
        tokens.scatter_(1, torch.where(kept, start, end).clamp(max=end), drawn)

        wanted = {"clean": repeat & clean, "first": first_repeat, "all": repeat}[self.scored]
        names = distinct(batch, self.candidates, self.vocab_size - self.first_id, generator)
        ids = (names + self.first_id).gather(1, tokens)
        inputs, following = ids[:, : self.length], ids[:, 1 : self.length + 1]
        targets = following.where(self._mark(wanted, start), IGNORED)
        opening = self._mark(first_repeat, start)
        return Sample(inputs=inputs, targets=targets, slices={"first": opening, "later": ~opening})

    def _earliest(self, values: Tensor, order: Tensor) -> Tensor:
        """`(B, candidates)`: the lowest `order` at which each value stands; T + 1 for none."""
        earliest = order.new_full((len(values), self.candidates), self.length + 1)
        return earliest.scatter_reduce(1, values, order, "amin")

    def _mark(self, draws: Tensor, start: Tensor) -> Tensor:
        """Bool `(B, T)`: places at which one of these draws stands."""
        marked = torch.zeros(len(draws), self.length + 1, dtype=torch.bool, device=draws.device)
        places = torch.where(draws, start, self.length).clamp(max=self.length)
        return marked.scatter_(1, places, True)[:, : self.length]


def _same_as_last(drawn: Tensor, new: Tensor, successor: Tensor) -> Tensor:
    """Bool `(B, N)`: draws equal to the token that stands last when they are drawn.

    Neighbouring draws differ, so this happens only behind a repeat, whose successor stands last.
    Behind a skipped draw it cannot happen: of a run of draws that equal their predecessor's
    successor, every second one is skipped.
    """
    equal = torch.zeros_like(new)
    equal[:, 1:] = ~new[:, :-1] & (drawn[:, 1:] == successor[:, :-1])
    order = torch.arange(drawn.shape[1], device=drawn.device).expand_as(drawn)
    last_other = order.where(~equal, -1).cummax(1).values
    return equal & ((order - last_other) % 2 == 1)
