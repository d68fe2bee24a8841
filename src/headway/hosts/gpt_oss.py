"""gpt-oss: sinks of its own in the softmax, alternating sliding windows, experts."""

from typing import Any

from torch import Tensor

from headway.hosts.attention import HostAttention
from headway.hosts.family import Family
from headway.hosts.layer import HostLayer
from headway.mechanisms.base import Mechanism
from headway.mechanisms.sink_logit import SinkLogit


class GptOssAttention(HostAttention):
    """One learned sink a head; angles for half of the channels."""

    def interface_options(self) -> dict[str, Any]:
        return super().interface_options() | {"s_aux": self.sinks}


class GptOssLayer(HostLayer):
    """Experts give their routing scores too."""

    def mlp_update(self, x: Tensor) -> Tensor:
        return self.mlp(self.post_attention_layernorm(x))[0]


def refuses(config: Any, mechanism: Mechanism) -> str | None:
    """It has a sink already."""
    if isinstance(mechanism, SinkLogit):
        return "its softmax has a learned sink of its own; train that one"
    return None


FAMILIES = (
    Family(
        name="gpt-oss",
        model_types=("gpt_oss",),
        attention=GptOssAttention,
        layer=GptOssLayer,
        refuses=refuses,
    ),
)
