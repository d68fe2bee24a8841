"""Where torch.compile pads strides wrong, all of our models have it pad none."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch._inductor import config
from transformers import LlamaConfig, LlamaForCausalLM

import headway
from headway.decoder import HeadwayConfig, HeadwayForCausalLM
from headway.decoder.toy import ToyTransformer
from headway.mechanisms import KVShift
from headway.ops import padding

SIZES = {"vocab_size": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def a_host() -> nn.Module:
    model = LlamaForCausalLM(LlamaConfig(**SIZES, intermediate_size=16))
    headway.attach(model, [KVShift(init="identity")])
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "decoder": lambda: HeadwayForCausalLM(HeadwayConfig(**SIZES)),
    "toy": lambda: ToyTransformer(HeadwayConfig(**SIZES, position="none", norm="none")),
    "host": a_host,
}


@pytest.fixture(autouse=True)
def padded() -> Iterator[None]:
    torch.compiler.reset()
    with config.patch(comprehensive_padding=True):
        yield


@pytest.mark.parametrize("wrong", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_compiled(name: str, wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padding, "PADS_WRONG", wrong)
    torch.compile(MODELS[name](), backend="eager")(torch.ones(1, 3, dtype=torch.long))
    assert config.comprehensive_padding is not wrong


@pytest.mark.parametrize("name", MODELS)
def test_not_compiled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padding, "PADS_WRONG", True)
    MODELS[name]()(torch.ones(1, 3, dtype=torch.long))
    assert config.comprehensive_padding is True
