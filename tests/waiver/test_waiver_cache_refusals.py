"""What the bounded cache does not take, said in one sentence."""

import pytest
import torch
from bounded_models import GROUPED, family, own, tokens
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

import headway.waiver.profile
from headway import HeadwayError, WaiverCache


class Found:
    def __init__(self, *positions):
        self.positions = positions

    def waivers(self):
        return self.positions


def test_a_profile_gives_the_positions():
    cache = WaiverCache(own(), window=6, keep=Found(7, 0))
    assert cache.keep == (0, 7)


def test_auto_asks_the_profile_of_what_is_fed_first(monkeypatch):
    made, ids, asked = own(), tokens(1, 70), []

    def profile(model, input_ids):
        asked.append((model, input_ids))
        return Found(0, 9)

    monkeypatch.setattr(headway.waiver.profile, "profile_sinks", profile)
    cache = WaiverCache(made, window=6, keep="auto")
    assert not asked
    made(ids, past_key_values=cache)
    assert asked[0][0] is made
    assert torch.equal(asked[0][1], ids[:, :64])
    assert cache.layers[0].kept_keys.shape[-2] == 2
    with pytest.raises(HeadwayError, match=r"keep: 'auto' looks .* at least 64 ids"):
        made(ids[:, :63], past_key_values=WaiverCache(made, window=6, keep="auto"))
    mask = torch.ones_like(ids)
    mask[0, 0] = 0
    cache = WaiverCache(made, window=6, keep="auto")
    with pytest.raises(HeadwayError, match=r"keep: 'auto' looks"):
        made(ids, attention_mask=mask, past_key_values=cache)
    monkeypatch.setattr(headway.waiver.profile, "profile_sinks", lambda *_: Found())
    with pytest.warns(UserWarning, match=r"found no waiver in the first 64 tokens"):
        made(ids, past_key_values=WaiverCache(made, window=6, keep="auto"))


@pytest.mark.parametrize("window", [0, 1, -3, True, 2.0, "8", None])
def test_windows(window):
    with pytest.raises(HeadwayError, match=r"window: value is .*; accepted are whole numbers"):
        WaiverCache(own(), window=window)


@pytest.mark.parametrize("keep", [-1, 9, True, 1.0, "first", None, (0, -2), (0.5,), {1: 2}])
def test_keeps(keep):
    with pytest.raises(HeadwayError, match=r"keep: value is .*; accepted are a number of first"):
        WaiverCache(own(), window=8, keep=keep)
    with pytest.raises(HeadwayError, match=r"keep: 3 positions are more than the window of 2"):
        WaiverCache(own(), window=2, keep=(1, 2, 3))


@pytest.mark.parametrize(
    ("model_type", "options", "said"),
    [
        ("gpt2", {}, r"'gpt2' adds its positions .* table of them ends; accepted are rotary"),
        ("opt", {"word_embed_proj_dim": 32, "ffn_dim": 32}, r"'opt' adds its positions"),
        ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2}, r"'mpt' leaves its keys without"),
        ("mamba", {}, r"model: 'mamba' has layers|model: a MambaForCausalLM"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            r"rope_type='dynamic' changes its frequencies",
        ),
        (
            "phi3",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "short_factor": [1.0] * 4,
                    "long_factor": [2.0] * 4,
                    "original_max_position_embeddings": 64,
                }
            },
            r"rope_type='longrope' changes its frequencies",
        ),
        ("mistral", {"sliding_window": 6}, r"sliding_window=6 sees; accepted are up to 2 beside 4"),
    ],
)
def test_models(model_type, options, said):
    made = family(model_type, **options)
    with pytest.raises(HeadwayError, match=said):
        WaiverCache(made, window=8)
    if model_type != "mamba":
        assert not made.get_decoder()._forward_pre_hooks


def test_our_learned_positions_and_no_decoders():
    with pytest.raises(HeadwayError, match=r"'headway' adds its positions"):
        WaiverCache(own(position="learned"))
    config = AutoConfig.for_model("t5", d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(HeadwayError, match=r"model: 't5' is an encoder-decoder"):
        WaiverCache(AutoModelForSeq2SeqLM.from_config(config))
    with pytest.raises(HeadwayError, match=r"model: a Linear is not accepted"):
        WaiverCache(torch.nn.Linear(2, 2))
    config = AutoConfig.for_model(
        "bert",
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=61,
        is_decoder=True,
    )
    with pytest.raises(HeadwayError, match=r"'bert' adds its positions"):
        WaiverCache(AutoModelForCausalLM.from_config(config))


def test_masks():
    made, ids = family("llama", **GROUPED), tokens(2, 6)

    def fed(mask):
        made(ids, attention_mask=mask, past_key_values=WaiverCache(made, window=4))

    right, hole = torch.ones_like(ids), torch.ones_like(ids)
    right[0, -1] = hole[1, 2] = 0
    for mask in (right, hole):
        with pytest.raises(HeadwayError, match=r"attention_mask: zeros on the right or between"):
            fed(mask)
    for mask in (torch.ones(2, 5), torch.ones(2, 1, 6, 6)):
        with pytest.raises(HeadwayError, match=r"attention_mask: \(2, .* is not accepted"):
            fed(mask)
    cache = WaiverCache(made, window=4)
    made(ids, past_key_values=cache)
    later = torch.ones(2, 7)
    later[0, -1] = 0
    with pytest.raises(HeadwayError, match=r"attention_mask: zeros in tokens that follow"):
        made(ids[:, :1], attention_mask=later, past_key_values=cache)


def test_taking_back():
    made, ids = family("llama", **GROUPED), tokens(1, 6)
    cache = WaiverCache(made, window=4)
    made(ids, past_key_values=cache)
    assert not cache.is_croppable
    cache.crop(0)
    with pytest.raises(HeadwayError, match=r"crop: a WaiverCache forgets"):
        cache.crop(-1)
    with pytest.raises(HeadwayError, match=r"assisted decoding cannot use it"):
        made.generate(
            ids,
            past_key_values=WaiverCache(made, window=4),
            assistant_model=family("llama", **GROUPED),
            max_new_tokens=4,
        )


def test_another_model_and_half_a_pass():
    made, other, ids = family("llama", **GROUPED), own(), tokens(1, 6)
    cache = WaiverCache(made, window=4)
    for wrong in (other, family("llama", **GROUPED)):
        with pytest.raises(HeadwayError, match=r"made for another model"):
            wrong(ids, past_key_values=cache)
    alive = WaiverCache(other, window=4)
    with pytest.raises(HeadwayError, match=r"made for another model"):
        other(ids, past_key_values=cache)
    assert alive.get_seq_length() == 0

    def stop(*_):
        raise KeyboardInterrupt

    handle = made.model.layers[1].register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        made(ids, past_key_values=cache)
    handle.remove()
    with pytest.raises(HeadwayError, match=r"left in the middle of a forward pass; call reset"):
        made(ids, past_key_values=cache)
    cache.reset()
    made(ids, past_key_values=cache)
    assert cache.get_seq_length() == 6
