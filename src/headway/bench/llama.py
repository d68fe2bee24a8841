"""The model that benchmarks measure: a Llama with random weights, and memory between arms."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of the model and of the work."""

    hidden_size: int = 2048
    intermediate_size: int = 8192
    num_hidden_layers: int = 16
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    vocab_size: int = 128_256
    batch: int = 4
    length: int = 2048
    prompt: int = 512
    new_tokens: int = 128
    rounds: int = 20
    warm_up: int = 4
    decode_rounds: int = 8
    static_rounds: int = 20


SMALL = Shape(
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=4,
    vocab_size=512,
    batch=2,
    length=128,
    prompt=32,
    new_tokens=16,
    rounds=5,
    warm_up=1,
    decode_rounds=3,
    static_rounds=3,
)
"""For a machine without a GPU: that the bench runs, not how fast the kernels are."""


def llama(shape: Shape, device: str, longest: int = 4096) -> LlamaForCausalLM:
    """Random weights, the same each time; bfloat16 on a GPU.

    Args:
        shape: sizes.
        device: where to build it.
        longest: sequence that it is for.
    """
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        max_position_embeddings=longest,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model: LlamaForCausalLM = LlamaForCausalLM._from_config(
            config, dtype=torch.bfloat16 if device == "cuda" else torch.float32
        )
    return model


def free() -> None:
    """Forget compiled code and give cached memory back."""
    torch.compiler.reset()
    give_back()


def give_back() -> None:
    """Give cached memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
