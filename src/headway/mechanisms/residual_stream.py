"""Attention residual streams (arXiv 2412.15113) and value residuals (arXiv 2410.17897)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from headway.errors import HeadwayError
from headway.mechanisms.base import Dims, Mechanism, MechanismModule, Place, fill, parameter
from headway.mechanisms.context import QKV, Context


@dataclass(frozen=True, kw_only=True)
class ResidualStream(Mechanism):
    """A layer's heads read an earlier layer's raw projection too.

    `V'_n = s (V_n + V_source)` with the raw projections, never their sums; the first layer has no
    source and is left alone. `scale=1.0` is arXiv 2412.15113; `source="first", scale=0.5` is the
    identity variant of ResFormer (arXiv 2410.17897); `scale=0.5 ** 0.5` keeps the variance.

    Attributes:
        stream: which projection is passed on (the paper's language models: value).
        source: the previous layer (paper) or the first one (ResFormer).
        scale: a number, or two learned weights (own, source) per 'layer' or per 'head'.
        init: of learned weights: 'paper' (1, 1) or 'identity' (1, 0).
    """

    name = "residual_stream"
    place = Place.PROJECTED
    streams = True

    stream: Literal["value", "key", "query"] = "value"
    source: Literal["previous", "first"] = "previous"
    scale: float | Literal["layer", "head"] = 1.0
    init: Literal["paper", "identity"] = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init == "identity" and not isinstance(self.scale, str):
            raise HeadwayError(
                f"residual_stream.scale: {self.scale!r} is fixed and has no identity "
                "initialisation; use 'layer' or 'head' with init='identity'"
            )

    def clash(self, other: Mechanism) -> str | None:
        if isinstance(other, ResidualStream) and other.stream != self.stream:
            return None
        return super().clash(other)

    def build(self, dims: Dims, layer_idx: int) -> nn.Module | None:
        return None if layer_idx == 0 else ResidualStreamModule(self, dims)


class ResidualStreamModule(MechanismModule):
    """Weights of one layer: fixed, or learned `(2, 1)` / `(2, heads)` (own, source)."""

    def __init__(self, spec: ResidualStream, dims: Dims) -> None:
        super().__init__()
        self.spec = spec
        if isinstance(spec.scale, str):
            heads = dims.heads(spec.stream) if spec.scale == "head" else 1
            self.weights = parameter(2, heads)
            self.reset_parameters()

    def reset_parameters(self) -> None:
        if isinstance(self.spec.scale, str):
            source = 0.0 if self.spec.init == "identity" else 1.0
            fill(self.weights, torch.tensor([[1.0], [source]]))

    def prologue(self, qkv: QKV, ctx: Context) -> QKV:
        streams = ctx.streams
        source = streams.first if self.spec.source == "first" else streams.previous
        if source is None:
            raise HeadwayError(
                "residual_stream: a layer after the first was given no streams; pass "
                "Context(streams=...) and push each layer's raw projections"
            )
        name = self.spec.stream[0]
        return qkv._replace(**{name: self.mixed(getattr(qkv, name), getattr(source, name))})

    def mixed(self, own: Tensor, source: Tensor) -> Tensor:
        """The sum, `(B, heads, T, D)`."""
        if isinstance(self.spec.scale, str):
            weights = self.weights.to(own.dtype)[:, None, :, None, None]
            return own * weights[0] + source * weights[1]
        return (own + source) * self.spec.scale

    def learned(self) -> dict[str, Tensor]:
        if not isinstance(self.spec.scale, str):
            return {}
        return {f"{self.spec.stream} own, source": self.weights.detach()}
