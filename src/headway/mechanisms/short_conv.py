"""Short convolutions of the projections: Canon-B (arXiv 2512.17351), Primer (arXiv 2109.08668)."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from headway.errors import HeadwayError
from headway.mechanisms.base import Dims, Mechanism, MechanismModule, Place, fill, parameter
from headway.mechanisms.context import QKV, Context
from headway.mechanisms.state import rows_before
from headway.ops.shift import mix_previous

Target = Literal["query", "key", "value"]


@dataclass(frozen=True, kw_only=True)
class ShortConv(Mechanism):
    """A causal convolution along the tokens, one filter a channel, after QK-norm, before rotation.

    Attributes:
        targets: which projections are convolved.
        taps: filter length, the current token included (Canon 4, Primer 3).
        residual: add the input (Canon) or not (Primer).
        init: 'uniform' U(-1, 1) / sqrt(taps), or 'identity'.
    """

    name = "short_conv"
    place = Place.NORMED

    targets: tuple[Target, ...] = ("query", "key", "value")
    taps: int = field(default=4, metadata={"min": 2, "max": 4})
    residual: bool = True
    init: Literal["uniform", "identity"] = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise HeadwayError(
                f"short_conv.targets: {self.targets!r} is not accepted; "
                "accepted are one or more of 'query', 'key', 'value', each once"
            )

    def build(self, dims: Dims, layer_idx: int) -> nn.Module:
        return ShortConvModule(self, dims)


class ShortConvModule(MechanismModule):
    """Filters of one layer, `(heads, D, taps)` for each target."""

    def __init__(self, spec: ShortConv, dims: Dims) -> None:
        super().__init__()
        self.spec = spec
        for target in spec.targets:
            shape = (dims.heads(target), dims.head_dim, spec.taps)
            self.register_parameter(target, parameter(*shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for target in self.spec.targets:
            filters = getattr(self, target)
            if self.spec.init == "uniform":
                fill(filters, (2 * torch.rand_like(filters) - 1) * self.spec.taps**-0.5)
            else:
                start = torch.zeros_like(filters)
                start[..., 0] = 0.0 if self.spec.residual else 1.0
                fill(filters, start)

    def prologue(self, qkv: QKV, ctx: Context) -> QKV:
        mixed = qkv._asdict()
        for target in self.spec.targets:
            x = mixed[target[0]]
            before = rows_before(ctx.state, f"short_conv.{target}", x, self.spec.taps - 1)
            y = mix_previous(x, getattr(self, target), ctx.positions, before)
            mixed[target[0]] = x + y if self.spec.residual else y
        return QKV(**mixed)

    def learned(self) -> dict[str, Tensor]:
        return {f"{t} mean filter": getattr(self, t).detach().mean(1) for t in self.spec.targets}
