"""KV shifting attention (arXiv 2411.19574)."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from headway.errors import HeadwayError
from headway.mechanisms.base import Dims, Mechanism, MechanismModule, Place, fill, parameter
from headway.mechanisms.context import QKV, Context
from headway.mechanisms.state import rows_before
from headway.ops.shift import mix_previous

Target = Literal["key", "value", "query"]


@dataclass(frozen=True, kw_only=True)
class KVShift(Mechanism):
    """Keys and values mixed with those of previous tokens (arXiv 2411.19574, section 2.2).

    `K^_i = a1 K_i + a2 K_{i-1}` and `V^_i = b1 V_i + b2 V_{i-1}`, learned scalars a key-value head,
    before rotation; before the first token of a document stands zero.

    Attributes:
        targets: which projections are mixed.
        window: how many previous tokens take part (1 in the paper).
        granularity: one set of taps a head (paper) or a channel.
        init: 'uniform' draws all taps but the last from U(0, 1) and the last so that they sum to
            one (paper); 'identity' is (1, 0, ...); 'induction' is (0, 1) on keys and (1, 0) on
            values and queries, the induction head of definition 1.
        constraint: 'none' (paper); 'sigmoid': softmax of free logits, which for one previous token
            is the paper's gate a1 = sigmoid(p), a2 = 1 - a1; 'clamp' to [0, 1].
    """

    name = "kv_shift"
    place = Place.PROJECTED

    targets: tuple[Target, ...] = ("key", "value")
    window: int = field(default=1, metadata={"min": 1})
    granularity: Literal["head", "channel"] = "head"
    init: Literal["uniform", "identity", "induction"] = "uniform"
    constraint: Literal["none", "sigmoid", "clamp"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise HeadwayError(
                f"kv_shift.targets: {self.targets!r} is not accepted; "
                "accepted are one or more of 'key', 'value', 'query', each once"
            )
        if self.constraint == "sigmoid" and self.init != "uniform":
            raise HeadwayError(
                f"kv_shift.init: {self.init!r} cannot be reached under constraint='sigmoid', whose "
                "taps lie strictly between 0 and 1; use 'uniform', or constraint='clamp'"
            )

    def build(self, dims: Dims, layer_idx: int) -> nn.Module:
        return KVShiftModule(self, dims)


class KVShiftModule(MechanismModule):
    """Taps of one layer, `(G, window + 1)` or `(G, D, window + 1)` for each target."""

    key: Tensor
    value: Tensor
    query: Tensor

    def __init__(self, spec: KVShift, dims: Dims) -> None:
        super().__init__()
        self.spec = spec
        width = spec.window + (spec.constraint != "sigmoid")
        for target in spec.targets:
            heads = dims.heads(target)
            shape = (heads, dims.head_dim) if spec.granularity == "channel" else (heads,)
            self.register_parameter(target, parameter(*shape, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for target in self.spec.targets:
            raw = getattr(self, target)
            fill(raw, self._initial(target, raw))

    def _initial(self, target: Target, like: Tensor) -> Tensor:
        window = self.spec.window
        taps = torch.zeros(*like.shape[:-1], window + 1, device=like.device)
        if self.spec.init == "uniform":
            free = torch.rand(*like.shape[:-1], window, device=like.device)
            if self.spec.constraint == "sigmoid":
                return free.logit(eps=1e-6) if window == 1 else free.log()
            if self.spec.constraint == "clamp" and window > 1:
                # The paper's last tap can start below zero, where a clamp has no gradient.
                free = free / window
            return torch.cat([free, 1 - free.sum(-1, keepdim=True)], dim=-1)
        current = 1 if self.spec.init == "induction" and target == "key" else 0
        taps[..., current] = 1
        return taps

    def taps(self, target: str) -> Tensor:
        """The weights in force, index 0 for the current token."""
        raw: Tensor = getattr(self, target)
        if self.spec.constraint == "clamp":
            return raw.clamp(0, 1)
        if self.spec.constraint == "sigmoid":
            return torch.cat([raw, torch.zeros_like(raw[..., :1])], dim=-1).softmax(dim=-1)
        return raw

    def prologue(self, qkv: QKV, ctx: Context) -> QKV:
        mixed = qkv._asdict()
        for target in self.spec.targets:
            x = mixed[target[0]]
            before = rows_before(ctx.state, f"kv_shift.{target}", x, self.spec.window)
            mixed[target[0]] = mix_previous(x, self.taps(target), ctx.positions, before)
        return QKV(**mixed)

    def learned(self) -> dict[str, Tensor]:
        return {f"{t} taps": self.taps(t).detach() for t in self.spec.targets}
