"""Gradients reach what is trained and nothing else, also where layers are computed twice."""

import pytest
import torch
from tiny import LOUD, SIZES, fitting, make_loud, tiny, tokens

import headway
from headway import HeadwayError, KVShift, ResidualStream, SelectiveAttention

pytestmark = pytest.mark.filterwarnings("ignore:the logits change at once")
LISTS = ("kv_shift", "everything", "replaced", "token shortcut")


def loud_host(model_type, name):
    return make_loud(headway.attach(tiny(model_type), fitting(model_type, LOUD[name])))


def gradients(model, **options):
    """Of the loss, by name."""
    model.zero_grad()
    ids = tokens(2, 11)
    model(ids, labels=ids, **options).loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def without_gradient(model_type, name, model):
    """Names that the loss cannot depend on."""
    unused = set()
    if name == "replaced":  # self-attention of the last layer is not asked
        stand_in = {"self_attn", "attention", "attn", "self_attention"}
        for parameter, _ in model.named_parameters():
            path = set(parameter.split("."))
            if "2" in path and path & stand_in and "headway" not in path:
                unused.add(parameter)
    if model_type == "gpt_oss":  # experts that no token was sent to, and the bias of all scores
        unused |= {n for n, _ in model.named_parameters() if "router" in n or "experts" in n}
    return unused


@pytest.mark.parametrize("model_type", SIZES)
def test_they_reach_every_parameter(model_type):
    for name in LISTS:
        model = loud_host(model_type, name).train()
        found = gradients(model)
        unused = without_gradient(model_type, name, model)
        for parameter, _ in model.named_parameters():
            if parameter not in unused:
                assert found.get(parameter) is not None, f"{name}: {parameter}"
                assert torch.isfinite(found[parameter]).all(), f"{name}: {parameter}"
            one_source = ".0.headway.attention_read." in parameter or (
                model_type == "gpt_neox" and ".0.headway.mlp_read." in parameter
            )
            if "headway" in parameter and parameter not in unused and not one_source:
                assert found[parameter].abs().max() > 0, f"{name}: {parameter}"


@pytest.mark.parametrize("model_type", SIZES)
def test_a_frozen_base_gets_none(model_type):
    model = tiny(model_type).requires_grad_(False)
    make_loud(headway.attach(model, fitting(model_type, LOUD["everything"]))).train()
    found = gradients(model)
    new = dict(headway.mechanism_parameters(model))
    assert found.keys() == new.keys()
    assert all(p.requires_grad for p in new.values())


@pytest.mark.parametrize("model_type", SIZES)
def test_gradient_checkpointing_changes_nothing(model_type):
    for name in LISTS:
        model = loud_host(model_type, name).train()
        plain = gradients(model)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        again = gradients(model, use_cache=True)
        assert plain.keys() == again.keys()
        for parameter, expected in plain.items():
            torch.testing.assert_close(again[parameter], expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "bloom"])
@pytest.mark.parametrize("name", ["everything", "replaced"])
def test_reentrant_checkpoints_are_refused_where_they_would_lose_gradients(model_type, name):
    model = loud_host(model_type, name).train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(HeadwayError, match="use_reentrant=True would lose"):
        gradients(model)


def test_reentrant_checkpoints_are_fine_inside_a_layer():
    model = make_loud(headway.attach(tiny("llama"), [KVShift(), SelectiveAttention()])).train()
    plain = gradients(model)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    again = gradients(model)
    for parameter, expected in plain.items():
        torch.testing.assert_close(again[parameter], expected, atol=1e-6, rtol=1e-4)


def test_training_keeps_no_cache_unless_asked():
    model = loud_host("llama", "kv_shift").train()
    ids = tokens(2, 11)
    assert model(ids).past_key_values is None
    assert model(ids, use_cache=True).past_key_values.get_seq_length() == 11
    assert model.eval()(ids).past_key_values.get_seq_length() == 11


def test_gradcheck_through_a_host():
    # GPT-2: Llama's norm computes in single precision whatever comes in.
    mechanisms = [KVShift(), ResidualStream(scale="head"), SelectiveAttention(per_head=True)]
    model = headway.attach(tiny("gpt2", num_hidden_layers=2), mechanisms)
    make_loud(model).double().train()
    names, values = zip(*headway.mechanism_parameters(model), strict=True)
    ids = tokens(1, 5)

    def shown(*given):
        swapped = dict(zip(names, given, strict=True))
        return torch.func.functional_call(model, swapped, (ids,)).logits[0, :, :4]

    assert torch.autograd.gradcheck(shown, values, atol=1e-6)
