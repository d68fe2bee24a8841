"""Gated attention (arXiv 2505.06708)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from headway.errors import HeadwayError
from headway.mechanisms.base import Dims, Mechanism, MechanismModule, Place, fill
from headway.mechanisms.context import Context


@dataclass(frozen=True, kw_only=True)
class OutputGate(Mechanism):
    """Attention output times `sigmoid(W_g x)`, x the layer's normed input, before W_o.

    Attributes:
        granularity: a gate a 'channel' of each head (the paper's best) or one a 'head'.
        init: 'paper' draws W_g as the host draws its matrices; 'identity' is `2 sigmoid(W_g x)`
            with W_g = 0, exactly 1.
    """

    name = "output_gate"
    place = Place.OUTPUT

    granularity: Literal["channel", "head"] = "channel"
    init: Literal["paper", "identity"] = "paper"

    def build(self, dims: Dims, layer_idx: int) -> nn.Module:
        return OutputGateModule(self, dims)


class OutputGateModule(MechanismModule):
    """`gate`: hidden_size -> H or H D."""

    def __init__(self, spec: OutputGate, dims: Dims) -> None:
        super().__init__()
        self.spec, self.heads = spec, dims.num_attention_heads
        width = self.heads * (dims.head_dim if spec.granularity == "channel" else 1)
        self.gate = nn.Linear(dims.hidden_size, width, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.spec.init == "identity":
            fill(self.gate.weight, 0.0)

    def epilogue(self, out: Tensor, lse: Tensor | None, ctx: Context) -> Tensor:
        if ctx.hidden is None:
            raise HeadwayError("output_gate: Context.hidden is missing")
        gates = self.gate(ctx.hidden).sigmoid().unflatten(-1, (self.heads, -1)).transpose(1, 2)
        scale: Tensor = 2 * gates if self.spec.init == "identity" else gates
        return out * scale
