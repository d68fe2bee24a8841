"""Llama and its kin: separate projections, rotary positions, norm before each sublayer."""

from typing import Any

from torch import Tensor

from headway.hosts.attention import Call, HostAttention
from headway.hosts.family import Family
from headway.hosts.layer import HostLayer
from headway.mechanisms.compose import Norm


class LlamaAttention(HostAttention):
    """All defaults: nothing stands between projection and rotation."""

    fuses = True


class Qwen3Attention(HostAttention):
    """With norms of queries and keys per head."""

    def qk_norms(self) -> tuple[Norm | None, Norm | None]:
        return self.q_norm, self.k_norm


class SmolLM3Attention(HostAttention):
    """Without positions in some layers."""

    def rotate(self, q: Tensor, k: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        return super().rotate(q, k, call) if self.use_rope else (q, k)


class Olmo2Attention(HostAttention):
    """With norms of queries and keys over all heads at once."""

    def qk_norms(self) -> tuple[Norm | None, Norm | None]:
        return _over_heads(self.q_norm), _over_heads(self.k_norm)


class Olmo2Layer(HostLayer):
    """Norm after each sublayer."""

    def attention_norm(self, x: Tensor) -> Tensor:
        return x

    def attention_update(self, x: Tensor, **options: Any) -> Tensor:
        return self.post_attention_layernorm(super().attention_update(x, **options))

    def mlp_update(self, x: Tensor) -> Tensor:
        return self.post_feedforward_layernorm(self.mlp(x))


class GraniteLayer(HostLayer):
    """Updates times a fixed factor."""

    def attention_update(self, x: Tensor, **options: Any) -> Tensor:
        return super().attention_update(x, **options) * self.residual_multiplier

    def mlp_update(self, x: Tensor) -> Tensor:
        return super().mlp_update(x) * self.residual_multiplier


def _over_heads(norm: Norm) -> Norm:
    def apply(x: Tensor) -> Tensor:
        merged = norm(x.transpose(1, 2).flatten(2))
        return merged.unflatten(-1, (x.shape[1], x.shape[3])).transpose(1, 2)

    return apply


FAMILIES = (
    Family(
        name="Llama",
        model_types=("llama", "mistral", "qwen2"),
        attention=LlamaAttention,
        layer=HostLayer,
    ),
    Family(
        name="Qwen3",
        model_types=("qwen3",),
        attention=Qwen3Attention,
        layer=HostLayer,
        qk_norm=True,
    ),
    Family(name="SmolLM3", model_types=("smollm3",), attention=SmolLM3Attention, layer=HostLayer),
    Family(name="OLMo 2", model_types=("olmo2",), attention=Olmo2Attention, layer=Olmo2Layer),
    Family(name="Granite", model_types=("granite",), attention=LlamaAttention, layer=GraniteLayer),
)
