"""A host's call outside training, which makes its own cache, is one graph."""

import pytest
import torch
from tiny import make_loud, tiny, tokens

import headway
from headway import KVShift, LayerShortcut

pytestmark = pytest.mark.filterwarnings("ignore:the logits change at once")


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@torch.no_grad()
def test_a_call_with_labels_and_one_that_goes_on():
    """Of a host whose cache has layers of both kinds, with a window and without; in one graph but
    for earlier versions of torch, which break it where the cache is made.
    """
    parts = [KVShift(), LayerShortcut(mode="add", width=16)]  # rows, and a layer of its own
    model, ids = make_loud(headway.attach(tiny("gemma3_text"), parts)), tokens(2, 12)
    compiled = torch.compile(model, fullgraph=torch.__version__ >= "2.13", backend="eager")
    expected = model(ids, labels=ids, use_cache=False)
    torch.testing.assert_close(compiled(ids, labels=ids).loss, expected.loss)
    first = compiled(ids[:, :9])
    assert isinstance(first.past_key_values, headway.HeadwayCache)
    rest = model(ids[:, 9:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(rest, expected.logits[:, 9:], atol=1e-4, rtol=1e-4)
