"""Without mechanisms the decoder is transformers' Llama, and with QK-norm its Qwen3."""

import pytest
import torch
from small_models import small, tokens
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 50_000.0, "rope_type": "default"},
    "tie_word_embeddings": False,
    "attn_implementation": "sdpa",
}
FAMILIES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}


def pair(family: str, **changes):
    config_class, model_class = FAMILIES[family]
    options = {"rope_theta": 50_000.0, **changes}
    ours = small(
        [],
        intermediate_size=48,
        head_dim=12,
        tie_word_embeddings=False,
        qk_norm=family == "qwen3",
        **options,
    )
    if family == "qwen3":
        with torch.no_grad():
            for layer in ours.model.layers:
                layer.self_attn.q_norm.weight.uniform_(0.5, 2.0)
                layer.self_attn.k_norm.weight.uniform_(0.5, 2.0)
    theirs = model_class(config_class(**SHAPE)).double().eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize("family", FAMILIES)
def test_same_logits_and_loss(family):
    ours, theirs = pair(family)
    ids = tokens(2, 17)
    mine, other = ours(ids, labels=ids), theirs(ids, labels=ids)
    assert mine.logits.std() > 0.5
    torch.testing.assert_close(mine.logits, other.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(mine.loss, other.loss, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_same_logits_with_padding_on_the_left(family):
    ours, theirs = pair(family)
    ids, mask = tokens(2, 11), torch.ones(2, 11, dtype=torch.long)
    mask[0, :4] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    mine = ours(ids, attention_mask=mask).logits
    other = theirs(ids, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(mine[mask == 1], other[mask == 1], atol=1e-5, rtol=0)


def test_another_rope_theta_is_another_model():
    ours, theirs = pair("llama", rope_theta=10_000.0)
    ids = tokens(2, 17)
    assert (ours(ids).logits - theirs(ids).logits).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_same_greedy_text(family):
    ours, theirs = pair(family)
    options = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0}
    ids = tokens(2, 7)
    assert torch.equal(ours.generate(ids, **options), theirs.generate(ids, **options))
