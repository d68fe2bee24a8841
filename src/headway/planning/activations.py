"""What a training step keeps for its backward pass and moves, in bytes a token."""

from __future__ import annotations

from dataclasses import dataclass

from headway.decoder import HeadwayConfig
from headway.errors import HeadwayError
from headway.mechanisms import (
    KVShift,
    OutputGate,
    ShortConv,
    SmearedKey,
)
from headway.mechanisms.base import Mechanism, Place
from headway.ops.loss import CHUNK_BYTES

LSE = 4
"""Bytes of a log-sum-exp, float32."""
RESIDUAL = 4
"""Vectors of the residual stream's width that a layer keeps: the sums before attention and
feed-forward, and what their norms gave."""
PASSES = 9
"""Bytes that a step seems to move in norms, gates, rotation, residual sums and loss, over those
that its layers keep: in the profile of the 124M step on one H200 (`benchmarks/RESULTS.md`, 'train')
15 of 59.1 ms, in which the data sheet's bandwidth would move 72 GB, where 8.07 are kept. Really 37
are moved: these passes and the gaps between them reach half of the data sheet's bandwidth."""


@dataclass(frozen=True)
class Kept:
    """Bytes that are kept.

    Attributes:
        layer: a token, of every layer.
        last: a token, behind the last layer.
        passing: a token, of the one layer whose backward is computed.
        loss: at once, for logits.
    """

    layer: float
    last: float
    passing: float
    loss: float

    def peak(self, tokens: int, layers: int) -> float:
        """At the beginning of the backward pass, for `tokens` of a device."""
        return tokens * (layers * self.layer + self.last) + max(self.loss, tokens * self.passing)


def kept_compiled(
    config: HeadwayConfig, itemsize: int, checkpointing: bool = False, tensor_parallel: int = 1
) -> Kept:
    """What the compiled step on a GPU keeps.

    The compiler keeps `RESIDUAL` vectors a layer, queries and keys after rotation, values, the
    attention's output and log-sum-exp, and gate and up-projection, whose product is computed again.
    A mechanism before attention keeps the projections that it changed. Logits stand in pieces.

    Args:
        config: of the model.
        itemsize: bytes of a number.
        checkpointing: keep the input of a layer alone and compute it again.
        tensor_parallel: devices that share heads and feed-forward width.

    Raises:
        HeadwayError: a mechanism that reads other layers' outputs, of which more is kept than is
            known here.
    """
    dims, width = config.dims(), config.hidden_size
    assert config.intermediate_size is not None
    queries = dims.num_attention_heads * dims.head_dim / tensor_parallel
    keys = dims.num_key_value_heads * dims.head_dim / tensor_parallel
    inner = config.intermediate_size / tensor_parallel
    gates = 2 if config.hidden_act == "silu" else 1
    numbers = RESIDUAL * width + 2 * queries + 2 * keys + gates * inner
    numbers += sum(_added(m, queries, dims.head_dim) for m in config.mechanism_list())
    if any(m.place <= Place.TEMPERED for m in config.mechanism_list()):
        numbers += queries + 2 * keys
    layer = itemsize * numbers + LSE * dims.num_attention_heads / tensor_parallel
    # Gradients of gate and up, the product again and its gradient, and two of the residual stream.
    passing = itemsize * ((gates + 2) * inner + 2 * width)
    # Gradients by hidden state and head, the second in float32, beside the logits.
    vocabulary = config.vocab_size * width * LSE
    if checkpointing:
        passing += layer
        layer = itemsize * float(width)
    return Kept(layer, itemsize * 2.0 * width, passing, CHUNK_BYTES + vocabulary)


def moved(config: HeadwayConfig, itemsize: int, residual: int, tensor_parallel: int = 1) -> float:
    """Bytes a token and layer that the compiled step moves beside matrix products and attention.

    Args:
        config: of the model.
        itemsize: bytes of a number.
        residual: bytes of one of the residual stream and its norms: 4 where autocast meets float32
            weights.
        tensor_parallel: devices that share heads and feed-forward width.
    """
    kept = kept_compiled(config, itemsize, tensor_parallel=tensor_parallel).layer
    return PASSES * (kept + (residual - itemsize) * RESIDUAL * config.hidden_size)


def kept_eager(config: HeadwayConfig, itemsize: int) -> Kept:
    """What the plain model's step keeps where nothing is compiled, on a CPU.

    As `kept_compiled`, but norms keep what they normed, activations what they made, and the
    log-probabilities stand whole.
    """
    if config.mechanism_list():
        raise HeadwayError("mechanisms: what they keep uncompiled is not known; accepted are none")
    dims, width = config.dims(), config.hidden_size
    assert config.intermediate_size is not None
    queries = dims.num_attention_heads * dims.head_dim
    keys = dims.num_key_value_heads * dims.head_dim
    norm = {"rms": 3 * width, "layer": 2 * width, "none": width}[config.norm]
    # Each norm of queries and keys keeps what it read and what it scaled.
    head_norms = 2 * (queries + keys) if config.qk_norm else 0
    gates = 4 if config.hidden_act == "silu" else 2
    numbers = 2 * norm + 2 * queries + 2 * keys + head_norms + gates * config.intermediate_size
    layer = itemsize * numbers + LSE * dims.num_attention_heads
    return Kept(layer, itemsize * norm + LSE * config.vocab_size, 0.0, 0.0)


def cache_bytes(config: HeadwayConfig, length: int, batch: int, itemsize: int) -> int:
    """Of keys, values and what mechanisms carry between decoding steps, of all layers.

    Args:
        config: of the model.
        length: tokens of a sequence.
        batch: sequences.
        itemsize: bytes of a number.
    """
    dims = config.dims()
    row = dims.num_key_value_heads * dims.head_dim
    carried = sum(
        _carried(m, dims.num_attention_heads * dims.head_dim, row) for m in config.mechanism_list()
    )
    return batch * config.num_hidden_layers * (2 * length * row + carried) * itemsize


def _carried(mechanism: Mechanism, queries: int, keys: int) -> int:
    """Numbers of a layer and sequence that are raw rows of tokens before."""
    widths = {"query": queries, "key": keys, "value": keys}
    match mechanism:
        case KVShift():
            return mechanism.window * sum(widths[target] for target in mechanism.targets)
        case ShortConv():
            return (mechanism.taps - 1) * sum(widths[target] for target in mechanism.targets)
        case SmearedKey():
            return keys
        case _:
            return 0


def _added(mechanism: Mechanism, queries: float, head_dim: int) -> float:
    """Numbers a token and layer, beside the projections."""
    if mechanism.place > Place.OUTPUT:
        raise HeadwayError(
            f"mechanisms: {mechanism.name} reads other layers' outputs, and what it keeps is not "
            "known; accepted are mechanisms of one layer"
        )
    match mechanism:
        case OutputGate():
            # What it scales, and the gate, a number a channel or a head.
            return queries * (1 + (1 if mechanism.granularity == "channel" else 1 / head_dim))
        case _:
            return 0.0
