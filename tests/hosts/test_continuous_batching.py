"""Continuous batching is refused: its pages have no room for what mechanisms carry."""

import pytest
import torch
from tiny import tiny, tokens
from transformers import GenerationConfig, GenerationMixin

import headway
from headway import HeadwayConfig, HeadwayError, HeadwayForCausalLM, KVShift

ENTRIES = (
    "generate_batch",
    "init_continuous_batching",
    "continuous_batching_context_manager",
)


def host():
    return headway.attach(tiny("llama"), [KVShift(init="identity")])


def ours():
    sizes = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return HeadwayForCausalLM(HeadwayConfig(**sizes, mechanisms=[KVShift()])).eval()


def refused(words, call, *args, **options):
    with pytest.raises(HeadwayError, match=words) as caught:
        call(*args, **options)
    assert "accepted is generate" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [host, ours])
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry(entry, make):
    options = GenerationConfig(max_new_tokens=2, do_sample=False, eos_token_id=-1)
    prompts = ([[5, 6, 7]],) if entry == "generate_batch" else ()
    refused(f"^{entry}: ", getattr(make(), entry), *prompts, generation_config=options)


def test_no_entry_is_forgotten():
    """A new one in transformers has to be looked at; what takes a manager down does no harm."""
    known = {*ENTRIES, "destroy_cached_continuous_batching_manager"}
    there = {
        name
        for kind in GenerationMixin.__mro__
        for name in vars(kind)
        if "continuous_batching" in name or "generate_batch" in name
    }
    assert there <= known


@pytest.mark.parametrize("make", [host, ours])
def test_through_generate(make):
    options = {"cache_implementation": "paged", "max_new_tokens": 2}
    refused("^generate_batch: ", make().generate, input_ids=tokens(1, 4) % 20, **options)


def test_a_detached_model_has_them_again():
    model = headway.detach(host())
    assert model.generate_batch.__func__ is GenerationMixin.generate_batch


@pytest.mark.parametrize("make", [host, ours])
def test_a_forward_pass_with_pages(make):
    model, ids = make(), tokens(1, 4) % 20
    refused("^cache: ", model, ids, cache=object())
    model.config._attn_implementation_internal = "paged|eager"
    with torch.no_grad():
        refused(r"^attn_implementation: 'paged\|eager'", model, ids)
