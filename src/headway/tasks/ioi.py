"""Indirect-object identification: two people, one gives something to the other; to whom?

After Wang et al. (arXiv 2211.00593). The frames of Burns et al. (arXiv 2412.15113,
`small-LM/IOI_task.py`) are among ours; they had four prompts in two orders.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

from headway.errors import HeadwayError
from headway.tasks.base import IGNORED, Sample, Task, answers
from headway.tasks.draws import distinct
from headway.tasks.words import Encode

OPENINGS = (
    "After{A} and{B} went to the {place},{S} gave {thing} to",
    "When{A} and{B} went to the {place},{S} gave {thing} to",
    "When{A} and{B} were at the {place},{S} handed {thing} to",
    "One day,{A} and{B} met at the {place}, and{S} gave {thing} to",
    "Then{A} and{B} had lunch at the {place}, and{S} brought {thing} to",
    "While{A} and{B} were walking to the {place},{S} offered {thing} to",
)
PLACES = ("store", "park", "shops", "school", "house", "garden")
THINGS = ("a bottle of milk", "the ball", "an apple", "a drink", "the book", "a flower")
NAMES = (
    *("John", "Mary", "Tom", "James", "Dan", "Emily", "Sam", "Amy", "Tim", "Lily", "Ben", "Anna"),
    *("Max", "Lucy", "Jack", "Sara", "Mia", "Sue", "Bob", "Jane", "Peter", "Alice", "George"),
    *("Henry", "Charles", "William", "Elizabeth", "Margaret", "Robert", "Thomas", "David"),
    *("Paul", "Mark", "Michael", "Daniel", "Joseph", "Richard", "Edward", "Arthur", "Martin"),
    *("Helen", "Kate", "Laura", "Martha", "Ruth", "Sarah", "Susan", "Julia", "Rachel", "Maria"),
)
_FIRST, _SECOND, _SUBJECT = -1, -2, -3


@dataclass(frozen=True, kw_only=True)
class NamesSample(Sample):
    """Prompts with the name that would be wrong.

    Attributes:
        wrong: ids `(B,)`, the name that stands twice.
    """

    wrong: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class IndirectObject(Task):
    """ "After John and Mary went to the store, John gave a bottle of milk to" -> " Mary".

    Prompts are all frames (openings, places, things) with all ordered pairs of names. Each pair
    of rows asks the same frame and names in both orders: in the first the second name acts (ABBA),
    in the second the first one (BABA). No prompt stands twice in a sample.

    Attributes:
        encode: text to ids.
        counts: `(V,)`, how often each id stands in the model's training text; names that stand
            there less than `min_count` times are left out. None: all count as known.
        min_count: a choice of ours.
        names: candidates; those that are one token behind a space are kept.
        pad: id behind prompts that are shorter than the longest. Causal models do not see it.
    """

    name = "ioi"

    encode: Encode
    counts: Tensor | None = None
    min_count: int = field(default=1, metadata={"min": 0})
    names: tuple[str, ...] = NAMES
    pad: int = field(default=0, metadata={"min": 0})

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.kept) < 2:
            accepted = "are lists with two names that are one token each and known to the corpus"
            raise self.refuse("names", accepted)
        self._check_parts()

    @cached_property
    def kept(self) -> dict[str, int]:
        """The names in use, with their ids."""
        found: dict[str, int] = {}
        for name in self.names:
            ids = self.encode(f" {name}")
            if len(ids) == 1 and ids[0] not in found.values() and self._known(ids[0]):
                found[name] = ids[0]
        return found

    @property
    def prompts(self) -> int:
        """How many different prompts there are."""
        return 2 * self._choices

    @property
    def chance(self) -> float:
        """Of a guess between the two names of the prompt."""
        return 0.5

    def sample(self, batch: int, generator: torch.Generator) -> NamesSample:
        """Ids `(B, T)`, padded behind, and the right name at the last token of each `(B, T)`.

        Slices `(B, T)`: `abba`, `baba`.

        Raises:
            HeadwayError: `batch` is odd, or larger than `prompts`.
        """
        device = generator.device
        if batch % 2 or batch > self.prompts:
            raise HeadwayError(
                f"batch: {batch} is not accepted; accepted are even numbers up to {self.prompts}, "
                "the number of different prompts"
            )
        frames, lengths = (t.to(device) for t in self._frames)
        names = torch.tensor(list(self.kept.values()), device=device)
        drawn = distinct(1, batch // 2, self._choices, generator)[0].repeat_interleave(2)
        pair, frame = drawn // len(frames), drawn % len(frames)
        first, second = pair // (len(names) - 1), pair % (len(names) - 1)
        second = second + (second >= first).long()  # the second name is another one

        abba = torch.arange(batch, device=device) % 2 == 0
        a, b = names[first], names[second]
        subject, other = torch.where(abba, b, a), torch.where(abba, a, b)
        inputs = frames[frame]
        for mark, ids in ((_FIRST, a), (_SECOND, b), (_SUBJECT, subject)):
            inputs = torch.where(inputs == mark, ids[:, None], inputs)

        targets = torch.full_like(inputs, IGNORED)
        targets.scatter_(1, lengths[frame][:, None] - 1, other[:, None])
        order = abba[:, None].expand_as(inputs)
        return NamesSample(
            inputs=inputs, targets=targets, slices={"abba": order, "baba": ~order}, wrong=subject
        )

    @property
    def _choices(self) -> int:
        """Frames with ordered pairs of names."""
        return len(self._frames[0]) * len(self.kept) * (len(self.kept) - 1)

    @cached_property
    def _frames(self) -> tuple[Tensor, Tensor]:
        """Ids `(F, T)` with marks where names stand, padded, and lengths `(F,)`."""
        rows = [self._assembled(text, _FIRST, _SECOND, _SUBJECT) for text in _texts()]
        longest = max(map(len, rows))
        padded = [row + [self.pad] * (longest - len(row)) for row in rows]
        return torch.tensor(padded), torch.tensor([len(row) for row in rows])

    def _assembled(self, text: str, a: int, b: int, subject: int) -> list[int]:
        """A frame's ids, its names standing in for `{A}`, `{B}` and `{S}`."""
        before, rest = text.split("{A}")
        between, rest = rest.split("{B}")
        middle, end = rest.split("{S}")
        encode = self.encode
        return [
            *(*encode(before), a, *encode(between), b),
            *(*encode(middle), subject, *encode(end)),
        ]

    def _check_parts(self) -> None:
        """Text that is encoded in parts must have the ids that it has as a whole."""
        (a, a_id), (b, b_id), *_ = self.kept.items()
        for text in _texts():
            whole = text.replace("{A}", f" {a}").replace("{B}", f" {b}").replace("{S}", f" {b}")
            if list(self.encode(whole)) != self._assembled(text, a_id, b_id, b_id):
                raise self.refuse("encode", "are tokenizers that split text at spaces")

    def _known(self, number: int) -> bool:
        if self.counts is None:
            return True
        return number < len(self.counts) and int(self.counts[number]) >= self.min_count


