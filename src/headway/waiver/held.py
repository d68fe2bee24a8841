"""Which tokens of a stream a bounded cache holds, and where each stands: numbers, no keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LIMIT = 8192
"""Positions that the model is told stay below this (or four windows, if more), so that its float32
angles stay exact to 5e-4 of a radian and bounded tables are never left."""


@dataclass(frozen=True)
class Step:
    """What one forward pass does to every layer alike.

    The keys at hand are those of the kept tokens, the recent ones, and the new ones, in this order.

    Attributes:
        tokens: how many new ones.
        turn: `(R, kept)`, positions by which the kept keys are turned for this pass; R is 1, or
            the batch where rows are padded.
        shift: positions by which the recent keys are turned, for good, before it; 0 nearly always.
        take: `(R, kept afterwards)`, which of the keys at hand are kept afterwards, or None where
            the kept ones stay; row by row from the right, what is left over is never seen.
        recent: how many of the last keys stay as recent ones.
    """

    tokens: int
    turn: Tensor
    shift: int
    take: Tensor | None
    recent: int


class Held:
    """Columns of the stream that are held: kept ones, and a window of recent ones.

    A column is a token's number in the stream, padding counted. Kept columns stand directly before
    the recent ones, in the order of the stream. A column that is to be kept stays among the recent
    ones until the window leaves it.

    Args:
        keep: positions to keep, counted from the first real token of a row.
        window: recent tokens that a token sees, itself counted.
        padding: `(R,)`, columns of padding on the left of each row.

    Attributes:
        seen: columns so far.
        recent: recent columns held, at most `window - 1`.
        place: the position that the model is told for the next token.
        source: `(R, kept)`, the position at which each kept key was rotated.
        filled: `(R, kept)`, whether a row has a token there.
    """

    def __init__(self, keep: Sequence[int], window: int, padding: Tensor) -> None:
        self.keep, self.window, self.padding = tuple(keep), window, padding
        self.seen = self.recent = self.place = 0
        self.source = torch.zeros(len(padding), 0, dtype=torch.long)
        self.filled = torch.zeros(len(padding), 0, dtype=torch.bool)
        self.limit = max(LIMIT, 4 * (window + len(self.keep)))

    def step(self, tokens: int) -> Step:
        """Take in `tokens` more columns."""
        shift = self._shift(tokens)
        self.place -= shift
        kept = self.source.shape[1]
        first_place = self.place - self.recent
        turn = first_place - kept + torch.arange(kept) - self.source
        after = min(self.recent + tokens, self.window - 1)
        take = self._take(self.recent + tokens - after)
        self.seen += tokens
        self.place += tokens
        self.recent = after
        return Step(tokens, turn, -shift, take, after)

    def _shift(self, tokens: int) -> int:
        """Back to the beginning of the number line, once its end is near."""
        start = self.place - self.recent - self.source.shape[1]
        return start if start > 0 and self.place + tokens > self.limit else 0

    def _take(self, leaving: int) -> Tensor | None:
        """Move leaving columns that are kept over to the kept ones."""
        kept, first = self.source.shape[1], self.seen - self.recent
        columns = self.padding[:, None] + torch.tensor(self.keep, dtype=torch.long)
        moving = (columns >= first) & (columns < first + leaving)
        if not bool(moving.any()):
            return None
        rows = []
        for row, filled in enumerate(self.filled):
            old = [slot for slot in range(kept) if bool(filled[slot])]
            rows.append([*old, *(kept + columns[row][moving[row]] - first).tolist()])
        width = max(len(row) for row in rows)
        take = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        filled = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
        places = (self.place - self.recent + torch.arange(leaving)).expand(len(rows), -1)
        self.source = torch.cat([self.source, places], dim=1).gather(1, take)
        self.filled = filled
        return take

    def real(self, tokens: int) -> Tensor:
        """`(R, kept + recent + tokens)`, which keys at hand are no padding, before a step."""
        columns = torch.arange(self.seen - self.recent, self.seen + tokens)
        return torch.cat([self.filled, columns >= self.padding[:, None]], dim=1)

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder the batch: `rows` holds indices of the batch."""
        if len(self.padding) > 1:
            self.padding, self.source = self.padding[rows], self.source[rows]
            self.filled = self.filled[rows]

    def repeat(self, times: int) -> None:
        """Repeat each row `times` times, neighbours together."""
        self.select(torch.arange(len(self.padding)).repeat_interleave(times))
