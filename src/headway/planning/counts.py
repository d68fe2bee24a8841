"""How many parameters a configuration has, part by part, and what they cost in operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import nn

from headway.decoder import HeadwayConfig
from headway.mechanisms.base import Place


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters.

    Attributes:
        embedding: of tokens, and of positions where they are learned.
        layers: of each layer.
        final: norm and what reads the depth before it.
        head: 0 where it is the embedding.
    """

    embedding: int
    layers: tuple[int, ...]
    final: int
    head: int

    @property
    def total(self) -> int:
        """Of the model."""
        return self.embedding + sum(self.layers) + self.final + self.head


class Operations(NamedTuple):
    """Of a training step, a token.

    Attributes:
        products: of matrices, forward and backward.
        attention: of scores and of what they weigh, the half that a causal kernel computes.
    """

    products: float
    attention: float


def count_parameters(config: HeadwayConfig) -> Parameters:
    """As `HeadwayForCausalLM(config).num_parameters()` counts them, without building it.

    What mechanisms add is built, on no device; all else follows from the sizes.
    """
    dims, mechanisms = config.dims(), config.mechanism_list()
    width, number = config.hidden_size, config.num_hidden_layers
    assert config.intermediate_size is not None
    norm = {"rms": width, "layer": 2 * width, "none": 0}[config.norm]
    queries = dims.num_attention_heads * dims.head_dim
    keys = dims.num_key_value_heads * dims.head_dim
    attention = 2 * width * (queries + keys)
    attention += (queries + 2 * keys + width) if config.attention_bias else 0
    attention += 2 * dims.head_dim if config.qk_norm else 0
    matrices = 3 if config.hidden_act == "silu" else 2
    feed_forward = matrices * width * config.intermediate_size
    layers = [attention + feed_forward + 2 * norm] * number
    final = norm
    with torch.device("meta"):
        for mechanism in mechanisms:
            if mechanism.place in (Place.SUBLAYER, Place.FINAL):
                final += _size(mechanism.build(dims, number))
            if mechanism.place == Place.FINAL:
                continue
            times = 2 if mechanism.place == Place.SUBLAYER else 1
            for layer in range(number):
                built = mechanism.build(dims, layer)
                layers[layer] += times * _size(built)
        for layer in range(number):
            if _replaced(config, layer):
                inside = [m for m in mechanisms if m.place < Place.SUBLAYER]
                layers[layer] -= attention + sum(_size(m.build(dims, layer)) for m in inside)
    positions = config.max_position_embeddings if config.position == "learned" else 0
    return Parameters(
        embedding=width * (config.vocab_size + positions),
        layers=tuple(layers),
        final=final,
        head=0 if config.tie_word_embeddings else width * config.vocab_size,
    )


def flops_a_token(config: HeadwayConfig, length: int, counted: Parameters) -> Operations:
    """`6 N` and `6 L H D T` (arXiv 2204.02311, appendix B).

    N without the look-up of an embedding that is not the head.

    Args:
        config: of the model.
        length: tokens a sequence.
        counted: its parameters.
    """
    dims = config.dims()
    looked_up = 0 if config.tie_word_embeddings else counted.embedding
    width = dims.num_attention_heads * dims.head_dim
    return Operations(
        products=6.0 * (counted.total - looked_up),
        attention=6.0 * config.num_hidden_layers * width * length,
    )


def _replaced(config: HeadwayConfig, layer: int) -> bool:
    """Whether a mechanism stands in the place of a layer's attention."""
    dims = config.dims()
    return any(
        mechanism.place == Place.LAYER
        and getattr(mechanism, "mode", None) == "replace"
        and mechanism.build(dims, layer) is not None
        for mechanism in config.mechanism_list()
    )


def _size(built: object) -> int:
    return 0 if built is None else sum(p.numel() for p in cast(nn.Module, built).parameters())
