"""Which lists of mechanisms one fused pass can carry, and handing them to it.

The pass is a Triton kernel (`headway.ops.fused_prologue`) that adds, shifts, norms, scales and
rotates at once; `AttentionMechanisms.prologue` followed by the rotation defines what it must give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from headway.mechanisms.base import Mechanism, Place
from headway.mechanisms.compose import AttentionMechanisms
from headway.mechanisms.context import QKV
from headway.mechanisms.kv_shift import KVShift, KVShiftModule
from headway.mechanisms.residual_stream import ResidualStream, ResidualStreamModule
from headway.mechanisms.selective_attention import (
    SLOPE_OFFSET,
    SelectiveAttention,
    SelectiveAttentionModule,
    Temperature,
)
from headway.mechanisms.state import DecodeState

if TYPE_CHECKING:
    from headway.ops.token_launch import TokenLaunch


def fusible(mechanisms: Sequence[Mechanism], head_dim: int) -> bool:
    """Whether the prologues of a list are ones that the fused pass knows.

    A value stream alone is not: it adds two tensors, which needs no kernel of ours.
    """
    prologues = [m for m in mechanisms if m.place < Place.OUTPUT]
    known = all(_known(m) for m in prologues) and head_dim % 2 == 0
    return known and any(not isinstance(m, ResidualStream) for m in prologues)


class FusedPrologue(nn.Module):
    """What `prologue` and the rotation give, in one pass, for one layer.

    It has no parameters of its own. It is a module of plain numbers and other modules because
    `torch.compile` can tell at a glance that such a tree has not changed since it was traced,
    where it looks again at every attribute of any other object before each step.

    Args:
        mechanisms: of a list that is `fusible`.
        choice: see `headway.ops.choice`.
        q_norm: QK-norm of queries `(..., D)`, if the model has one.
        k_norm: QK-norm of keys.
    """

    shift: KVShiftModule | None
    query: Temperature | None
    value: Temperature | None
    stream: ResidualStreamModule | None
    q_norm: nn.RMSNorm | None
    k_norm: nn.RMSNorm | None

    def __init__(
        self,
        mechanisms: AttentionMechanisms,
        choice: str,
        q_norm: nn.RMSNorm | None = None,
        k_norm: nn.RMSNorm | None = None,
    ) -> None:
        super().__init__()
        members = dict(mechanisms.members.items())
        self.choice = choice
        shift = cast(KVShiftModule | None, members.get("kv_shift"))
        tempered = cast(SelectiveAttentionModule | None, members.get("selective_attention"))
        stream = cast(ResidualStreamModule | None, members.get("residual_stream"))
        # Past nn.Module's bookkeeping: these are modules of the mechanisms, and counted there.
        vars(self)["shift"] = shift
        vars(self)["query"] = _temperature(tempered, "query")
        vars(self)["value"] = _temperature(tempered, "value")
        vars(self)["stream"] = stream
        vars(self)["q_norm"], vars(self)["k_norm"] = q_norm, k_norm
        # Settled here once, as the pass runs for every layer of every token.
        targets: tuple[str, ...] = () if shift is None else shift.spec.targets
        self.shifts_key, self.shifts_value = "key" in targets, "value" in targets
        self.free_taps = shift is None or shift.spec.constraint == "none"
        spec = None if tempered is None else next(tempered.children()).spec
        self.by_token = isinstance(spec, SelectiveAttention) and spec.token == "shared"
        self.by_position = isinstance(spec, SelectiveAttention) and spec.position
        self.slope_offset = 0.0
        if isinstance(spec, SelectiveAttention) and spec.init == "identity":
            self.slope_offset = SLOPE_OFFSET
        names = list(members)
        self.streams_first = stream is None or "kv_shift" not in names[: names.index(STREAM)]
        scale = 1.0 if stream is None else stream.spec.scale
        self.learns_mix = isinstance(scale, str)
        self.scale = 1.0 if isinstance(scale, str) else scale
        self.from_first = stream is not None and stream.spec.source == "first"
        self.eps = 0.0 if q_norm is None else float(cast(float, q_norm.eps))
        self.shapes = ""
        self.launch: TokenLaunch | None = None

    def forward(
        self,
        raw: QKV,
        positions: Tensor,
        state: DecodeState | None,
        cos: Tensor,
        sin: Tensor,
        source: Tensor | None = None,
        whole: Tensor | None = None,
        leaves: bool = False,
    ) -> tuple[Tensor, ...]:
        """Rotated queries and keys, and values.

        Args:
            raw: queries `(B, H, T, D)`, keys and values `(B, G, T, D)`.
            positions: `(B, T)` inside the own document.
            state: what the layer carries from one decoding step to the next.
            cos: `(B or 1, T, R)`, R rotated channels, pairs half of R apart.
            sin: the same.
            source: raw values of the layer that the stream comes from, `(B, G, T, D)`.
            whole: `(B, T, H + 2 G, D)`, of which `raw` are views, if they lie in one piece.
            leaves: where gradients are recorded, also give the raw values with one of their own,
                for later layers.
        """
        from headway.ops.fused_prologue import fused_prologue
        from headway.ops.prologue_launch import Numbers, Surroundings

        shift, read = self.shift, raw.v
        key_before = value_before = None
        if state is not None and shift is not None:
            key_before = state.held("kv_shift.key", raw.k, 1) if self.shifts_key else None
            value_before = state.held("kv_shift.value", raw.v, 1) if self.shifts_value else None
        one = raw.q.shape[2] == 1 and not torch.is_grad_enabled()
        in_place = one and state is not None and state.static
        # Angles as wide as what they turn, as the reference has them: one layout for both.
        cos, sin = cos.to(raw.q.dtype), sin.to(raw.q.dtype)
        around = Surroundings(positions, cos, sin, key_before, value_before, source)
        numbers = Numbers(
            raw.k.shape[1],
            self.slope_offset,
            self.eps,
            1 if self.streams_first else 2,
            self.scale,
            leaves and torch.is_grad_enabled(),
            in_place,
        )
        if one and not is_compiling():
            out = self._token_launch()(raw, self._learned(), around, numbers)
        else:
            pieces = raw if whole is None else (whole,)
            out = fused_prologue(pieces, self._learned_of(state, in_place), around, numbers)
        if state is not None and not in_place:
            if key_before is not None:
                state.keep("kv_shift.key", raw.k)
            if value_before is not None:
                if self.stream is not None and source is not None and self.streams_first:
                    read = self.stream.mixed(raw.v, source)
                state.keep("kv_shift.value", read)
        return out

    def _learned_of(self, state: DecodeState | None, in_place: bool) -> Any:
        """What is learned. A static cache keeps it in one piece: a traced step looks at each of
        its tensors before it runs, which for a single token takes as long as the pass itself."""
        if state is None or not state.static:
            return self._learned()
        if is_compiling() and in_place and state.stands and state.numbers is not None:
            return self._apart(state.numbers)
        learned = self._learned()
        if not is_compiling():
            # In words, as a traced step looks again at every attribute that is no plain number.
            self.shapes = " ".join("-" if p is None else _in_words(p) for p in learned)
            state.keep_numbers(_side_by_side([p for p in learned if p is not None]))
        return learned

    def _apart(self, numbers: Tensor) -> Any:
        """The learned tensors of what `_side_by_side` made."""
        from headway.ops.prologue_launch import Learned

        found: list[Tensor | None] = []
        start = 0
        for word in self.shapes.split():
            if word == "-":
                found.append(None)
                continue
            shape = [int(size) for size in word.split("x")]
            count = math.prod(shape)
            found.append(numbers[start : start + count].view(shape))
            start += count + -count % ALIGNED
        return Learned(*found)

    def _learned(self) -> Any:
        from headway.ops.prologue_launch import Learned

        shift, query, value, stream = self.shift, self.query, self.value, self.stream
        key_taps = value_taps = None
        if shift is not None and self.shifts_key:
            key_taps = shift.key if self.free_taps else shift.taps("key")
        if shift is not None and self.shifts_value:
            value_taps = shift.value if self.free_taps else shift.taps("value")
        return Learned(
            key_taps,
            value_taps,
            None if query is None or not self.by_token else query.weight,
            None if query is None or not self.by_position else query.alpha,
            None if value is None or not self.by_token else value.weight,
            None if value is None or not self.by_position else value.alpha,
            None if self.q_norm is None else self.q_norm.weight,
            None if self.k_norm is None else self.k_norm.weight,
            None if stream is None or not self.learns_mix else stream.weights,
        )

    def _token_launch(self) -> TokenLaunch:
        if self.launch is None:
            from headway.ops.token_launch import TokenLaunch

            self.launch = TokenLaunch()
        return self.launch


STREAM = ResidualStream.name
ALIGNED = 4
"""Numbers that a kernel reads at once, where their address allows it."""


def _in_words(x: Tensor) -> str:
    return "x".join(str(size) for size in x.shape)


def _side_by_side(learned: Sequence[Tensor]) -> Tensor:
    """In a row, in float32, each followed by zeros up to a multiple of `ALIGNED`."""
    zeros, row = learned[0].new_zeros(ALIGNED), []
    for numbers in learned:
        row += [numbers.detach().flatten(), zeros[: -numbers.numel() % ALIGNED]]
    return torch.cat(row).float()


def _known(mechanism: Mechanism) -> bool:
    if isinstance(mechanism, KVShift):
        plain = (mechanism.window, mechanism.granularity) == (1, "head")
        return plain and "query" not in mechanism.targets
    if isinstance(mechanism, SelectiveAttention):
        simple = mechanism.token in ("shared", "none") and not mechanism.per_head
        return simple and not mechanism.key
    return isinstance(mechanism, ResidualStream) and mechanism.stream == "value"


def _temperature(module: SelectiveAttentionModule | None, target: str) -> Temperature | None:
    if module is None or target not in module.targets:
        return None
    return cast(Temperature, module.get_submodule(target))