def name_scores(logits: Tensor, sample: NamesSample) -> dict[str, dict[str, Tensor]]:
    """Means over `all`, `abba` and `baba` of what a model thinks of the two names.

    `right` and `wrong`: probability among the whole vocabulary; `difference`: of their logits;
    `preferred`: share of prompts in which the right one has the higher logit; `accuracy`: share in
    which it has the highest of all.

    Args:
        logits: `(B, T, V)`.
    """
    rows, at = sample.scored.nonzero(as_tuple=True)
    last = answers(logits, sample)[rows, at]
    right, wrong = sample.targets[rows, at][:, None], sample.wrong[:, None]
    chances = last.softmax(-1)
    difference = (last.gather(1, right) - last.gather(1, wrong))[:, 0]
    measures = {
        "right": chances.gather(1, right)[:, 0],
        "wrong": chances.gather(1, wrong)[:, 0],
        "difference": difference,
        "preferred": (difference > 0).to(last.dtype),
        "accuracy": (last.argmax(-1) == right[:, 0]).to(last.dtype),
    }
    parts = {"all": torch.ones_like(rows, dtype=torch.bool)}
    parts |= {name: part[rows, at] for name, part in sample.slices.items()}
    return {
        name: {measure: values[part].mean() for measure, values in measures.items()}
        for name, part in parts.items()
    }


def _texts() -> list[str]:
    return [
        opening.replace("{place}", place).replace("{thing}", thing)
        for opening, place, thing in product(OPENINGS, PLACES, THINGS)
    ]
