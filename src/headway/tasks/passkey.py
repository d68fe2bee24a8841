"""Passkey retrieval: a number hidden in a long text is asked for at its end.

The prompt of YaRN's `eval/passkey.py` (after Mohtashami and Jaggi, landmark attention), which
Selective Attention (arXiv 2411.12892, section 5.2) uses with a key of five digits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from headway.tasks.base import IGNORED, Sample, Task
from headway.tasks.words import Encode

OPENING = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there.\n"
)
FILLER = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
)
BEFORE_KEY, BETWEEN_KEYS, AFTER_KEY = "\nThe pass key is", ". Remember it.", " is the pass key.\n"
QUESTION = "\nWhat is the pass key? The pass key is"


@dataclass(frozen=True, kw_only=True, eq=False)
class Passkey(Task):
    """Filler text with a line that names a key twice, and a question whose answer is the key.

    The key's tokens behind the question are given as inputs, too, so that one forward pass scores
    them all; a row counts as retrieved where all are right (`exact_match`), which is what greedy
    decoding would give. Parts of the prompt are encoded apart; keys with the space before them.

    Attributes:
        encode: text to ids. Called once for each key, all else is done for all rows at once.
        length: T, with all but the last token of the answer.
        depth: share of the filler that stands before the key; None: uniform, as in YaRN.
        digits: of the key, the first of which is not 0; YaRN draws 1 to 50000.
        filler: `(M,)`, ids of a text. Each row begins anywhere in it and, at its end, goes on with
            its beginning. None: YaRN's sentences from the first word on.
    """

    name = "passkey"

    encode: Encode
    length: int = field(default=1024, metadata={"min": 1})
    depth: float | None = None
    digits: int = field(default=5, metadata={"min": 1, "max": 18})
    filler: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth is not None and not 0 <= self.depth <= 1:
            raise self.refuse("depth", "are None and numbers from 0 to 1")
        if self.filler is not None and (self.filler.dim() != 1 or not len(self.filler)):
            raise self.refuse("filler", "are None and ids of shape (M,) with M from 1 on")

    @property
    def chance(self) -> float:
        """Of guessing the key."""
        return 10.0 ** (1 - self.digits) / 9

    def sample(self, batch: int, generator: torch.Generator) -> Sample:
        """Ids `(B, T)`, and the key's tokens, each at the place before it `(B, T)`.

        Slices `(B, T)`: `early`, `middle`, `late`: thirds of the depth at which the key stands.

        Raises:
            HeadwayError: the prompt without any filler is longer than `length`.
        """
        device = generator.device
        keys, size = self._keys(batch, generator)
        fixed = [self._ids(t, device) for t in (OPENING, BEFORE_KEY, BETWEEN_KEYS, AFTER_KEY)]
        opening, before, between, after = fixed
        question = self._ids(QUESTION, device)

        room = self.length + 1 - sum(len(part) for part in (*fixed, question)) - 3 * size
        if room.min() < 0:
            shortest = self.length - int(room.min())
            raise self.refuse("length", f"are at least {shortest}, which the prompt alone takes")
        ahead = self._ahead(room, generator)
        text = self._text(batch, generator)

        row = _Rows(batch, self.length + 1, device)
        row.add(opening)
        row.add(text, ahead)
        for part in (before, between, after):
            row.add(part)
            if part is not after:
                row.add(keys, size)
        place = torch.arange(self.length, device=device) + ahead[:, None]
        row.add(text.gather(1, place.clamp(max=text.shape[1] - 1)), room - ahead)
        row.add(question)
        row.add(keys, size)

        tokens = row.tokens
        answer = torch.arange(self.length, device=device) >= self.length - size[:, None]
        third = (3 * ahead / room.clamp(min=1)).long().clamp(max=2)[:, None].expand_as(answer)
        return Sample(
            inputs=tokens[:, : self.length],
            targets=tokens[:, 1 : self.length + 1].where(answer, IGNORED),
            slices={name: third == i for i, name in enumerate(("early", "middle", "late"))},
        )

    def _keys(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Tokens of the keys `(B, M)`, padded with 0, and how many each has `(B,)`."""
        low, device = 10 ** (self.digits - 1), generator.device
        drawn = torch.randint(low, 10 * low, (batch,), generator=generator, device=device)
        encoded = [list(self.encode(f" {key}")) for key in drawn.tolist()]
        longest = max((len(ids) for ids in encoded), default=0)
        padded = [ids + [0] * (longest - len(ids)) for ids in encoded]
        size = torch.tensor([len(ids) for ids in encoded], dtype=torch.long, device=device)
        return torch.tensor(padded, dtype=torch.long, device=device).view(batch, longest), size

    def _ahead(self, room: Tensor, generator: torch.Generator) -> Tensor:
        """`(B,)`: tokens of filler before the key."""
        if self.depth is not None:
            return (self.depth * room).round().long()
        uniform = torch.rand(
            room.shape, generator=generator, device=room.device, dtype=torch.float64
        )
        return (uniform * (room + 1)).long()

    def _text(self, batch: int, generator: torch.Generator) -> Tensor:
        """`(B, T)`: filler, more than enough of it."""
        device = generator.device
        if self.filler is None:
            text = self._ids(FILLER, device)
            begin = torch.zeros(batch, 1, dtype=torch.long, device=device)
        else:
            text = self.filler.to(device)
            begin = torch.randint(len(text), (batch, 1), generator=generator, device=device)
        return text[(begin + torch.arange(self.length, device=device)) % len(text)]

    def _ids(self, text: str, device: torch.device) -> Tensor:
        return torch.tensor(self.encode(text), dtype=torch.long, device=device)


class _Rows:
    """Rows that grow at their ends by parts of different lengths."""

    def __init__(self, batch: int, length: int, device: torch.device) -> None:
        self._end = length
        self._tokens = torch.zeros(batch, length + 1, dtype=torch.long, device=device)
        self._filled = torch.zeros(batch, 1, dtype=torch.long, device=device)

    @property
    def tokens(self) -> Tensor:
        """`(B, length)`."""
        return self._tokens[:, : self._end]

    def add(self, part: Tensor, size: Tensor | None = None) -> None:
        """Put `part` `(M,)` or `(B, M)` behind each row, or the first `size` `(B,)` of it."""
        part = part.expand(len(self._tokens), -1)
        count = part.shape[1] if size is None else size[:, None]
        step = torch.arange(part.shape[1], device=part.device)
        # What is not wanted goes to the last column, which nobody reads.
        where = torch.where(step < count, self._filled + step, self._end)
        self._tokens.scatter_(1, where, part)
        self._filled = self._filled + count
