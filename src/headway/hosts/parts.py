"""What attaching adds to a host: one submodule `headway` in each module that takes part."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from headway.decoder.cache import layers_wanted
from headway.mechanisms.attention_residual import DepthRead
from headway.mechanisms.base import Dims, Learned, Mechanism, Place, fill
from headway.mechanisms.compose import AttentionMechanisms
from headway.mechanisms.fused import FusedPrologue, fusible
from headway.mechanisms.layer_shortcut import LayerShortcut, ShortcutAttention
from headway.mechanisms.scalar_mix import FinalMix
from headway.mechanisms.taps import tap_indices
from headway.ops.choice import ops_choice

PART = "headway"
"""Name of the submodule; a parameter belongs to Headway if its path has this component."""


class AttentionParts(nn.Module):
    """In an attention module.

    Attributes:
        mechanisms: prologues and epilogues.
        needs_lse, has_epilogue: of the mechanisms.
        shortcut: attention over depth, in the last layer.
        replaced: whether the shortcut stands in place of self-attention.
        keep_raw: whether later layers read the raw projections.
        fused: all prologues as one pass, where one can carry them.
        has_window: whether the family has a sliding window, of whatever length.
    """

    has_window = True

    def __init__(self, mechanisms: Sequence[Mechanism], dims: Dims, layer_idx: int) -> None:
        super().__init__()
        built = [m.build(dims, layer_idx) for m in mechanisms if m.place == Place.LAYER]
        self.shortcut = cast(ShortcutAttention | None, built[0] if built else None)
        self.replaced = self.shortcut is not None and self.shortcut.spec.mode == "replace"
        inside = () if self.replaced else mechanisms
        self.mechanisms = AttentionMechanisms(inside, dims, layer_idx)
        self.needs_lse = self.mechanisms.needs_lse
        self.has_epilogue = self.mechanisms.has_epilogue
        self.keep_raw = any(m.streams for m in mechanisms)
        fused = fusible(mechanisms, dims.head_dim) and not self.replaced
        self.fused = FusedPrologue(self.mechanisms, ops_choice()) if fused else None


class LayerParts(nn.Module):
    """In a decoder layer, where a mechanism reads over depth.

    Attributes:
        attention_read, mlp_read: what the two sublayers read, under attention residuals.
        final_read, final_mix: what the final norm reads, in the last layer.
        taps: outputs that the last layer's shortcut reads.
    """

    def __init__(self, mechanisms: Sequence[Mechanism], dims: Dims, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.is_last = layer_idx == dims.num_hidden_layers - 1
        self.taps: tuple[int, ...] = ()
        self.attention_read: DepthRead | None = None
        self.mlp_read: DepthRead | None = None
        self.final_read: DepthRead | None = None
        self.final_mix: FinalMix | None = None
        for mechanism in mechanisms:
            if mechanism.place == Place.SUBLAYER:
                self.attention_read = cast(DepthRead, mechanism.build(dims, layer_idx))
                self.mlp_read = cast(DepthRead, mechanism.build(dims, layer_idx))
                if self.is_last:
                    self.final_read = cast(DepthRead, mechanism.build(dims, layer_idx + 1))
            elif mechanism.place == Place.FINAL and self.is_last:
                self.final_mix = cast(FinalMix, mechanism.build(dims, layer_idx + 1))
            elif mechanism.place == Place.LAYER and self.is_last:
                self.taps = tap_indices(cast(LayerShortcut, mechanism).taps, dims)


class ModelParts(Learned):
    """In the stack of layers: `token_log_frequency` `(V,)`, where a mechanism reads it, and how
    many layers a cache has.
    """

    token_log_frequency: torch.Tensor | None

    def __init__(self, mechanisms: Sequence[Mechanism], dims: Dims, vocabulary: int) -> None:
        super().__init__()
        self.cache_layers = layers_wanted(mechanisms, dims)
        wanted = any(m.needs_frequency for m in mechanisms)
        self.register_buffer("token_log_frequency", torch.zeros(vocabulary) if wanted else None)

    def reset_parameters(self) -> None:
        if self.token_log_frequency is not None:
            fill(self.token_log_frequency, 0.0)

    def resize(self, vocabulary: int) -> None:
        """To another vocabulary; a new token counts as the rarest."""
        known = self.token_log_frequency
        if known is not None:
            added = known.min().expand(max(0, vocabulary - len(known)))
            self.token_log_frequency = torch.cat([known[:vocabulary], added])


def settle(parts: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move to the host's device; matrices and norms to its dtype, all else to at least float32.

    Learned scalars near one do not survive training in half precision.
    """
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    for module in parts.modules():
        target = precise if isinstance(module, Learned) else dtype
        for name, value in module.named_parameters(recurse=False):
            moved = nn.Parameter(value.detach().to(device, target), value.requires_grad)
            module.register_parameter(name, moved)
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, buffer.to(device, target))
