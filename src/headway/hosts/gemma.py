"""Gemma 2 and 3: norms around each sublayer, sliding windows, capped scores, QK-norm."""

from typing import Any

from torch import Tensor

from headway.hosts.attention import HostAttention
from headway.hosts.family import Family
from headway.hosts.layer import HostLayer
from headway.hosts.llama import Qwen3Attention


class Gemma2Attention(HostAttention):
    """With capped scores."""

    fuses = True

    def interface_options(self) -> dict[str, Any]:
        return super().interface_options() | {"softcap": self.attn_logit_softcapping}


class GemmaLayer(HostLayer):
    """Norms before and after each sublayer."""

    def attention_update(self, x: Tensor, **options: Any) -> Tensor:
        return self.post_attention_layernorm(super().attention_update(x, **options))

    def mlp_update(self, x: Tensor) -> Tensor:
        fed = self.mlp(self.pre_feedforward_layernorm(x))
        return self.post_feedforward_layernorm(fed)


FAMILIES = (
    Family(name="Gemma 2", model_types=("gemma2",), attention=Gemma2Attention, layer=GemmaLayer),
    Family(
        name="Gemma 3",
        model_types=("gemma3_text",),
        attention=Qwen3Attention,
        layer=GemmaLayer,
        qk_norm=True,
    ),
)
