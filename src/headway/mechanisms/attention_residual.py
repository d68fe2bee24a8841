"""Attention residuals: depth attention with a learned pseudo-query (arXiv 2603.15031)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from headway.mechanisms.base import Dims, Learned, Mechanism, Place, fill, parameter
from headway.ops.depth import depth_attention


@dataclass(frozen=True, kw_only=True)
class AttentionResidual(Mechanism):
    """Every sublayer reads a softmax-weighted sum of the embedding and all earlier updates.

    `h_l = sum_i a_i v_i`, `a = softmax_i(w_l . RMSNorm(v_i))`, `v_0` the embedding, `v_i` what
    sublayer i added (arXiv 2603.15031). The pseudo-queries start at zero, as in the paper.

    Attributes:
        total: 'one' as in the paper (a mean at the start); 'count' multiplies by the number of
            sources, so that the start is exactly the ordinary residual sum.
    """

    name = "attention_residual"
    place = Place.SUBLAYER

    total: Literal["one", "count"] = "one"

    @property
    def starts_as_identity(self) -> bool:
        return self.total == "count"

    def build(self, dims: Dims, layer_idx: int) -> nn.Module:
        return DepthRead(self, dims)


class DepthRead(Learned):
    """One reading site: `query` `(hidden_size,)`."""

    def __init__(self, spec: AttentionResidual, dims: Dims) -> None:
        super().__init__()
        self.spec, self.eps = spec, dims.norm_eps
        self.query = parameter(dims.hidden_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        fill(self.query, 0.0)

    def forward(self, sources: Sequence[Tensor]) -> Tensor:
        """`(B, T, C)` from N sources of that shape."""
        gain = len(sources) if self.spec.total == "count" else 1
        return depth_attention(self.query, sources, normed="keys", eps=self.eps, gain=gain)
