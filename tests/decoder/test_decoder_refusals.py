"""What the decoder does not accept, it refuses in one sentence that names the field."""

import pytest
import torch
from small_models import PLAIN, small, tokens
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import LinearAttentionLayer

from headway import (
    HeadwayCache,
    HeadwayConfig,
    HeadwayError,
    KVShift,
    LayerShortcut,
    OutputGate,
    SelectiveAttention,
    SinkLogit,
)


@pytest.fixture(scope="module")
def model():
    return small(PLAIN)


def refused(words, call):
    with pytest.raises(HeadwayError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def filled(kind, model):
    cache = kind()
    for layer in range(model.config.num_hidden_layers):
        cache.update(torch.zeros(2, 2, 3, 4), torch.zeros(2, 2, 3, 4), layer)
    return cache


def test_foreign_caches(model):
    ids = tokens(2, 9)
    cache = filled(DynamicCache, model)
    refused(
        "past_key_values: a DynamicCache that was filled", lambda: model(ids, past_key_values=cache)
    )
    refused("past_key_values: a list", lambda: model(ids, past_key_values=[]))
    linear = DynamicCache()
    linear.layers.append(LinearAttentionLayer())
    words = "a cache with a LinearAttentionLayer"
    refused(words, lambda: model(ids, past_key_values=linear))


def test_an_empty_cache_of_transformers_is_taken_in(model):
    ids = tokens(2, 9)
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        for cache in (DynamicCache(), StaticCache(config=model.config, max_cache_len=30)):
            kind = type(cache)
            model(ids[:, :5], past_key_values=cache)
            assert isinstance(cache, HeadwayCache)
            assert isinstance(cache, kind)
            rest = model(ids[:, 5:], past_key_values=cache).logits
            torch.testing.assert_close(rest, whole[:, 5:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["quantized", "hybrid"])
def test_other_cache_implementations(model, kind):
    ids = tokens(2, 9)
    # transformers itself drops 'hybrid' for the default of models without windows
    if kind == "hybrid":
        expected = model.generate(ids, max_new_tokens=3, use_cache=False, do_sample=False)
        options = {"max_new_tokens": 3, "do_sample": False}
        assert torch.equal(model.generate(ids, cache_implementation=kind, **options), expected)
    else:
        refused(
            f"cache_implementation: '{kind}'.*dynamic, static",
            lambda: model.generate(ids, cache_implementation=kind, max_new_tokens=2),
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="offloading works where there is a GPU")
def test_offloading_without_a_gpu(model):
    refused(
        "cache_implementation: 'offloaded'.*no GPU",
        lambda: model.generate(tokens(2, 9), cache_implementation="offloaded", max_new_tokens=2),
    )


def test_a_cache_beside_a_cache_implementation(model):
    cache = HeadwayCache(model.config)
    with pytest.raises(ValueError, match="cache_implementation"):
        model.generate(
            tokens(2, 9), past_key_values=cache, cache_implementation="static", max_new_tokens=2
        )


def test_more_tokens_than_a_static_cache_holds(model):
    cache = HeadwayCache(model.config, 10)
    refused("max_cache_len: 10.*11", lambda: model(tokens(2, 11), past_key_values=cache))
    model(tokens(2, 10), past_key_values=cache)
    refused("max_cache_len: 10.*11", lambda: model(tokens(2, 1), past_key_values=cache))


def test_cropping_a_static_cache(model):
    cache = HeadwayCache(model.config, 12)
    model(tokens(2, 9), past_key_values=cache)
    refused("crop: 2 tokens.*static", lambda: cache.crop(-2))


def test_cropping_to_a_length(model):
    cache = HeadwayCache(model.config)
    cache.activate_past_recording()
    model(tokens(2, 9), past_key_values=cache)
    refused("crop: 2 is not accepted; accepted is -n", lambda: cache.crop(2))
    cache.crop(-2)
    assert cache.get_seq_length() == 7


def test_attention_weights(model):
    ids = tokens(2, 9)
    refused("output_attentions", lambda: model(ids, output_attentions=True))
    refused(
        "output_attentions",
        lambda: model.generate(
            ids, output_attentions=True, return_dict_in_generate=True, max_new_tokens=2
        ),
    )


MASKS = {
    "four dimensions": (torch.ones(2, 1, 9, 9), "attention_mask: 4 dimensions"),
    "a hole": (torch.tensor([[1] * 9, [1, 1, 0, 1, 1, 1, 1, 1, 1]]), "zeros between its ones"),
    "too short": (torch.ones(2, 5), "attention_mask: 5 columns.*9"),
    "too long": (torch.ones(2, 12), "attention_mask: 12 columns.*9"),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(model, name):
    mask, words = MASKS[name]
    refused(words, lambda: model(tokens(2, 9), attention_mask=mask))


def test_a_mask_that_leaves_the_cached_tokens_out(model):
    cache, ids = HeadwayCache(model.config), tokens(2, 10)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    model(ids[:, :9], attention_mask=mask, past_key_values=cache)
    refused(
        "attention_mask: 1 columns.*10",
        lambda: model(ids[:, 9:], attention_mask=torch.ones(2, 1), past_key_values=cache),
    )


def test_padding_on_either_side_is_accepted(model):
    ids = tokens(2, 9)
    for side in (slice(0, 3), slice(6, 9)):
        mask = torch.ones(2, 9, dtype=torch.long)
        mask[0, side] = 0
        alone = model(ids[:1, mask[0] == 1]).logits
        padded = model(ids, attention_mask=mask).logits[:1, mask[0] == 1]
        torch.testing.assert_close(padded, alone)


def test_ids_and_embeddings(model):
    ids = tokens(2, 9)
    embeddings = model.model.embed_tokens(ids)
    refused("exactly one of input_ids", lambda: model(ids, inputs_embeds=embeddings))
    refused("exactly one of input_ids", lambda: model())
    assert torch.equal(model(inputs_embeds=embeddings).logits, model(ids).logits)


def test_learned_positions_beyond_the_maximum():
    model = small(PLAIN, position="learned", max_position_embeddings=12)
    model(tokens(2, 12))
    words = "13 tokens.*max_position_embeddings=12"
    refused(words, lambda: model(tokens(2, 13)))
    refused(words, lambda: model(tokens(1, 2), position_ids=torch.tensor([[11, 12]])))
    refused(words, lambda: model.generate(tokens(2, 12), max_new_tokens=2))
    packed = torch.cat([torch.arange(10), torch.arange(9)])[None]
    ids = tokens(1, 19)
    logits = model(ids, position_ids=packed).logits
    torch.testing.assert_close(logits[:, 10:], model(ids[:, 10:]).logits)


def test_unknown_backend():
    model = small(PLAIN)
    model.config._attn_implementation = "paged"
    refused("attn_implementation: 'paged'.*sdpa", lambda: model(tokens(2, 9)))


CONFIGS = {
    "hidden_size: 30.*num_attention_heads=4": {"hidden_size": 30},
    "num_key_value_heads: 3.*num_attention_heads=4": {"num_key_value_heads": 3},
    "head_dim: 7 is odd.*even": {"head_dim": 7},
    "position: 'rpoe' is unknown.*did you mean 'rope'": {"position": "rpoe"},
    "norm: 'rmsnorm' is unknown": {"norm": "rmsnorm"},
    "hidden_act: 'relu' is unknown.*silu": {"hidden_act": "relu"},
    "vocab_size: 0": {"vocab_size": 0},
    "num_hidden_layers: 0": {"num_hidden_layers": 0},
    "'sink_logit' stands before 'kv_shift'.*swap": {"mechanisms": [SinkLogit(), KVShift()]},
    "'output_gate' stands before 'selective_attention'": {
        "mechanisms": [OutputGate(), SelectiveAttention()]
    },
    "written twice": {"mechanisms": [KVShift(), KVShift()]},
    "mechanism: 'kv_shfit' is unknown.*'kv_shift'": {"mechanisms": [{"name": "kv_shfit"}]},
    "kv_shift.windw: unknown option.*'window'": {"mechanisms": [{"name": "kv_shift", "windw": 1}]},
    "layer_shortcut.taps: 9.*4 layers": {"mechanisms": [LayerShortcut(taps=(9,))]},
}


@pytest.mark.parametrize("words", CONFIGS)
def test_configurations(words):
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 4}
    refused(words, lambda: HeadwayConfig(**(sizes | CONFIGS[words])))


def test_an_odd_head_width_without_rotation():
    model = small(PLAIN, head_dim=7, position="alibi")
    assert model(tokens(2, 9)).logits.isfinite().all()
