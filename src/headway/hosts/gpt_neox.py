"""GPT-NeoX (Pythia): queries, keys and values interleaved by head; parallel sublayers."""

from typing import Any

from torch import Tensor

from headway.hosts.attention import HostAttention
from headway.hosts.family import Family
from headway.hosts.layer import HostLayer
from headway.mechanisms.context import QKV


class GPTNeoXAttention(HostAttention):
    """Each head's query, key and value stand together; a fraction of the channels is rotated."""

    fuses = True

    def project(self, hidden: Tensor) -> QKV:
        heads = self.query_key_value(hidden).unflatten(-1, (-1, 3 * self.head_size))
        return QKV(*heads.transpose(1, 2).chunk(3, dim=-1))

    def output(self, merged: Tensor) -> Tensor:
        return self.dense(merged)

    def interface_options(self) -> dict[str, Any]:
        return {}


class GPTNeoXLayer(HostLayer):
    """Both sublayers read the layer's input where the configuration says so."""

    def attention_update(self, x: Tensor, **options: Any) -> Tensor:
        attended = self.attention(self.attention_norm(x), **options)[0]
        return self.post_attention_dropout(attended)

    def mlp_update(self, x: Tensor) -> Tensor:
        return self.post_mlp_dropout(super().mlp_update(x))

    def is_parallel(self) -> bool:
        return self.use_parallel_residual


FAMILIES = (
    Family(
        name="GPT-NeoX",
        model_types=("gpt_neox",),
        attention=GPTNeoXAttention,
        layer=GPTNeoXLayer,
        stack="gpt_neox",
        attention_name="attention",
    ),
)
