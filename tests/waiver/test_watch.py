"""The model is left exactly as found, and what cannot be observed is said by name."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from headway import KVShift, attach
from headway.decoder.observer import OBSERVED, Observer
from headway.errors import HeadwayError
from headway.waiver.measure import LayerSums
from headway.waiver.profile import profile_sinks
from headway.waiver.watch import watching

SMALL: dict[str, Any] = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2}
IDS = torch.arange(24).view(2, 12)


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=48, num_attention_heads=4))


def state(model: nn.Module) -> tuple[Any, ...]:
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    modes = [m.training for m in model.modules()]
    own = ["forward" in vars(m) for m in model.modules()]
    return hooks, modes, own, model.config._attn_implementation, torch.is_grad_enabled()


@pytest.mark.parametrize("failure", [None, RuntimeError, KeyboardInterrupt])
def test_the_model_is_left_as_found(
    failure: type[BaseException] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llama()
    model.model.layers[1].eval()
    model.set_attn_implementation("eager")
    before, weights = state(model), {k: v.clone() for k, v in model.state_dict().items()}
    if failure is None:
        profile_sinks(model, IDS)
    else:

        def fail(*_: Any) -> None:
            raise failure

        monkeypatch.setattr(LayerSums, "see_hidden", fail)
        with pytest.raises(failure):
            profile_sinks(model, IDS)
    assert state(model) == before
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])


def test_observed_attention_alone_is_refused() -> None:
    model = llama()
    model.config._attn_implementation = OBSERVED
    with pytest.raises(HeadwayError, match="attn_implementation: 'headway_observed' is for"):
        model(IDS)


def test_dropout_is_refused() -> None:
    model = llama()
    model.model.layers[0].self_attn.attention_dropout = 0.1
    with watching(model, Observer()):
        model.train()
        with pytest.raises(HeadwayError, match=r"dropout: 0\.1 cannot be observed"):
            model(IDS)


def test_a_rule_hides_keys_in_every_layer() -> None:
    """A row that sees itself alone, in every layer, is a first token (identity I3)."""
    model = llama().double()
    alone = model(IDS[:1, 7:8]).logits[0, 0]

    def rule(query: Tensor, key: Tensor) -> Tensor:
        return (query != 7) | (key == 7)

    with watching(model, Observer(rule=rule)):
        isolated = model(IDS[:1]).logits[0, 7]
        # With a cache the columns count on.
        cache = model(IDS[:1, :5], use_cache=True).past_key_values
        continued = model(IDS[:1, 5:], past_key_values=cache).logits[0, 2]
    torch.testing.assert_close(isolated, alone, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(continued, alone, rtol=1e-10, atol=1e-12)


def test_mechanisms_keep_to_the_positions_in_the_text() -> None:
    """Edited position ids are for the encoding: KV shift would see other documents in them."""
    model = attach(llama(), [KVShift(init="identity")])
    swapped = torch.arange(12)[None]
    swapped[0, [0, 5]] = swapped[0, [5, 0]]
    inputs = {
        "input_ids": IDS[:1],
        "attention_mask": torch.ones_like(IDS[:1]),
        "position_ids": swapped,
        "past_key_values": None,
    }
    assert model.model.start_pass(inputs).positions[0, 5] == 0
    with watching(model, Observer()):
        assert torch.equal(model.model.start_pass(inputs).positions, torch.arange(12)[None])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            T5ForConditionalGeneration(
                T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
            ),
            "T5ForConditionalGeneration .t5. is an encoder-decoder",
        ),
        (
            FalconForCausalLM(FalconConfig(**SMALL, num_attention_heads=4)),
            "FalconForCausalLM .falcon. computes attention by code of its own",
        ),
        (MambaForCausalLM(MambaConfig(**SMALL)), "MambaModel .mamba."),
        (nn.Linear(3, 3), "a Linear is not accepted"),
    ],
    ids=["encoder-decoder", "own code", "no attention", "no model"],
)
def test_what_cannot_be_observed_is_said_by_name(model: nn.Module, words: str) -> None:
    with pytest.raises(HeadwayError, match=words):
        profile_sinks(model, IDS)
