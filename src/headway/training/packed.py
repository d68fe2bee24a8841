"""Windows of packed documents as what a model is called with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from headway.corpora.batches import Windows


class PackedWindows(Dataset[Tensor]):
    """The windows of a run in their order, which `Windows` draws from the seed alone.

    Window `i` is the same whatever the batch size and the number of processes: batches are
    consecutive windows.

    Args:
        windows: with a batch size of 1.
        number: of windows that the run reads.
    """

    def __init__(self, windows: Windows, number: int) -> None:
        self._windows, self._number = windows, number

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> Tensor:
        """`(T + 1,)`."""
        return self._windows.batch(index)[0]


class Inputs:
    """Makes the arguments of a model's forward of windows.

    Args:
        end: id of the token that ends a document; its successor has position 0. None: all of a
            window counts as one document.
    """

    def __init__(self, end: int | None) -> None:
        self.end = end

    def __call__(self, windows: Sequence[Tensor]) -> dict[str, Any]:
        """Of windows, each `(T + 1,)`, with the labels shifted already."""
        both = torch.stack(list(windows))
        ids, labels = both[:, :-1].contiguous(), both[:, 1:].contiguous()
        # Models of transformers shift `labels` unless `shift_labels` stands beside them.
        return {"input_ids": ids, "labels": labels, "shift_labels": labels} | self.positions(ids)

    def positions(self, ids: Tensor) -> dict[str, Tensor]:
        """The argument `position_ids` for ids `(B, T)`, where documents are kept apart."""
        return {} if self.end is None else {"position_ids": document_positions(ids, self.end)}


def document_positions(ids: Tensor, end: int) -> Tensor:
    """Positions `(B, T)` that start anew behind every token `end` of `ids` `(B, T)`."""
    columns = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    starts = torch.zeros_like(ids, dtype=torch.bool)
    starts[:, 1:] = ids[:, :-1] == end
    return columns - torch.where(starts, columns, 0).cummax(dim=1).values
