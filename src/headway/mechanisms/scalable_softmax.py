"""Scalable softmax, SSMax (arXiv 2501.19399)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from headway.errors import HeadwayError
from headway.mechanisms.base import Dims, Mechanism, MechanismModule, Place, fill, parameter
from headway.mechanisms.context import QKV, Context


@dataclass(frozen=True, kw_only=True)
class ScalableSoftmax(Mechanism):
    """Scores times `s ln n + b`, n the number of visible keys, learned per head and layer.

    The factor is the same for all keys of a query, so it is folded into the query.

    Attributes:
        bias: with `b` or without (b = 0).
        init: 'paper' starts at s = 0.43, b = 0, the mean that the paper's figure 1 shows for
            trained models; 'identity' at s = 0, b = 1.
    """

    name = "scalable_softmax"
    place = Place.TEMPERED

    bias: bool = False
    init: Literal["paper", "identity"] = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init == "identity" and not self.bias:
            raise HeadwayError(
                "scalable_softmax.init: 'identity' needs bias=true, as s ln n alone is never 1 "
                "for all n; accepted without bias is 'paper'"
            )

    def build(self, dims: Dims, layer_idx: int) -> nn.Module:
        return ScalableSoftmaxModule(self, dims)


class ScalableSoftmaxModule(MechanismModule):
    """`slope`: `(H,)`, and `offset`: `(H,)` with a bias."""

    def __init__(self, spec: ScalableSoftmax, dims: Dims) -> None:
        super().__init__()
        self.spec = spec
        self.slope = parameter(dims.num_attention_heads)
        if spec.bias:
            self.offset = parameter(dims.num_attention_heads)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        identity = self.spec.init == "identity"
        fill(self.slope, 0.0 if identity else 0.43)
        if self.spec.bias:
            fill(self.offset, 1.0 if identity else 0.0)

    def prologue(self, qkv: QKV, ctx: Context) -> QKV:
        counts = (ctx.positions + 1).to(self.slope.dtype).log()
        factor = self.slope[:, None, None] * counts[:, None, :, None]
        if self.spec.bias:
            factor = factor + self.offset[:, None, None]
        return qkv._replace(q=qkv.q * factor.to(qkv.q.dtype))

    def learned(self) -> dict[str, Tensor]:
        shown = {"slope of ln n": self.slope.detach()}
        return shown | ({"bias": self.offset.detach()} if self.spec.bias else {})
