"""Parameters counted from sizes are those of the models themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen3Config

from headway import HeadwayConfig, HeadwayForCausalLM
from headway.errors import HeadwayError
from headway.mechanisms import (
    AttentionResidual,
    KVShift,
    LayerShortcut,
    OutputGate,
    ResidualStream,
    ScalarMix,
    SelectiveAttention,
    ShortConv,
    SinkLogit,
)
from headway.planning.counts import count_parameters, flops_a_token
from headway.planning.shapes import SHAPES, shape_named

SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LISTS = [
    [],
    [KVShift(), SelectiveAttention()],
    [ResidualStream(), KVShift(targets=("key",), window=2), SelectiveAttention(token="mlp")],
    [ShortConv(), SinkLogit(), OutputGate()],
    [AttentionResidual()],
    [KVShift(), LayerShortcut(taps=(1, 2), width=20)],
    [LayerShortcut(mode="add", features="none", reach="token"), ScalarMix()],
]


def really(config: HeadwayConfig) -> int:
    with torch.device("meta"):
        return int(HeadwayForCausalLM(config).num_parameters())


@pytest.mark.parametrize("mechanisms", LISTS, ids=lambda m: "+".join(x.name for x in m) or "plain")
def test_mechanisms_are_counted(mechanisms: list[Any]) -> None:
    config = HeadwayConfig(**SIZES, mechanisms=mechanisms)
    assert count_parameters(config).total == really(config)


@settings(max_examples=40)
@given(
    st.fixed_dictionaries(
        {
            "position": st.sampled_from(["rope", "learned", "alibi", "none"]),
            "norm": st.sampled_from(["rms", "layer", "none"]),
            "hidden_act": st.sampled_from(["silu", "gelu"]),
            "qk_norm": st.booleans(),
            "attention_bias": st.booleans(),
            "tie_word_embeddings": st.booleans(),
            "num_hidden_layers": st.integers(1, 4),
            "head_dim": st.sampled_from([None, 6, 32]),
            "mechanisms": st.sampled_from([LISTS[0], LISTS[2], LISTS[3]]),
        }
    )
)
def test_every_choice_is_counted(fields: dict[str, Any]) -> None:
    config = HeadwayConfig(**(SIZES | fields))
    assert count_parameters(config).total == really(config)
    assert len(count_parameters(config).layers) == config.num_hidden_layers


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("1b", 1.236),
        ("3b", 3.213),
        ("8b", 8.030),
        ("13b", 13.016),
        ("34b", 33.744),
        ("70b", 70.554),
    ],
)
def test_published_sizes(name: str, billions: float) -> None:
    config = shape_named(name)
    assert count_parameters(config).total == pytest.approx(billions * 1e9, rel=5e-4)
    if name in ("1b", "70b"):
        assert count_parameters(config).total == really(config)


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, intermediate_size=40,
                    num_attention_heads=4, num_key_value_heads=2, attention_bias=True),
        MistralConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, intermediate_size=40,
                      num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True),
        Qwen3Config(vocab_size=50, hidden_size=32, num_hidden_layers=2, intermediate_size=40,
                    num_attention_heads=4, num_key_value_heads=2, head_dim=16),
    ],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_folders_of_other_models(config: Any, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(config)
    assert count_parameters(shape_named(str(tmp_path))).total == theirs.num_parameters()


def test_our_own_folder_brings_its_mechanisms(tmp_path: Path) -> None:
    config = HeadwayConfig(**SIZES, mechanisms=[KVShift(), OutputGate()])
    config.save_pretrained(tmp_path)
    assert shape_named(str(tmp_path)).mechanism_list() == config.mechanism_list()
    other = shape_named(str(tmp_path / "config.json"), [SinkLogit()])
    assert other.mechanism_list() == [SinkLogit()]


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadwayError, match=r"shapes: '7b' is unknown.*or a folder"):
        shape_named("7b")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(HeadwayError, match="cannot be read"):
        shape_named(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(HeadwayError, match="of the type 'gpt2'; accepted are headway, llama"):
        shape_named(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama", "mlp_bias": true}')
    with pytest.raises(HeadwayError, match="biases in its feed-forward"):
        shape_named(str(tmp_path))


def test_operations_are_those_of_the_bench() -> None:
    from headway.bench.flops import flops_a_token as counted

    for name in ("124m", "8b"):
        config = shape_named(name)
        with torch.device("meta"):
            model = HeadwayForCausalLM(config)
        operations = flops_a_token(config, 512, count_parameters(config))
        assert sum(operations) == counted(model, 512, causal=True)
        assert operations.attention == sum(operations) - counted(model, 0)
    assert set(SHAPES) >= {"1b", "70b"}
