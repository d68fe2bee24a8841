"""Floating-point operations of models, and those that a device promises."""

from __future__ import annotations

from typing import Any

import torch

from headway.bench.decoders import decoder
from headway.bench.llama import Shape
from headway.mechanisms import Mechanism
from headway.training.matched import forward_operations

PEAKS = {"H100 80GB HBM3": 989.4e12, "H200": 989.4e12, "A100": 312e12}
"""Dense bfloat16 operations a second, by part of the device's name; from the data sheets."""


def flops_a_token(model: Any, length: int, causal: bool = False) -> float:
    """Operations of a training step for each token, as PaLM counts them (arXiv 2204.02311, B).

    `6 N + 12 L H Q T`: N parameters but for the embedding's look-up (a tied matrix counts once, as
    the head), L layers, H heads of width Q, T tokens a row.

    Args:
        model: with `config`.
        length: tokens a row.
        causal: count the half of attention that a causal kernel computes.
    """
    config = model.config
    matrices = sum(p.numel() for p in model.parameters())
    if not config.tie_word_embeddings:
        matrices -= model.get_input_embeddings().weight.numel()
    width = config.num_attention_heads * config.head_dim
    attention = 12 * config.num_hidden_layers * width * length
    return float(6 * matrices + (attention / 2 if causal else attention))


def device_peak() -> float | None:
    """Dense bfloat16 operations a second that the data sheet promises, or None if unknown."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def relative_flops(shape: Shape, mechanisms: tuple[Mechanism, ...]) -> float:
    """Operations of a forward pass over the plain model's, all scores counted."""
    ours, plain = (
        forward_operations(decoder(shape, "meta", listed).config, shape.length)
        for listed in (mechanisms, ())
    )
    return ours / plain
