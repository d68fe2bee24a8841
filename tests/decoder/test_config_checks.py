"""A configuration takes its own fields with values that have a meaning, and what is saved."""

import json

import pytest
from transformers import AutoConfig

from headway import HeadwayConfig, HeadwayError, KVShift, LayerShortcut

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 61}
NAMES = {
    "mechanism: the field is unknown .did you mean 'mechanisms'": {"mechanism": [KVShift()]},
    "rms_norm_eps: .*did you mean 'norm_eps'.*1.0.*accepted are": {"rms_norm_eps": 1.0},
    "rope_parameters: .*'rope_theta'": {"rope_parameters": {"rope_theta": 5.0}},
    "rope_scaling: .*'rope_theta'": {"rope_scaling": {"factor": 2.0}},
    "sliding_window: the field is unknown, and so 2 would": {"sliding_window": 2},
    "hiden_size: .*did you mean 'hidden_size'": {"hiden_size": 99},
}
VALUES = {
    "norm_eps: -1.0 .*from 0": {"norm_eps": -1.0},
    "norm_eps: 'a' .*finite numbers": {"norm_eps": "a"},
    "norm_eps: nan ": {"norm_eps": float("nan")},
    "norm_eps: True ": {"norm_eps": True},
    "rope_theta: 0 .*above 0": {"rope_theta": 0},
    "rope_theta: -5 .*above 0": {"rope_theta": -5},
    "rope_theta: 'x' ": {"rope_theta": "x"},
    "initializer_range: -1 ": {"initializer_range": -1},
    "attention_multiplier: 'x' .*or none": {"attention_multiplier": "x"},
    "tie_word_embeddings: 'no' .*true and false": {"tie_word_embeddings": "no"},
    "qk_norm: 'yes' .*true and false": {"qk_norm": "yes"},
    "attention_bias: 1 ": {"attention_bias": 1},
    "use_cache: None ": {"use_cache": None},
    "max_position_embeddings: 2.5 is no whole number; accepted": {"max_position_embeddings": 2.5},
    "vocab_size: 3.5 is no whole": {"vocab_size": 3.5},
    "hidden_size: '64' is no whole": {"hidden_size": "64"},
    "head_dim: 0 is too small; accepted are 1": {"head_dim": 0},
    "num_key_value_heads: True is no": {"num_key_value_heads": True},
    "mechanisms: KVShift.* is no list; accepted is a list": {"mechanisms": KVShift()},
    "mechanisms: 'kv_shift' is no list": {"mechanisms": "kv_shift"},
}


@pytest.mark.parametrize("words", NAMES | VALUES)
def test_refused(words):
    with pytest.raises(HeadwayError, match=words) as caught:
        HeadwayConfig(**(SIZES | (NAMES | VALUES)[words]))
    assert "\n" not in str(caught.value)
    assert "base_model_tp_plan" not in str(caught.value)


def test_what_transformers_takes_is_accepted():
    config = HeadwayConfig(
        **SIZES,
        architectures=["HeadwayForCausalLM"],
        attn_implementation="eager",
        bos_token_id=1,
        max_length=5,
        name_or_path="here",
        num_labels=3,
        output_attentions=False,
        torch_dtype="bfloat16",
    )
    assert config._attn_implementation == "eager"
    assert config.num_labels == 3
    assert str(config.dtype) == "torch.bfloat16"


def test_whole_numbers_and_bounds_are_accepted():
    config = HeadwayConfig(
        **SIZES, norm_eps=0, rope_theta=10_000, initializer_range=0, attention_multiplier=1
    )
    assert config.attention_scale == 1


def test_a_saved_configuration_loads_whatever_a_newer_transformers_added(tmp_path):
    made = HeadwayConfig(**SIZES, mechanisms=[KVShift(), LayerShortcut(width=8)])
    made.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    added = {"tie_hidden_sizes": True, "sliding_window": None, "torch_dtype": "float32"}
    file.write_text(json.dumps(json.loads(file.read_text()) | added))
    for loaded in (HeadwayConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert loaded.tie_hidden_sizes is True
        assert loaded.mechanism_list() == made.mechanism_list()
    for copied in (HeadwayConfig.from_dict(made.to_dict()), HeadwayConfig(**made.to_dict())):
        assert copied.to_dict() == made.to_dict()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hidden_size": 64}, "multiples of 6, num_attention_heads of 1, 2, 4, 8, 16, 32, or a"),
        ({"hidden_size": 64, "position": "none"}, "multiples of 3, .* 16, 32, 64, or a head_dim"),
        ({"hidden_size": 65}, "multiples of 6, or a head_dim"),
    ],
)
def test_heads_that_do_not_divide_the_width(fields, words):
    with pytest.raises(HeadwayError, match=f"not divisible by num_attention_heads=3; .*{words}"):
        HeadwayConfig(num_attention_heads=3, **fields)
