"""`torch.compile` takes the decoder as one graph, in training and in static decoding."""

import copy

import pytest
import torch
from small_models import COMPOSED, PLAIN, small, tokens
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import DynamicCache

from headway import (
    AttentionResidual,
    HeadwayCache,
    KVShift,
    LayerShortcut,
    OutputGate,
    ResidualStream,
    ScalableSoftmax,
    ShortConv,
    SinkLogit,
    SmearedKey,
)

RECIPES = {
    "plain": PLAIN,
    "composed": COMPOSED,
    "convolution and depth": [
        ResidualStream(),
        ShortConv(),
        ScalableSoftmax(),
        OutputGate(),
        AttentionResidual(),
    ],
    "smeared key, sink and replaced layer": [SmearedKey(), SinkLogit(), LayerShortcut(width=16)],
}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_trains_alike(model, backend):
    """One graph, and the loss and gradients of the uncompiled model."""
    plain, ids = copy.deepcopy(model), tokens(2, 17)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    loss, expected = compiled(ids, labels=ids).loss, plain(ids, labels=ids).loss
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for (name, mine), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None, name
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_is_one_graph(recipe):
    counter = CompileCounterWithBackend("aot_eager")
    model = small(RECIPES[recipe], num_hidden_layers=2).float().train()
    assert_trains_alike(model, counter)
    assert counter.frame_count == 1


@torch.no_grad()
def test_the_default_compiler_gives_the_same_loss():
    model = small([KVShift()], num_hidden_layers=1, hidden_act="gelu").float().train()
    ids = tokens(2, 17)
    expected = model(ids, labels=ids).loss
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(ids, labels=ids).loss, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
@torch.no_grad()
def test_static_decoding_is_one_graph(recipe):
    model = small(RECIPES[recipe], num_hidden_layers=2).float()
    ids = tokens(2, 17)
    expected = model(ids, use_cache=False).logits
    counter = CompileCounterWithBackend("aot_eager")
    step = torch.compile(model, fullgraph=True, backend=counter)
    cache = HeadwayCache(model.config, 20)
    logits = [model(ids[:, :9], past_key_values=cache).logits]
    logits += [step(ids[:, i : i + 1], past_key_values=cache).logits for i in range(9, 17)]
    torch.testing.assert_close(torch.cat(logits, dim=1), expected, rtol=1e-4, atol=5e-5)
    assert counter.frame_count == 1, "a decoding step was compiled again"


@pytest.mark.parametrize("recipe", ["composed", "convolution and depth"])
@torch.no_grad()
def test_a_call_outside_training_is_one_graph_that_makes_its_cache(recipe):
    """Earlier versions of torch break the graph where the cache is made."""
    model, ids = small(RECIPES[recipe], num_hidden_layers=2).float(), tokens(2, 12)
    compiled = torch.compile(model, fullgraph=torch.__version__ >= "2.13", backend="eager")
    expected = model(ids, labels=ids, use_cache=False)
    torch.testing.assert_close(compiled(ids, labels=ids).loss, expected.loss)
    first = compiled(ids[:, :9])
    torch.testing.assert_close(first.logits, expected.logits[:, :9], rtol=1e-4, atol=5e-5)
    cache = first.past_key_values
    assert isinstance(cache, HeadwayCache)
    assert isinstance(cache, DynamicCache)
    assert len(cache.layers) == len(HeadwayCache(model.config).layers)
    rest = model(ids[:, 9:], past_key_values=cache).logits
    torch.testing.assert_close(rest, expected.logits[:, 9:], rtol=1e-4, atol=5e-5)


@torch.no_grad()
def test_compiled_decoding_of_a_padded_batch():
    model = small(COMPOSED, num_hidden_layers=2).float()
    ids = tokens(2, 12)
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, :4] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    step = torch.compile(model, fullgraph=True, backend="aot_eager")
    cache = HeadwayCache(model.config, 12)
    model(ids[:, :9], attention_mask=mask[:, :9], past_key_values=cache)
    for i in range(9, 12):
        now = {"position_ids": positions[:, i : i + 1], "past_key_values": cache}
        last = step(ids[:, i : i + 1], **now).logits
    alone = model(ids[:1, 4:], use_cache=False).logits[:, -1:]
    torch.testing.assert_close(last[:1], alone, rtol=1e-4, atol=5e-5)
    whole = model(ids[1:], use_cache=False).logits[:, -1:]
    torch.testing.assert_close(last[1:], whole, rtol=1e-4, atol=5e-5)
