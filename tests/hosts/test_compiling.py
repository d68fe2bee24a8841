"""One graph under torch.compile: whole sequences, training, and a decoding step."""

import pytest
import torch
from tiny import LOUD, SIZES, fitting, make_loud, tiny, tokens
from torch._dynamo.testing import CompileCounterWithBackend

import headway

pytestmark = pytest.mark.filterwarnings("ignore:the logits change at once")


def loud_host(model_type, name, **options):
    host = tiny(model_type, **options)
    return make_loud(headway.attach(host, fitting(model_type, LOUD[name])))


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("model_type", SIZES)
@torch.no_grad()
def test_whole_sequences(model_type):
    # A first layer and a last one, where the kinds of layers are not listed: tracing takes long.
    layers = 3 if "layer_types" in SIZES[model_type] else 2
    model, ids = loud_host(model_type, "everything", num_hidden_layers=layers), tokens(2, 9)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    expected = model(ids, use_cache=False).logits
    torch.testing.assert_close(compiled(ids, use_cache=False).logits, expected)


@pytest.mark.parametrize(
    ("model_type", "name"),
    [(kind, "attention composed") for kind in ("llama", "gemma3_text", "phi3")]
    + [("llama", "replaced")],
)
def test_training(model_type, name):
    model, ids = loud_host(model_type, name).train(), tokens(2, 9)
    grads = []
    for called in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        called(ids, labels=ids).loss.backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "gpt2"])
@torch.no_grad()
def test_a_decoding_step_is_compiled_once(model_type):
    model, ids = loud_host(model_type, "attention composed"), tokens(2, 12)
    whole = model(ids, use_cache=False).logits
    counter = CompileCounterWithBackend("eager")
    step = torch.compile(model, fullgraph=True, backend=counter)
    cache = headway.HeadwayCache(model.config, max_cache_len=16)
    model(ids[:, :8], past_key_values=cache)
    found = []
    for i in range(8, 12):
        place = torch.full((2, 1), i)
        found.append(step(ids[:, i : i + 1], past_key_values=cache, position_ids=place).logits)
    torch.testing.assert_close(torch.cat(found, dim=1), whole[:, 8:], atol=1e-4, rtol=1e-4)
    # A sliding layer counts in Python: transformers' own decoding step is compiled again as well.
    assert counter.frame_count == 1 or model_type == "mistral"
