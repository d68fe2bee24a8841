"""Projections as one product equal the projections, and are merged only where nobody would see."""

import pytest
import torch
from torch import nn

from headway import HeadwayConfig, HeadwayForCausalLM, KVShift
from headway.decoder import attention, block
from headway.decoder.projection import in_one_piece, mergeable, merged
from headway.ops.swiglu import gated_linear


def layers(bias=False, widths=(4, 6)):
    torch.manual_seed(0)
    return [nn.Linear(5, width, bias=bias) for width in widths]


@pytest.mark.parametrize("bias", [False, True])
def test_one_product_is_all_of_them(bias):
    linears, x = layers(bias), torch.randn(2, 3, 5)
    expected = torch.cat([linear(x) for linear in linears], dim=-1)
    torch.testing.assert_close(merged(linears, x), expected)
    parameters = [p for linear in linears for p in linear.parameters()]
    ours = torch.autograd.grad(merged(linears, x).sin().sum(), parameters)
    for a, b in zip(ours, torch.autograd.grad(expected.sin().sum(), parameters), strict=True):
        torch.testing.assert_close(a, b)


def test_only_the_matrices_are_kept():
    linears, x = layers(True), torch.randn(2, 3, 5, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        merged(linears, x)
    pointers = {p.data_ptr() for p in (x, *(linear.weight for linear in linears))}
    assert {tensor.data_ptr() for tensor in kept} == pointers


@pytest.mark.parametrize("frozen", ["weight", "bias", "x", "all weights"])
def test_gradients_of_what_learns(frozen):
    linears, x = layers(True), torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    linears = [linear.double() for linear in linears]
    if frozen == "x":
        x.requires_grad_(False)
    elif frozen == "all weights":
        for linear in linears:
            linear.weight.requires_grad_(False)
    else:
        getattr(linears[1], frozen).requires_grad_(False)
    learns = [p for p in (x, *linears[0].parameters(), *linears[1].parameters()) if p.requires_grad]
    assert torch.autograd.gradcheck(lambda *_: merged(linears, x), learns)


def test_autocast_as_in_one_layer():
    linears, x = layers(), torch.randn(2, 3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = merged(linears, x)
        expected = torch.cat([linear(x) for linear in linears], dim=-1)
    assert torch.equal(found, expected)
    weights = [linear.weight for linear in linears]
    pairs = zip(*(torch.autograd.grad(y.sum(), weights) for y in (found, expected)), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)


class Adapted(nn.Linear):
    """Stands for an adapter's layer."""


def hooked():
    found = layers()
    found[1].register_forward_hook(lambda module, given, out: 2 * out)
    return found


def replaced():
    found = layers()
    found[0].forward = lambda x: x
    return found


@pytest.mark.parametrize(
    "linears",
    [hooked(), replaced(), [*layers(), Adapted(5, 2, bias=False)], [*layers(), *layers(True)]],
    ids=["hook", "forward", "adapter", "biases"],
)
def test_what_is_left_apart(linears):
    assert not mergeable(linears)


def test_only_training_on_a_gpu_merges():
    assert mergeable(layers())
    assert in_one_piece(layers(), torch.randn(1, 5)) is None


@pytest.mark.parametrize("options", [{}, {"attention_bias": True, "num_key_value_heads": 2}])
@pytest.mark.parametrize("mechanisms", [[], [KVShift()]])
def test_a_model_with_merged_projections_is_the_same(mechanisms, options, monkeypatch):
    torch.manual_seed(0)
    config = HeadwayConfig(
        vocab_size=30, hidden_size=16, num_attention_heads=4, mechanisms=mechanisms, **options
    )
    model, ids = HeadwayForCausalLM(config), torch.randint(30, (2, 6))
    expected = model(ids, labels=ids).loss
    for module in (attention, block):
        monkeypatch.setattr(module, "in_one_piece", merged)
    found = model(ids, labels=ids).loss
    torch.testing.assert_close(found, expected)
    parameters = list(model.parameters())
    pairs = zip(*(torch.autograd.grad(x, parameters) for x in (found, expected)), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_values_alone_do_not_keep_all_three(monkeypatch):
    """What the backward keeps of a projection are rotated copies and the values' own memory."""
    torch.manual_seed(0)
    config = HeadwayConfig(vocab_size=30, hidden_size=16, num_attention_heads=4)
    model, ids = HeadwayForCausalLM(config), torch.randint(30, (2, 6))
    monkeypatch.setattr(attention, "in_one_piece", merged)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        model(ids, labels=ids)
    heads = [x for x in kept if x.dim() == 4 and x.shape[-1] == config.head_dim]
    assert heads
    whole = 3 * ids.numel() * config.hidden_size * 4
    assert all(x.untyped_storage().nbytes() < whole for x in heads)


@pytest.mark.parametrize("compiled", [False, True])
def test_in_the_feed_forward(compiled, monkeypatch):
    pytest.importorskip("triton")
    layer = block.FeedForward(HeadwayConfig(hidden_size=16, num_attention_heads=4)).double()
    x = torch.randn(2, 5, layer.down_proj.out_features, dtype=torch.float64)
    expected = layer(x)
    wanted = torch.autograd.grad(expected.sin().sum(), list(layer.parameters()))
    monkeypatch.setattr(block, "in_one_piece", merged)
    layer.choice = "triton"
    called = []
    monkeypatch.setattr(
        block, "gated_linear", lambda *args: called.append(1) or gated_linear(*args)
    )
    function = torch.compile(layer, fullgraph=True, backend="aot_eager") if compiled else layer
    found = function(x)
    assert called
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found.sin().sum(), list(layer.parameters()))
    torch.testing.assert_close(gradients, wanted)


def test_an_adapter_around_the_last_product_is_heard(monkeypatch):
    pytest.importorskip("triton")
    layer = block.FeedForward(HeadwayConfig(hidden_size=16, num_attention_heads=4))
    x = torch.randn(2, 5, layer.down_proj.out_features)
    monkeypatch.setattr(block, "in_one_piece", merged)
    layer.choice = "triton"
    layer.down_proj.register_forward_hook(lambda module, args, out: 0 * out)
    assert not layer(x).any()
