"""Layers that are compiled one by one share their programs, whatever crosses them."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import distributed
from torch._inductor import config as inductor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from headway.decoder import HeadwayConfig, HeadwayForCausalLM
from headway.mechanisms import (
    KVShift,
    LayerShortcut,
    Mechanism,
    ResidualStream,
    ScalableSoftmax,
    SelectiveAttention,
    SinkLogit,
)
from headway.ops.padding import PADS_WRONG
from headway.training.packed import document_positions
from headway.training.sharding import compile_layers, uncompiled


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """The programs of layers that are compiled in the test; they run as they were traced."""
    kept = []

    def keep(graph: torch.fx.GraphModule, _: Sequence[torch.Tensor]) -> object:
        kept.append(graph)
        return graph.forward

    whole = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda layer: whole(layer, backend=keep))
    torch.compiler.reset()
    return kept


@pytest.mark.parametrize(
    ("mechanisms", "programs"),
    [
        pytest.param((), 2, id="plain"),
        pytest.param((KVShift(),), 2, id="kv-shift"),
        pytest.param((ResidualStream(), KVShift(), SelectiveAttention()), 3, id="the-three"),
    ],
)
def test_few_programs_for_many_layers(
    made: list[torch.fx.GraphModule], mechanisms: Sequence[Mechanism], programs: int
) -> None:
    """The first layer, those in the middle and, where values are handed on, the last one."""
    config = HeadwayConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=10,
        num_attention_heads=2,
        max_position_embeddings=16,
        mechanisms=list(mechanisms),
    )
    torch.manual_seed(0)
    model, twin = HeadwayForCausalLM(config), HeadwayForCausalLM(config)
    twin.load_state_dict(model.state_dict())
    compile_layers(model)
    ids = torch.randint(32, (2, 8))
    for _ in range(2):
        ours = model(ids, labels=ids, use_cache=False)
    torch.testing.assert_close(ours.loss, twin(ids, labels=ids, use_cache=False).loss)
    assert len(made) == programs


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """Of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_passes_that_are_seldom_make_no_programs(
    made: list[torch.fx.GraphModule], mesh: DeviceMesh, sharded: bool
) -> None:
    config = HeadwayConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    model = HeadwayForCausalLM(config)
    compile_layers(model)
    if sharded:
        for layer in (*model.model.layers, model):
            fully_shard(layer, mesh=mesh)
    ids = torch.randint(32, (2, 8))
    with uncompiled(model), torch.no_grad():
        seldom = model(ids, use_cache=False).logits
    assert not made
    with pytest.raises(RuntimeError, match="made up"), uncompiled(model):
        raise RuntimeError("made up")
    torch.testing.assert_close(model(ids, use_cache=False).logits, seldom)
    assert made


LISTS: dict[str, list[Mechanism]] = {
    "packed": [KVShift(), SelectiveAttention()],
    "sink": [KVShift(), SelectiveAttention(), SinkLogit()],
    "shortcut": [KVShift(), SelectiveAttention(), LayerShortcut(width=64)],
}


def a_model(mechanisms: list[Mechanism], attention: str) -> HeadwayForCausalLM:
    config = HeadwayConfig(
        vocab_size=64,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        mechanisms=mechanisms,
    )
    torch.manual_seed(0)
    model = HeadwayForCausalLM(config)
    model.set_attn_implementation(attention)
    return model


def assert_same_gradients(
    model: HeadwayForCausalLM, twin: HeadwayForCausalLM, length: int, most: float
) -> None:
    """Of packed documents; no number is off by more than `most` of the largest one of its kind."""
    ids = torch.randint(64, (4, length), device=model.device)
    given = {"position_ids": document_positions(ids, 7), "use_cache": False}
    losses = []
    for one in (model, twin):
        one.zero_grad()
        losses.append(one(ids, labels=ids, **given).loss)
        losses[-1].backward()
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-3)
    wrong = {}
    for (name, mine), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert mine.grad is not None, name
        assert theirs.grad is not None, name
        off = float((mine.grad - theirs.grad).abs().max() / theirs.grad.abs().max())
        if not off <= most:
            wrong[name] = off
    assert not wrong, f"{length} tokens: {wrong}"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention is compiled for a GPU")
@pytest.mark.parametrize("lengths", [(300,), (512, 300)], ids=str)
@pytest.mark.parametrize(
    ("attention", "compiled"),
    [("flex_attention", how) for how in ("alone", "each", "whole")]
    + [("eager", how) for how in ("each", "whole")],
)
@pytest.mark.parametrize("name", LISTS)
def test_compiled_attention(
    name: str, attention: str, compiled: str, lengths: Sequence[int]
) -> None:
    """Against plain attention: losses and gradients, batch after batch."""
    model, twin = a_model(LISTS[name], attention).cuda(), a_model(LISTS[name], "eager").cuda()
    assert model.config._attn_implementation == attention
    torch.compiler.reset()
    if compiled == "each":
        compile_layers(model)
    if compiled == "whole":
        model.compile()
    for length in lengths:
        assert_same_gradients(model, twin, length, most=5e-2)


@pytest.mark.skipif(not PADS_WRONG, reason="strides that are padded are read right")
@pytest.mark.parametrize(
    "mechanism",
    [
        SinkLogit(),
        ScalableSoftmax(bias=True),
        SelectiveAttention(token="constant", per_head=True),
        LayerShortcut(width=64, reach="token"),
        LayerShortcut(width=64),
    ],
    ids=repr,
)
def test_padded_strides(mechanism: Mechanism) -> None:
    """Where torch.compile would pad the strides of sums over channels, on a CPU as on a GPU."""
    model, twin = a_model([mechanism], "eager"), a_model([mechanism], "eager")
    torch.compiler.reset()
    compile_layers(model)
    with inductor.patch(disable_padding_cpu=False, comprehensive_padding=True):
        assert_same_gradients(model, twin, 300, most=1e-4)
