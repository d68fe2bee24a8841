"""Windows of packed documents: positions, order, and what the model then computes."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway import HeadwayConfig, HeadwayForCausalLM, KVShift
from headway.corpora.batches import Windows
from headway.training.packed import Inputs, PackedWindows, document_positions


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 3))
def test_positions_start_anew_behind_every_end(row, end):
    expected, position = [], 0
    for token in row:
        expected.append(position)
        position = 0 if token == end else position + 1
    assert document_positions(torch.tensor([row]), end).tolist() == [expected]


@given(st.integers(0, 5), st.integers(1, 4), st.integers(0, 9))
def test_a_batch_is_consecutive_windows_whatever_its_size(seed, size, step):
    tokens = np.arange(200, dtype=np.uint16)
    data = PackedWindows(Windows(tokens, 7, 1, seed), 1000)
    whole = Windows(tokens, 7, size, seed).batch(step)
    assert torch.equal(torch.stack([data[step * size + row] for row in range(size)]), whole)
    assert len(data) == 1000


def test_documents_do_not_see_each_other():
    """The loss of two documents in a window is that of each alone."""
    config = HeadwayConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        mechanisms=[KVShift()],
    )  # fmt: skip
    torch.manual_seed(0)
    model = HeadwayForCausalLM(config).double().eval()
    window = torch.tensor([3, 4, 5, 0, 7, 8, 9, 6])
    packed = Inputs(end=0)([window])
    assert packed["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    together = model(**packed).loss
    parts = [Inputs(end=None)([part]) for part in (window[:5], window[4:])]
    apart = [model(**part).loss * part["labels"].numel() for part in parts]
    torch.testing.assert_close(together, sum(apart) / 7, rtol=1e-5, atol=0)
