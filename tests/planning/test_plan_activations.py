"""What a step keeps is what autograd really saves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from headway import HeadwayConfig, HeadwayForCausalLM
from headway.errors import HeadwayError
from headway.mechanisms import (
    KVShift,
    LayerShortcut,
    OutputGate,
    ResidualStream,
    SelectiveAttention,
    ShortConv,
    SinkLogit,
)
from headway.planning.activations import cache_bytes, kept_compiled, kept_eager, moved
from headway.planning.shapes import shape_named

B, T = 2, 64
SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 48,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": T,
}
FLOAT = 4


def loss_of(model: Any, ids: Tensor) -> Tensor:
    loss: Tensor = model(ids, labels=ids, use_cache=False).loss
    return loss


def saved_bytes(config: HeadwayConfig, compiled: bool) -> int:
    """Of the different memories that autograd saves in a forward pass, parameters apart."""
    model = HeadwayForCausalLM(config).train()
    ids = torch.randint(config.vocab_size, (B, T))
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            held[place] = tensor
        return tensor

    step = torch.compile(loss_of, backend="aot_eager_decomp_partition") if compiled else loss_of
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(model, ids)
    torch.compiler.reset()
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_key_value_heads": 2, "num_hidden_layers": 5},
        {"hidden_act": "gelu", "norm": "layer", "position": "learned", "attention_bias": True},
        {"qk_norm": True, "norm": "none", "head_dim": 20, "num_key_value_heads": 1},
        {"hidden_size": 96, "vocab_size": 1000, "tie_word_embeddings": False},
    ],
    ids=lambda fields: ", ".join(f"{k} {v}" for k, v in fields.items()) or "plain",
)
def test_uncompiled(fields: dict[str, Any]) -> None:
    config = HeadwayConfig(**(SIZES | fields))
    told = kept_eager(config, FLOAT).peak(B * T, config.num_hidden_layers)
    assert told == pytest.approx(saved_bytes(config, compiled=False), rel=0.1)


def test_compiled() -> None:
    """On a CPU logits stand whole."""
    config = HeadwayConfig(**SIZES, num_key_value_heads=2)
    told = kept_compiled(config, FLOAT)
    tokens, layers = B * T, config.num_hidden_layers
    expected = tokens * (layers * told.layer + told.last + FLOAT * 100)
    assert expected == pytest.approx(saved_bytes(config, compiled=True), rel=0.1)


def test_layers_that_are_computed_again_keep_their_input() -> None:
    config = HeadwayConfig(**SIZES)
    whole, again = kept_compiled(config, 2), kept_compiled(config, 2, checkpointing=True)
    assert again.layer == 2 * 48
    assert again.passing == pytest.approx(whole.passing + whole.layer)


def test_what_mechanisms_add() -> None:
    plain = kept_compiled(HeadwayConfig(**SIZES), 2).layer

    def added(*mechanisms: Any) -> float:
        config = HeadwayConfig(**SIZES, mechanisms=list(mechanisms))
        return (kept_compiled(config, 2).layer - plain) / (2 * 48)

    assert added(KVShift()) == 3  # raw queries, keys and values beside those that attention sees
    assert added(KVShift(), SelectiveAttention()) == 3
    assert added(ResidualStream()) == 3  # the next layer reads the raw values where they lie
    assert added(ResidualStream(), KVShift()) == 3
    assert added(SinkLogit()) == 0
    assert added(OutputGate()) == 2  # gates of channels, and what they scale
    assert added(OutputGate(granularity="head")) == pytest.approx(1 + 4 / 48)
    with pytest.raises(HeadwayError, match="layer_shortcut reads other layers"):
        added(LayerShortcut())
    with pytest.raises(HeadwayError, match="uncompiled is not known"):
        kept_eager(HeadwayConfig(**SIZES, mechanisms=[KVShift()]), 4)


@pytest.mark.parametrize(
    "mechanisms", [[], [KVShift(window=2)], [ShortConv(), KVShift(targets=("value",))]], ids=len
)
def test_the_cache_is_as_large_as_the_real_one(mechanisms: list[Any]) -> None:
    from headway.bench.decode import cache_bytes as really
    from headway.decoder import HeadwayCache

    mechanisms = sorted(mechanisms, key=lambda m: m.place)
    config = HeadwayConfig(**SIZES, num_key_value_heads=2, mechanisms=mechanisms)
    model = HeadwayForCausalLM(config).eval()
    cache = HeadwayCache(config, max_cache_len=20)
    with torch.no_grad():
        model(torch.randint(100, (B, 8)), past_key_values=cache)
    assert cache_bytes(config, 20, B, FLOAT) == really(cache)


def test_what_is_moved_is_nine_times_what_layers_keep() -> None:
    config = shape_named("124m")
    assert moved(config, 2, 2) == 9 * 20_528
    assert moved(config, 2, 4) == 9 * (20_528 + 4 * 2 * 768)
    # Norms and residual sums stand whole on each of the devices that share a layer.
    assert moved(config, 2, 2) / 4 < moved(config, 2, 2, tensor_parallel=4) < moved(config, 2, 2)
