"""The blocks that FlexAttention visits, against the mask and against torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from headway.ops.attention import eager_attention
from headway.ops.visibility import BLOCK, Visibility

ARRAYS = (
    "kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices",
    "q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices",
)  # fmt: skip


def packed(starts: list[list[int]], length: int) -> Tensor:
    """Positions `(B, length)` of documents that start at column 0 and at those that are given."""
    columns = torch.arange(length)
    rows = [torch.tensor([0, *(s for s in row if s < length)]) for row in starts]
    return torch.stack(
        [columns - row.sort().values[torch.searchsorted(row.sort().values, columns, right=True) - 1]
         for row in rows]
    )  # fmt: skip


def torchs(visible: Visibility) -> BlockMask:
    """What torch finds by looking at each query and key."""
    mask = visible.mask()[:, 0]
    batch, queries, keys = mask.shape
    return create_block_mask(lambda b, h, q, k: mask[b, q, k], batch, None, queries, keys, "cpu")


def same(ours: BlockMask, theirs: BlockMask) -> None:
    for name in ARRAYS:
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert mine.dtype == other.dtype == torch.int32
        assert torch.equal(mine, other), name
    assert ours.seq_lengths == theirs.seq_lengths
    assert ours.BLOCK_SIZE == theirs.BLOCK_SIZE == (BLOCK, BLOCK)


@given(
    st.lists(st.lists(st.integers(1, 600), max_size=6), min_size=1, max_size=3),
    st.integers(1, 600),
    st.integers(0, 300),
    st.integers(0, 200),
    st.booleans(),
)
@example(starts=[[]], queries=200, earlier=127, unwritten=0, tensor=False)
@settings(max_examples=40, deadline=None)
def test_blocks_are_those_that_torch_finds(
    starts: list[list[int]], queries: int, earlier: int, unwritten: int, tensor: bool
) -> None:
    positions = packed(starts, earlier + queries)[:, earlier:]
    offset = torch.tensor(earlier) if tensor else earlier
    visible = Visibility(positions, offset, earlier + queries + unwritten, False)
    same(visible.found_blocks(), torchs(visible))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_like_documents(side: str) -> None:
    ones = torch.ones(2, 400, dtype=torch.long)
    if side == "left":
        ones[0, :150] = 0
    else:
        ones[0, 250:] = 0
    positions = (ones.cumsum(-1) - 1).clamp(min=0)
    visible = Visibility(positions, 0, 400, False)
    same(visible.found_blocks(), torchs(visible))


def test_a_block_of_other_documents_is_not_visited() -> None:
    visible = Visibility(packed([[256]], 512), 0, 512, False)
    blocks = visible.with_blocks().blocks
    assert blocks is not None
    partly, whole = blocks.kv_num_blocks[0, 0], blocks.full_kv_num_blocks[0, 0]
    assert partly.tolist() == [1, 1, 1, 1]  # the diagonal
    assert whole.tolist() == [0, 1, 0, 1]
    assert blocks.full_kv_indices[0, 0, 3, 0] == 2


def test_compiled_layers_read_blocks_that_were_found_before() -> None:
    """As layers that are compiled by themselves do, on a CPU, where torch has the forward pass."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 300, 16).unbind()

    @torch.compile(fullgraph=True)
    def layer(q: Tensor, k: Tensor, v: Tensor, visible: Visibility) -> Tensor:
        out: Tensor = flex_attention(q, k, v, block_mask=visible.blocks)  # type: ignore[assignment]
        return out

    for starts in ([[100, 170], [290]], [[5], []]):
        visible = Visibility(packed(starts, 300), 0, 300, False).with_blocks()
        with torch.no_grad():
            expected, _ = eager_attention(q, k, v, visible, 16**-0.5)
            torch.testing.assert_close(layer(q, k, v, visible), expected, rtol=0, atol=1e-5)
