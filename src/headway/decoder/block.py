"""One layer: attention and feed-forward, each adding to the residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from headway.decoder.attention import Attention
from headway.decoder.configuration import HeadwayConfig
from headway.decoder.forward_pass import ForwardPass
from headway.decoder.norms import make_norm
from headway.decoder.projection import in_one_piece, untouched
from headway.decoder.recompute import recomputed, transformed
from headway.mechanisms.attention_residual import DepthRead
from headway.mechanisms.base import Mechanism, Place
from headway.mechanisms.context import Streams
from headway.mechanisms.layer_shortcut import ShortcutAttention
from headway.ops.choice import ops_choice, takes_kernel
from headway.ops.padding import without_padding
from headway.ops.swiglu import gated_linear


class Depth(NamedTuple):
    """The residual stream and what of its history later layers read.

    Attributes:
        hidden: `(B, T, C)`, the sum so far.
        updates: the embedding and what every sublayer added, or None where nobody reads it.
        outputs: the embedding and every layer's output, or None where nobody reads it.
    """

    hidden: Tensor
    updates: tuple[Tensor, ...] | None
    outputs: tuple[Tensor, ...] | None

    def add(self, update: Tensor) -> Depth:
        """After a sublayer."""
        kept = None if self.updates is None else (*self.updates, update)
        return Depth(self.hidden + update, kept, self.outputs)

    def close_layer(self) -> Depth:
        """After a layer."""
        kept = None if self.outputs is None else (*self.outputs, self.hidden)
        return Depth(self.hidden, self.updates, kept)

    def read(self, reader: DepthRead | None) -> Tensor:
        """What a sublayer reads: the sum, or attention over the updates."""
        if reader is None or self.updates is None:
            return self.hidden
        mixed: Tensor = reader(self.updates)
        return mixed


class FeedForward(nn.Module):
    """SwiGLU ('silu') or two matrices with a GELU between them ('gelu')."""

    def __init__(self, config: HeadwayConfig) -> None:
        super().__init__()
        assert config.intermediate_size is not None
        size, width = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(size, width, bias=False) if config.hidden_act == "silu" else None
        self.up_proj = nn.Linear(size, width, bias=False)
        self.down_proj = nn.Linear(width, size, bias=False)
        self.choice = ops_choice()

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, C)` to the update of that shape."""
        if self.gate_proj is None:
            update: Tensor = self.down_proj(nn.functional.gelu(self.up_proj(x)))
            return update
        both = in_one_piece([self.gate_proj, self.up_proj], x)
        if both is None:
            return recomputed(self._gated, self.gate_proj(x), self.up_proj(x))
        if takes_kernel(x, self.choice) and untouched(self.down_proj) and not transformed():
            return gated_linear(both, self.down_proj.weight)
        return recomputed(self._gated, *both.chunk(2, dim=-1))

    def _gated(self, gate: Tensor, up: Tensor) -> Tensor:
        update: Tensor = self.down_proj(nn.functional.silu(gate) * up)
        return update


class Block(GradientCheckpointingLayer):
    """One layer of the decoder."""

    def __init__(
        self, config: HeadwayConfig, layer_idx: int, mechanisms: Sequence[Mechanism]
    ) -> None:
        super().__init__()
        dims = config.dims()
        self.self_attn: nn.Module = Attention(config, layer_idx, mechanisms)
        self.shortcut: ShortcutAttention | None = None
        self.attention_read: DepthRead | None = None
        self.mlp_read: DepthRead | None = None
        for mechanism in mechanisms:
            if mechanism.place == Place.SUBLAYER:
                self.attention_read = cast(DepthRead, mechanism.build(dims, layer_idx))
                self.mlp_read = cast(DepthRead, mechanism.build(dims, layer_idx))
            if mechanism.place == Place.LAYER:
                built = cast(ShortcutAttention | None, mechanism.build(dims, layer_idx))
                if built is not None and built.spec.mode == "replace":
                    self.self_attn = built
                else:
                    self.shortcut = built
        self.mlp = FeedForward(config)
        self.input_layernorm = make_norm(config)
        self.post_attention_layernorm = make_norm(config)

    def forward(self, depth: Depth, streams: Streams, run: ForwardPass) -> tuple[Depth, Streams]:
        """Add this layer's two updates."""
        without_padding()
        x = self.input_layernorm(depth.read(self.attention_read))
        if isinstance(self.self_attn, ShortcutAttention):
            update = self._cross(self.self_attn, x, depth, run)
        else:
            update, streams = self.self_attn(x, streams, run)
        if self.shortcut is not None:
            update = update + self._cross(self.shortcut, x, depth, run)
        depth = depth.add(update)
        update = self.mlp(self.post_attention_layernorm(depth.read(self.mlp_read)))
        return depth.add(update).close_layer(), streams

    def _cross(
        self, attention: ShortcutAttention, x: Tensor, depth: Depth, run: ForwardPass
    ) -> Tensor:
        assert depth.outputs is not None
        tapped = [depth.outputs[t] for t in attention.taps]
        norm = self.input_layernorm
        update: Tensor = attention(x, tapped, run.rotate_and_attend, run.scale, norm)
        return update
