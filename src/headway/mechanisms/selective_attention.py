"""Selective self-attention, SSA (arXiv 2411.12892)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from headway.errors import HeadwayError
from headway.mechanisms.base import (
    Dims,
    Learned,
    Mechanism,
    MechanismModule,
    Place,
    fill,
    parameter,
)
from headway.mechanisms.context import QKV, Context
from headway.ops.temperature import position_temperature, token_score, token_temperature

SLOPE_OFFSET = 0.5
"""What the sigmoid is lowered by where the slope starts at zero."""


@dataclass(frozen=True, kw_only=True)
class SelectiveAttention(Mechanism):
    """Learned temperatures on queries and values from the token and its position.

    `tau = tau_position + tau_token`, `tau_position(n) = 1 + slope ln n` with the 1-based position
    n, `tau_token(x) = tanh(f(x))` (arXiv 2411.12892, definition 1). Applied after QK-norm, which
    would cancel it, and before rotation, with which it commutes.

    Attributes:
        query, key, value: which projections are scaled (paper: query and value).
        token: `f`: 'shared' `w . gelu(raw projection)`; 'mlp' a two-layer perceptron of the hidden
            state; 'frequency' one number times the standardised log frequency of the token;
            'constant' one number that is the same for all tokens, the control without features;
            'none' leaves the token part out.
        position: with the position part or not.
        per_head: a temperature of its own for every head, or one a layer.
        init: the paper does not state it. 'paper' starts the token part at zero and the slope
            `sigmoid(alpha)` at `slope`, as the official code does; 'identity' starts at exactly
            1 with the slope `sigmoid(alpha) - 1/2`, alpha = 0, which may also turn negative.
        slope: first slope of the position part under init='paper' (official code: 0.0113 for
            GPT-2, 0.00062 for Pythia).
    """

    name = "selective_attention"
    place = Place.TEMPERED

    query: bool = True
    key: bool = False
    value: bool = True
    token: Literal["shared", "mlp", "frequency", "constant", "none"] = "shared"
    position: bool = True
    per_head: bool = False
    init: Literal["paper", "identity"] = "paper"
    slope: float = field(default=0.0113, metadata={"min": 1e-6, "max": 1 - 1e-6})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.targets:
            raise HeadwayError(
                "selective_attention: query, key and value are all false; accepted is at least one"
            )
        if self.token == "none" and not self.position:
            raise HeadwayError(
                "selective_attention.position: false with token='none' leaves no temperature; "
                "accepted is position=true or another token part"
            )

    @property
    def targets(self) -> tuple[str, ...]:
        """The projections that are scaled."""
        return tuple(t for t in ("query", "key", "value") if getattr(self, t))

    @property
    def needs_frequency(self) -> bool:
        return self.token == "frequency"

    def build(self, dims: Dims, layer_idx: int) -> nn.Module:
        return SelectiveAttentionModule(self, dims)


class SelectiveAttentionModule(MechanismModule):
    """One `Temperature` a scaled projection."""

    def __init__(self, spec: SelectiveAttention, dims: Dims) -> None:
        super().__init__()
        self.targets = spec.targets
        for target in spec.targets:
            self.add_module(target, Temperature(spec, dims, dims.heads(target)))

    def prologue(self, qkv: QKV, ctx: Context) -> QKV:
        scaled = qkv._asdict()
        for target in self.targets:
            name = target[0]
            if ctx.raw is None:
                raise HeadwayError("selective_attention: Context.raw is missing")
            tau = self.get_submodule(target)(getattr(ctx.raw, name), ctx)
            scaled[name] = scaled[name] * tau.unsqueeze(-1).to(scaled[name].dtype)
        return QKV(**scaled)

    def learned(self) -> dict[str, Tensor]:
        shown = {}
        for target in self.targets:
            part = self.get_submodule(target)
            assert isinstance(part, Temperature)
            if part.spec.position:
                shown[f"{target} position slope"] = part.slope().detach()
            if part.spec.token == "frequency":
                shown[f"{target} frequency weight"] = part.weight.detach()
            if part.spec.token == "constant":
                shown[f"{target} constant"] = part.weight.detach().tanh()
        return shown


class Temperature(Learned):
    """`tau` of one projection: `(B, heads or 1, T)`.

    Attributes:
        across: sums what the processes found of their heads, where several share them.
    """

    across: Callable[[Tensor], Tensor] | None = None

    def __init__(self, spec: SelectiveAttention, dims: Dims, heads: int) -> None:
        super().__init__()
        self.spec, self.heads = spec, heads
        taus = heads if spec.per_head else 1
        if spec.position:
            self.alpha = parameter(taus)
        if spec.token == "shared":
            self.weight = parameter(heads, dims.head_dim)
        elif spec.token == "mlp":
            self.hidden = nn.Linear(dims.hidden_size, dims.hidden_size, bias=False)
            self.weight = parameter(taus, dims.hidden_size)
        elif spec.token in ("frequency", "constant"):
            self.weight = parameter(taus)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Token part zero; slope as the spec says."""
        identity = self.spec.init == "identity"
        if self.spec.position:
            alpha = 0.0 if identity else math.log(self.spec.slope / (1 - self.spec.slope))
            fill(self.alpha, alpha)
        if self.spec.token != "none":
            fill(self.weight, 0.0)

    def slope(self) -> Tensor:
        """The factor of ln n, `(heads or 1,)`."""
        slope = self.alpha.sigmoid()
        return slope - SLOPE_OFFSET if self.spec.init == "identity" else slope

    def forward(self, raw: Tensor, ctx: Context) -> Tensor:
        if self.spec.position:
            tau = position_temperature(ctx.positions, self.slope())
        else:
            tau = torch.ones_like(ctx.positions, dtype=torch.float32)[:, None, :]
        if self.spec.token == "shared":
            if self.spec.per_head:
                return tau + token_temperature(raw, self.weight)
            flat = raw.transpose(1, 2).flatten(2).unsqueeze(1)
            score = token_score(flat, self.weight.flatten().unsqueeze(0))
            return tau + (score if self.across is None else self.across(score)).tanh()
        if self.spec.token == "mlp":
            if ctx.hidden is None:
                raise HeadwayError("selective_attention: token='mlp' needs Context.hidden")
            features = self.hidden(ctx.hidden).unsqueeze(1).expand(-1, len(self.weight), -1, -1)
            return tau + token_temperature(features, self.weight)
        if self.spec.token == "frequency":
            if ctx.log_frequency is None:
                raise HeadwayError(
                    "selective_attention: token='frequency' needs Context.log_frequency"
                )
            scaled = self.weight[:, None] * ctx.log_frequency[:, None, :]
            return tau + scaled.tanh()
        if self.spec.token == "constant":
            return tau + self.weight[:, None].tanh()
        return tau
