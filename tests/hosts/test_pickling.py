"""Attached models and caches through pickle, whose classes are made while the program runs."""

import copy
import io
import pickle

import pytest
import torch
from tiny import LOUD, SIZES, fitting, make_loud, tiny, tokens
from transformers import StaticCache

import headway
from headway import HeadwayCache

pytestmark = pytest.mark.filterwarnings("ignore:the logits change at once")
IDS = tokens(2, 9)


def torch_saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


@torch.no_grad()
def logits(model, ids=IDS, **options):
    return model(ids, **options).logits


@pytest.mark.parametrize("model_type", SIZES)
def test_a_model(model_type):
    model = make_loud(headway.attach(tiny(model_type), fitting(model_type, LOUD["everything"])))
    again = pickled(model)
    assert type(again) is type(model)
    assert torch.equal(logits(again), logits(model))
    headway.detach(again)
    assert type(again) is type(tiny(model_type))
    assert headway.attached(model)


def test_a_model_by_torch_and_a_loaded_one(tmp_path):
    model = make_loud(headway.attach(tiny("llama"), LOUD["everything"]))
    assert torch.equal(logits(torch_saved(model)), logits(model))
    model.save_pretrained(tmp_path)
    loaded = headway.from_pretrained(tmp_path)
    again = pickled(loaded)
    assert type(again) is type(loaded)
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("way", [pickled, copy.deepcopy])
@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_a_cache(model_type, way):
    model = make_loud(headway.attach(tiny(model_type), LOUD["everything"]))
    static = StaticCache(config=model.config, max_cache_len=12)
    for cache in (HeadwayCache(model.config), HeadwayCache(model.config, max_cache_len=12), static):
        logits(model, IDS[:, :5], past_key_values=cache)
        again = way(cache)
        assert type(again) is type(cache)
        assert [type(layer) for layer in again.layers] == [type(layer) for layer in cache.layers]
        expected = logits(model, IDS[:, 5:], past_key_values=cache)
        assert torch.equal(logits(model, IDS[:, 5:], past_key_values=again), expected)


def test_a_class_derived_from_a_made_one_is_none():
    made = type(headway.attach(tiny("llama"), LOUD["kv_shift"]))
    derived = type("Derived", (made,), {})
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(derived.__new__(derived))
