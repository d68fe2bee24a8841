"""OPT: learned positions, scaled queries, norm before or after each sublayer."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from headway.hosts.attention import Call, HostAttention, split_heads
from headway.hosts.family import Family
from headway.hosts.layer import HostLayer
from headway.mechanisms.base import Mechanism, Place
from headway.mechanisms.context import QKV


class OPTAttention(HostAttention):
    """Queries carry the factor of the scores."""

    def project(self, hidden: Tensor) -> QKV:
        parts = (self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden))
        return QKV(*(split_heads(p, self.head_dim) for p in parts))

    def rotate(self, q: Tensor, k: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        return q, k

    def output(self, merged: Tensor) -> Tensor:
        return self.out_proj(merged)

    def dropout_rate(self) -> float:
        return self.dropout

    def interface_options(self) -> dict[str, Any]:
        return {}


class OPTLayer(HostLayer):
    """Its names, and dropout of the updates."""

    def attention_norm(self, x: Tensor) -> Tensor:
        return self.self_attn_layer_norm(x) if self.do_layer_norm_before else x

    def attention_update(self, x: Tensor, **options: Any) -> Tensor:
        return F.dropout(super().attention_update(x, **options), self.dropout, self.training)

    def mlp_update(self, x: Tensor) -> Tensor:
        fed = self.fc2(self.activation_fn(self.fc1(self.final_layer_norm(x))))
        return F.dropout(fed, self.dropout, self.training)


def refuses(config: Any, mechanism: Mechanism) -> str | None:
    """Where OPT has no plain residual sum."""
    history = mechanism.streams or mechanism.place > Place.OUTPUT
    if mechanism.place > Place.OUTPUT and not config.do_layer_norm_before:
        return "do_layer_norm_before=false norms the residual sum itself; accepted is true"
    if history and config.layerdrop > 0:
        return f"layerdrop={config.layerdrop} leaves layers out; accepted is 0.0"
    return None


FAMILIES = (
    Family(
        name="OPT",
        model_types=("opt",),
        attention=OPTAttention,
        layer=OPTLayer,
        stack="model.decoder",
        refuses=refuses,
    ),
)
