"""`output_attentions=True` under 'eager' gives one matrix a layer, whatever is attached."""

import pytest
import torch
from tiny import LOUD, SIZES, fitting, make_loud, tiny, tokens

import headway
from headway import AttentionResidual, LayerShortcut, SinkLogit
from headway.mechanisms.layer_shortcut import ShortcutAttention

pytestmark = [
    pytest.mark.filterwarnings("ignore:the logits change at once"),
    pytest.mark.usefixtures("without_gradients"),
]


@pytest.fixture
def without_gradients():
    with torch.no_grad():
        yield


def weights_of(model, ids, **options):
    return model(ids, output_attentions=True, **options).attentions


def eager(model_type, **options):
    return tiny(model_type, attn_implementation="eager", **options)


WITH_LSE = [t for t in SIZES if t != "gpt_oss"]


@pytest.mark.parametrize("model_type", WITH_LSE)
@pytest.mark.parametrize("init", ["identity", "zero"])
def test_beside_a_sink_they_are_those_of_the_keys_alone(model_type, init):
    """The first layer's scores are those of the plain model, so its weights are too."""
    ids = tokens(2, 9)
    expected = weights_of(eager(model_type), ids)
    found = weights_of(headway.attach(eager(model_type), [SinkLogit(init=init)]), ids)
    assert len(found) == len(expected) == 3
    for layer, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        if layer == 0 or init == "identity":
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
        torch.testing.assert_close(ours.sum(-1), torch.ones(2, 4, 9), atol=1e-5, rtol=0)


@pytest.mark.parametrize("model_type", SIZES)
def test_of_a_replaced_layer_they_are_summed_over_depth(model_type):
    ids = tokens(2, 9)
    plain = eager(model_type)
    expected = weights_of(plain, ids)
    found = weights_of(make_loud(headway.attach(plain, [LayerShortcut(width=8)])), ids)
    assert len(found) == 3
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    torch.testing.assert_close(found[2].sum(-1), torch.ones(2, 4, 9), atol=1e-5, rtol=0)
    assert not found[2].triu(1).any()


@pytest.mark.parametrize("model_type", ["llama", "bloom"])
def test_of_a_replaced_layer_they_give_its_output(model_type):
    """With the same values in every tap, what is written is weights times values."""
    model, ids = eager(model_type), tokens(2, 9)
    headway.attach(model, [LayerShortcut(taps=(1, 2), features="none")])
    (shortcut,) = [m for m in model.modules() if isinstance(m, ShortcutAttention)]
    values, written = torch.randn(9), []
    shortcut.v_proj.register_forward_hook(lambda _m, _x, out: values[:, None].expand_as(out))
    shortcut.o_proj.register_forward_pre_hook(lambda _m, inputs: written.extend(inputs))
    found = weights_of(model, ids)[-1]
    by_head = written[0].unflatten(-1, (4, -1))[..., 0].transpose(1, 2)
    torch.testing.assert_close(found @ values, by_head, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "bloom"])
@pytest.mark.parametrize("name", ["sink_logit", "everything", "replaced", "attention_residual"])
def test_generate_gives_those_of_the_forward_pass(model_type, name):
    model = eager(model_type)
    make_loud(headway.attach(model, fitting(model_type, LOUD[name])))
    out = model.generate(
        tokens(2, 9),
        max_new_tokens=4,
        do_sample=False,
        output_attentions=True,
        return_dict_in_generate=True,
    )
    whole = weights_of(model, out.sequences[:, :-1], use_cache=False)
    assert len(whole) == 3
    for step, layers in enumerate(out.attentions):
        assert len(layers) == 3
        seen = 9 + step
        rows = slice(0, 9) if step == 0 else slice(seen - 1, seen)
        for ours, theirs in zip(layers, whole, strict=True):
            torch.testing.assert_close(ours, theirs[:, :, rows, :seen], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type", SIZES)
def test_reading_over_depth_loses_none(model_type):
    model = headway.attach(eager(model_type), [AttentionResidual(total="count")])
    plain = weights_of(eager(model_type), tokens(2, 9))
    found = weights_of(model, tokens(2, 9))
    for ours, theirs in zip(found, plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_under_sdpa_there_are_none():
    model = headway.attach(tiny("llama", attn_implementation="sdpa"), [SinkLogit()])
    assert not weights_of(model, tokens(2, 9))
