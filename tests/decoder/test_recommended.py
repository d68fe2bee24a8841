"""The recommended configuration: its mechanisms, its sizes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from headway import HeadwayConfig, HeadwayError, HeadwayForCausalLM
from headway.mechanisms.recommended import RECOMMENDED, RECOMMENDED_FIELDS

SIZES = {"vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 3}


def test_sizes_are_as_given_and_mechanisms_as_recommended() -> None:
    config = HeadwayConfig.recommended(**SIZES, num_attention_heads=4, num_key_value_heads=2)
    assert type(config) is HeadwayConfig
    assert config.mechanism_list() == list(RECOMMENDED) != []
    plain = HeadwayConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2).to_dict()
    other = {name for name, value in config.to_dict().items() if plain[name] != value}
    assert other == {"mechanisms", *RECOMMENDED_FIELDS}


@pytest.mark.parametrize("layers", [1, 3])
def test_a_recommended_model_trains_generates_and_is_saved(layers: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = SIZES | {"num_hidden_layers": layers}
    model = HeadwayForCausalLM(HeadwayConfig.recommended(**sizes))
    ids = torch.randint(40, (2, 9))
    model(ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    greedy = {"max_new_tokens": 4, "do_sample": False}
    told = model.eval().generate(ids, **greedy)
    assert torch.equal(told, model.generate(ids, use_cache=False, **greedy))
    model.save_pretrained(tmp_path / "model")
    read = HeadwayForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert read.config.mechanism_list() == list(RECOMMENDED)
    with torch.no_grad():
        torch.testing.assert_close(read(ids).logits, model(ids).logits)


@pytest.mark.parametrize("field", ["mechanisms", *RECOMMENDED_FIELDS])
def test_what_is_recommended_cannot_be_given(field: str) -> None:
    with pytest.raises(HeadwayError, match=rf"{field}: .* accepted are other fields, or Head"):
        HeadwayConfig.recommended(**{field: None})


def test_a_wrong_size_is_refused_as_ever() -> None:
    with pytest.raises(HeadwayError, match="hidden_size: 25 is not divisible"):
        HeadwayConfig.recommended(hidden_size=25)
