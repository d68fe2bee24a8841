"""Layers that are compiled one by one share their programs, whatever crosses them."""

from collections.abc import Sequence

import pytest
import torch

from headway.decoder import HeadwayConfig, HeadwayForCausalLM
from headway.mechanisms import KVShift, Mechanism, ResidualStream, SelectiveAttention
from headway.training.sharding import compile_layers


@pytest.mark.parametrize(
    ("mechanisms", "programs"),
    [
        pytest.param((), 2, id="plain"),
        pytest.param((KVShift(),), 2, id="kv-shift"),
        pytest.param((ResidualStream(), KVShift(), SelectiveAttention()), 3, id="the-three"),
    ],
)
def test_few_programs_for_many_layers(
    monkeypatch: pytest.MonkeyPatch, mechanisms: Sequence[Mechanism], programs: int
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
    made = []

    def counted(graph: torch.fx.GraphModule, _: Sequence[torch.Tensor]) -> object:
        made.append(graph)
        return graph.forward

    whole = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda layer: whole(layer, backend=counted))
    torch.compiler.reset()
    compile_layers(model)
    ids = torch.randint(32, (2, 8))
    for _ in range(2):
        ours = model(ids, labels=ids, use_cache=False)
    torch.testing.assert_close(ours.loss, twin(ids, labels=ids, use_cache=False).loss)
    assert len(made) == programs
