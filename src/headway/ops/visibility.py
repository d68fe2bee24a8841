"""Who sees whom: as a mask, as a bias, and as the blocks of keys that FlexAttention visits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128
"""Queries and keys of a block, torch's own size."""


@dataclass(frozen=True)
class Visibility:
    """Which keys each query sees.

    Documents are contiguous, so a query at column `i` with position `p` inside its own document
    sees exactly the columns `i - p .. i`. Packing, left padding and decoding all follow from this.

    Attributes:
        positions: `(B, T)`, position of each query inside its own document.
        offset: column of the first query among the keys (a tensor under a static cache).
        keys: number of key columns.
        whole_rows: every row is one document from column 0, and no key column is unwritten.
        slopes: `(H,)`, ALiBi slopes (arXiv 2108.12409), or None.
        blocks: `found_blocks`, where they were found before.
    """

    positions: Tensor
    offset: int | Tensor
    keys: int
    whole_rows: bool
    slopes: Tensor | None = None
    blocks: BlockMask | None = None

    def mask(self) -> Tensor:
        """Boolean `(B, 1, T, keys)`, true where the query sees the key."""
        query, key = self._columns()
        first = query - self.positions[:, None, :, None]
        return (key <= query) & (key >= first)

    def bias(self, dtype: torch.dtype) -> Tensor | None:
        """Additive `(1, H, T, keys)` of ALiBi, or None without slopes."""
        if self.slopes is None:
            return None
        query, key = self._columns()
        return (-self.slopes[:, None, None] * (query - key)).to(dtype)

    def _columns(self) -> tuple[Tensor, Tensor]:
        device = self.positions.device
        query = torch.arange(self.positions.shape[1], device=device) + self.offset
        return query[:, None], torch.arange(self.keys, device=device)[None, :]

    def with_blocks(self) -> Visibility:
        """The same with its blocks, so that no layer looks for them."""
        return replace(self, blocks=self.found_blocks())

    def found_blocks(self) -> BlockMask:
        """Blocks `(B, 1, T / 128, keys / 128)` in which some keys are seen, and all keys.

        Each query sees a run of keys that ends at its own column, so the run's ends tell a block's
        kind, and no `(T, keys)` mask is made. Torch's `create_block_mask` gives the same, but
        under `torch.compile` what it compiles to may read outside of its tensors.
        """
        from torch.nn.attention.flex_attention import BlockMask

        positions, offset, queries = self.positions, self.offset, self.positions.shape[1]
        columns = torch.arange(queries, device=positions.device) + offset
        first, beyond = columns - positions, -queries % BLOCK
        # Rows that fill up the last block see nothing.
        lowest = F.pad(first, (0, beyond), value=self.keys).unflatten(1, (-1, BLOCK)).amin(2)
        highest = F.pad(first, (0, beyond), value=self.keys).unflatten(1, (-1, BLOCK)).amax(2)
        last = F.pad(columns, (0, beyond), value=-1).unflatten(0, (-1, BLOCK)).amax(1)
        start = torch.arange(0, self.keys, BLOCK, device=positions.device)
        seen = (start + BLOCK > lowest[..., None]) & (start <= last[:, None])
        whole = (start >= highest[..., None]) & (start + BLOCK <= columns[::BLOCK, None] + 1)

        def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            column = query + offset
            return (key <= column) & (key >= column - positions[batch, query])

        partly, wholly = (seen & ~whole)[:, None], whole[:, None]
        kv, full_kv = _listed(partly), _listed(wholly)
        q, full_q = _listed(partly.transpose(-2, -1)), _listed(wholly.transpose(-2, -1))
        return BlockMask(
            seq_lengths=(queries, self.keys),
            kv_num_blocks=kv[0],
            kv_indices=kv[1],
            full_kv_num_blocks=full_kv[0],
            full_kv_indices=full_kv[1],
            q_num_blocks=q[0],
            q_indices=q[1],
            full_q_num_blocks=full_q[0],
            full_q_indices=full_q[1],
            BLOCK_SIZE=(BLOCK, BLOCK),
            mask_mod=mask_mod,
        )


def _listed(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """How many of each row are chosen, and all columns, the chosen ones first.

    Args:
        chosen: bool `(..., rows, columns)`.

    Returns:
        int32 `(..., rows)` and `(..., rows, columns)`.
    """
    number = chosen.sum(-1, keepdim=True)
    place = torch.where(chosen, chosen.cumsum(-1), number + (~chosen).cumsum(-1)) - 1
    columns = torch.arange(chosen.shape[-1], device=chosen.device).expand_as(place)
    listed = torch.empty_like(place).scatter(-1, place, columns)
    return number.squeeze(-1).int(), listed.int()
