"""transformers shares a saved decoder out to two processes by its plan; it computes the same."""

import multiprocessing
import os
import socket

import pytest
import torch
from transformers.distributed import DistributedConfig

from headway import (
    HeadwayConfig,
    HeadwayError,
    HeadwayForCausalLM,
    KVShift,
    OutputGate,
    ResidualStream,
    SelectiveAttention,
    SinkLogit,
)
from headway.decoder.tensor_parallel import check_shares
from properties.strategies import make_loud

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "qk_norm": True,
}
MECHANISMS = [KVShift(), ResidualStream(), SelectiveAttention(), SinkLogit(), OutputGate()]


def _load_and_call(rank, port, folder):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    shared = HeadwayForCausalLM.from_pretrained(
        folder, distributed_config=DistributedConfig(tp_size=2)
    )
    assert shared.model.layers[0].self_attn.q_proj.weight.to_local().shape == (16, 32)
    assert shared.model.layers[0].self_attn.mechanisms.members["kv_shift"].key.shape == (2, 2)
    with torch.no_grad():
        logits = shared(ids()).logits
        written = shared.generate(ids(), max_new_tokens=4, do_sample=False)
    torch.save((logits, written), f"{folder}/{rank}.pt")
    os._exit(0)


def ids():
    return torch.randint(1, 64, (2, 9), generator=torch.Generator().manual_seed(0))


def test_a_saved_model_is_shared_out(tmp_path):
    pytest.importorskip("accelerate", reason="transformers needs accelerate to share a model out")
    torch.manual_seed(0)
    model = HeadwayForCausalLM(HeadwayConfig(**SIZES, mechanisms=MECHANISMS)).eval()
    make_loud(model)
    model.save_pretrained(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    context = multiprocessing.get_context("fork")
    started = [
        context.Process(target=_load_and_call, args=(rank, port, tmp_path)) for rank in range(2)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0, 0]
    with torch.no_grad():
        logits, written = (
            model(ids()).logits,
            model.generate(ids(), max_new_tokens=4, do_sample=False),
        )
    for rank in range(2):
        found, continued = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found, logits, atol=1e-5, rtol=1e-4)
        assert torch.equal(continued, written)


@pytest.mark.parametrize(
    ("changes", "processes", "told"),
    [
        ({}, 4, "cannot share num_key_value_heads=2"),
        ({"num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 8}, 4, "heads=6"),
        ({"position": "alibi", "mechanisms": []}, 2, "slopes of all heads"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(changes, processes, told):
    with pytest.raises(HeadwayError, match=told):
        check_shares(HeadwayConfig(**SIZES | changes), processes)
