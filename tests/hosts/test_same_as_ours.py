"""A Llama with mechanisms attached computes what our own decoder does with the same weights."""

import pytest
import torch
from tiny import LOUD, VOCABULARY, make_loud, tiny, tokens

import headway
from headway import HeadwayConfig, HeadwayForCausalLM
from headway.mechanisms.base import Place

pytestmark = pytest.mark.filterwarnings("ignore:the logits change at once")
LAST = "model.layers.2"


def ours(name: str, mechanisms) -> str:
    """The name of a host's tensor in our decoder."""
    replaced = any(m.place == Place.LAYER and m.mode == "replace" for m in mechanisms)
    name = name.replace(".self_attn.headway.mechanisms.", ".self_attn.mechanisms.")
    name = name.replace(".self_attn.headway.shortcut.", ".self_attn." if replaced else ".shortcut.")
    for site in ("final_read", "final_mix"):
        name = name.replace(f"{LAST}.headway.{site}", f"model.{site}")
    return name.replace(".headway.", ".")


@pytest.mark.parametrize("name", LOUD)
@torch.no_grad()
def test_logits(name):
    mechanisms = LOUD[name]
    host = make_loud(headway.attach(tiny("llama"), mechanisms))
    config = HeadwayConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        norm_eps=host.config.rms_norm_eps,
        tie_word_embeddings=False,
        mechanisms=mechanisms,
    )
    decoder = HeadwayForCausalLM(config).eval()
    replaced = any(m.place == Place.LAYER and m.mode == "replace" for m in mechanisms)
    weights = {}
    for key, tensor in host.state_dict().items():
        stands_aside = replaced and f"{LAST}.self_attn." in key and "headway" not in key
        if not stands_aside:
            weights[ours(key, mechanisms)] = tensor
    decoder.load_state_dict(weights)
    ids = tokens(2, 11)
    expected = decoder(ids).logits
    bound = 1e-5 * max(1.0, expected.abs().max().item())
    torch.testing.assert_close(host(ids).logits, expected, atol=bound, rtol=0)


@torch.no_grad()
def test_positions_that_count_the_padding_do_no_harm():
    host = make_loud(headway.attach(tiny("llama"), LOUD["everything"]))
    ids, mask = tokens(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[0, :4] = 0
    expected = host(ids, attention_mask=mask).logits
    columns = torch.arange(9).expand(2, 9)
    found = host(ids, attention_mask=mask, position_ids=columns).logits
    torch.testing.assert_close(found[0, 4:], expected[0, 4:])
    torch.testing.assert_close(found[1], expected[1])
