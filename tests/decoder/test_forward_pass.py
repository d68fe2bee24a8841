"""What a forward pass finds once, for all layers."""

from __future__ import annotations

import pytest
import torch
from small_models import small
from torch import Tensor

from headway import KVShift, LayerShortcut, SinkLogit
from headway.decoder import HeadwayForCausalLM
from headway.decoder.forward_pass import ForwardPass, start_pass


def passed(model: HeadwayForCausalLM, embeddings: Tensor, positions: Tensor) -> ForwardPass:
    need_lse = model.model.needs_lse
    return start_pass(model.config, embeddings, None, positions, None, need_lse=need_lse)


@pytest.mark.parametrize(
    ("mechanisms", "needed"),
    [
        ([KVShift()], False),
        ([SinkLogit()], True),
        ([LayerShortcut(width=16)], True),
        ([LayerShortcut(width=16, reach="token", mode="add")], False),
    ],
    ids=["shift", "sink", "context", "token"],
)  # fmt: skip
def test_a_model_knows_whether_an_attention_gives_its_log_sum_exp(
    mechanisms: list[object], needed: bool
) -> None:
    assert small(mechanisms).model.needs_lse is needed


def test_blocks_are_found_once_and_only_where_flex_attention_reads_them() -> None:
    model = small([KVShift()])
    embeddings = torch.zeros(1, 300, model.config.hidden_size)
    positions = torch.cat([torch.arange(200), torch.arange(100)])[None]
    assert passed(model, embeddings, positions).visible.blocks is None
    model.config._attn_implementation = "flex_attention"
    blocks = passed(model, embeddings, positions).visible.blocks
    assert blocks is not None
    assert blocks.seq_lengths == (300, 300)
    assert blocks.full_kv_num_blocks.sum() == 0  # no block of 128 is seen whole by another
    assert blocks.kv_num_blocks[0, 0].tolist() == [1, 2, 2]
