"""Phi-3: one matrix for queries, keys and values; part of each head is rotated."""

from typing import Any

from torch import Tensor

from headway.hosts.attention import HostAttention, split_heads
from headway.hosts.family import Family
from headway.hosts.layer import HostLayer
from headway.mechanisms.context import QKV


class Phi3Attention(HostAttention):
    """Queries first, then keys, then values."""

    fuses = True

    def project(self, hidden: Tensor) -> QKV:
        keys = self.num_key_value_heads * self.head_dim
        queries = self.config.num_attention_heads * self.head_dim
        parts = self.qkv_proj(hidden).split([queries, keys, keys], dim=-1)
        return QKV(*(split_heads(p, self.head_dim) for p in parts))


class Phi3Layer(HostLayer):
    """With dropout of the updates."""

    def attention_update(self, x: Tensor, **options: Any) -> Tensor:
        return self.resid_attn_dropout(super().attention_update(x, **options))

    def mlp_update(self, x: Tensor) -> Tensor:
        return self.resid_mlp_dropout(super().mlp_update(x))


FAMILIES = (Family(name="Phi-3", model_types=("phi3",), attention=Phi3Attention, layer=Phi3Layer),)
