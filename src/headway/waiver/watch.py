"""Watching a model's attention, and leaving the model exactly as it was found."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.bloom.modeling_bloom import BloomModel

from headway.decoder import HeadwayModel
from headway.decoder.observer import OBSERVED, Observer, active
from headway.errors import HeadwayError
from headway.waiver.bloom import bloom_observed

OBSERVABLE = (HeadwayModel, BloomModel)
"""Models that are observed though they do without transformers' attention interface."""


def stack_of(model: nn.Module) -> PreTrainedModel:
    """The model without its head, so that no logits are made.

    Raises:
        HeadwayError: no model of transformers, an encoder-decoder, or an attention that cannot be
            observed.
    """
    inner: Any = model
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    if not isinstance(inner, PreTrainedModel):
        raise HeadwayError(
            f"model: a {type(inner).__name__} is not accepted; accepted is a model of transformers "
            "or one of Headway's own"
        )
    name = f"model: {type(inner).__name__} ({inner.config.model_type})"
    if getattr(inner.config, "is_encoder_decoder", False):
        raise HeadwayError(
            f"{name} is an encoder-decoder, which is not accepted; accepted is an encoder or a "
            "decoder alone"
        )
    stack: Any = inner.base_model
    if not isinstance(stack, OBSERVABLE) and not stack._can_set_attn_implementation():
        raise HeadwayError(
            f"{name} computes attention by code of its own, which cannot be observed; accepted are "
            "models that use transformers' attention interface"
        )
    return cast(PreTrainedModel, stack)


@contextmanager
def watching(model: nn.Module, observer: Observer) -> Iterator[None]:
    """Let `observer` see every attention of `model`, in evaluation mode and without gradients.

    Afterwards, also after an exception or Ctrl-C, attention implementation and modes are what they
    were.
    """
    configs: dict[int, Any] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig):
            configs[id(config)] = config
    before = [(config, config._attn_implementation_internal) for config in configs.values()]
    training = [(module, module.training) for module in model.modules()]
    try:
        for config in configs.values():
            config._attn_implementation_internal = OBSERVED
        for module, _ in training:
            module.training = False
        with active(observer), bloom_observed(model), torch.no_grad():
            yield
    finally:
        for config, implementation in before:
            config._attn_implementation_internal = implementation
        for module, mode in training:
            module.training = mode


def run(module: nn.Module, input_ids: Tensor) -> Any:
    """One forward pass of a model or of its stack on ids `(B, T)`, no cache and nothing padded."""
    taken = inspect.signature(module.forward).parameters
    # A mask, even of ones, keeps transformers from reading packed documents out of position ids.
    options: dict[str, Any] = {"attention_mask": torch.ones_like(input_ids)}
    if "use_cache" in taken or "kwargs" in taken:
        options["use_cache"] = False
    return module(input_ids=input_ids, **options)
