"""BLOOM computes attention by code of its own; while watched, it uses the observed one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers.models.bloom.modeling_bloom import BloomAttention

from headway.decoder.observer import encoded_columns, observed_attention


@contextmanager
def bloom_observed(model: nn.Module) -> Iterator[None]:
    """Route the attentions of a plain BLOOM through `observed_attention`."""
    plain = [
        module
        for module in model.modules()
        if type(module) is BloomAttention and "forward" not in vars(module)  # else: watched already
    ]
    for module in plain:
        module.forward = partial(_forward, module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in plain:
            del module.forward


def _forward(
    module: Any,
    hidden_states: Tensor,
    residual: Tensor,
    alibi: Tensor,
    attention_mask: Any,
    layer_past: Any = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    q, k, v = module._reshape(module.query_key_value(hidden_states))
    if layer_past is not None:
        k, v = layer_past.update(k, v, module.layer_idx)
    bias = encoded_columns(alibi.unflatten(0, q.shape[:2]))
    out, _ = observed_attention(
        module, q, k, v, attention_mask, module.inv_norm_factor, position_bias=bias
    )
    return residual + module.dense(out.flatten(2)), None
