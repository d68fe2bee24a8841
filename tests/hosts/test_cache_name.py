"""A cache is taken under both of the names that versions of transformers have for it."""

import pytest
import torch
from tiny import LOUD, fitting, make_loud, tiny, tokens

import headway
from headway import HeadwayCache, HeadwayConfig, HeadwayError, HeadwayForCausalLM, KVShift
from headway.decoder.cache_name import CACHE, NEW, OLD, given_cache


def decoder():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return HeadwayForCausalLM(HeadwayConfig(vocab_size=61, mechanisms=[KVShift()], **sizes))


def host():
    return make_loud(headway.attach(tiny("llama"), fitting("llama", LOUD["everything"])))


@pytest.mark.parametrize("name", [OLD, NEW])
@pytest.mark.parametrize("make", [decoder, host])
@torch.no_grad()
def test_both_names_go_on_from_the_same_tokens(make, name):
    model, ids = make().eval(), tokens(2, 9)
    whole = model(ids, use_cache=False).logits
    cache = HeadwayCache(model.config)
    model.model(ids[:, :5], **{name: cache})
    out = model.model(ids[:, 5:], **{name: cache})
    assert getattr(out, CACHE) is cache
    assert cache.get_seq_length() == 9
    torch.testing.assert_close(
        model.lm_head(out.last_hidden_state), whole[:, 5:], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("make", [decoder, host])
def test_one_cache_is_enough(make):
    model = make()
    two = {name: HeadwayCache(model.config) for name in (OLD, NEW)}
    with pytest.raises(HeadwayError, match="cache: not accepted beside past_key_values"):
        model.model(tokens(1, 3), **two)
    same = two[OLD]
    assert given_cache({OLD: same, NEW: same}) is given_cache({NEW: same}) is same
    assert given_cache({}) is None
