"""GPT-2: transposed matrices (Conv1D), learned positions, LayerNorm."""

from typing import Any

from torch import Tensor

from headway.hosts.attention import Call, HostAttention, split_heads
from headway.hosts.family import Family
from headway.hosts.layer import HostLayer
from headway.mechanisms.base import Mechanism
from headway.mechanisms.context import QKV


class GPT2Attention(HostAttention):
    """No rotation; positions were added to the embedding."""

    def project(self, hidden: Tensor) -> QKV:
        parts = self.c_attn(hidden).split(self.split_size, dim=2)
        return QKV(*(split_heads(p, self.head_dim) for p in parts))

    def rotate(self, q: Tensor, k: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        return q, k

    def output(self, merged: Tensor) -> Tensor:
        update: Tensor = self.resid_dropout(self.c_proj(merged))
        return update

    def dropout_rate(self) -> float:
        rate: float = self.attn_dropout.p
        return rate

    def interface_options(self) -> dict[str, Any]:
        return {}


class GPT2Layer(HostLayer):
    """Its names."""

    def attention_norm(self, x: Tensor) -> Tensor:
        normed: Tensor = self.ln_1(x)
        return normed

    def attention_update(self, x: Tensor, **options: Any) -> Tensor:
        update: Tensor = self.attn(self.attention_norm(x), **options)[0]
        return update

    def mlp_update(self, x: Tensor) -> Tensor:
        update: Tensor = self.mlp(self.ln_2(x))
        return update


def refuses(config: Any, mechanism: Mechanism) -> str | None:
    """Variants of GPT-2 that few have seen."""
    if config.add_cross_attention:
        return "add_cross_attention=true makes it a decoder of an encoder; accepted is false"
    if config.reorder_and_upcast_attn:
        return "reorder_and_upcast_attn=true is another attention; accepted is false"
    return None


FAMILIES = (
    Family(
        name="GPT-2",
        model_types=("gpt2",),
        attention=GPT2Attention,
        layer=GPT2Layer,
        stack="transformer",
        layers="h",
        attention_name="attn",
        refuses=refuses,
    ),
)
