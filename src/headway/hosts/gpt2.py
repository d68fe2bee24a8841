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
        return self.resid_dropout(self.c_proj(merged))

    def dropout_rate(self) -> float:
        return self.attn_dropout.p

    def interface_options(self) -> dict[str, Any]:
        return {}


class GPT2Layer(HostLayer):
    """Its names; the model passes cache and mask by position."""

    def forward(
        self,
        hidden_states: Tensor,
        past_key_values: Any = None,
        attention_mask: Any = None,
        encoder_hidden_states: None = None,
        encoder_attention_mask: None = None,
        **options: Any,
    ) -> Any:
        return super().forward(
            hidden_states,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            **options,
        )

    def attention_norm(self, x: Tensor) -> Tensor:
        return self.ln_1(x)

    def attention_update(self, x: Tensor, **options: Any) -> Tensor:
        return self.attn(self.attention_norm(x), **options)[0]

    def mlp_update(self, x: Tensor) -> Tensor:
        return self.mlp(self.ln_2(x))


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
