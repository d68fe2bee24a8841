"""Smeared keys (Olsson et al. 2022, "In-context Learning and Induction Heads")."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from headway.mechanisms.base import Dims, Mechanism, MechanismModule, Place, fill, parameter
from headway.mechanisms.context import QKV, Context
from headway.mechanisms.kv_shift import KVShift
from headway.mechanisms.state import rows_before
from headway.ops.shift import mix_previous


@dataclass(frozen=True, kw_only=True)
class SmearedKey(Mechanism):
    """`k_j <- s k_j + (1 - s) k_{j-1}`, one gate `s = sigmoid(p)` a key-value head.

    Attributes:
        init: 'half' starts at s = 1/2; 'identity' at s = 1 - 1e-8, which float32 rounds to 1.
    """

    name = "smeared_key"
    place = Place.PROJECTED

    init: Literal["half", "identity"] = "half"

    def clash(self, other: Mechanism) -> str | None:
        if isinstance(other, KVShift) and "key" in other.targets:
            return "both mix each key with the previous one; give KVShift targets without 'key'"
        return super().clash(other)

    def build(self, dims: Dims, layer_idx: int) -> nn.Module:
        return SmearedKeyModule(self, dims)


class SmearedKeyModule(MechanismModule):
    """`logits`: `(G,)`."""

    def __init__(self, spec: SmearedKey, dims: Dims) -> None:
        super().__init__()
        self.spec = spec
        self.logits = parameter(dims.num_key_value_heads)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        fill(self.logits, 0.0 if self.spec.init == "half" else 18.42)

    def taps(self) -> Tensor:
        """`(G, 2)`: weight of the current and of the previous key."""
        return torch.stack([self.logits.sigmoid(), (-self.logits).sigmoid()], dim=-1)

    def prologue(self, qkv: QKV, ctx: Context) -> QKV:
        before = rows_before(ctx.state, "smeared_key", qkv.k, 1)
        return qkv._replace(k=mix_previous(qkv.k, self.taps(), ctx.positions, before))

    def learned(self) -> dict[str, Tensor]:
        return {"key taps": self.taps().detach()}
