"""Which lists of mechanisms one fused pass can carry, and handing them to it.

The pass is a Triton kernel (`headway.ops.fused_prologue`) that shifts, scales and rotates at once;
`AttentionMechanisms.prologue` followed by the rotation defines what it must give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from headway.mechanisms.base import Mechanism, Place
from headway.mechanisms.compose import AttentionMechanisms
from headway.mechanisms.context import QKV
from headway.mechanisms.kv_shift import KVShift, KVShiftModule
from headway.mechanisms.selective_attention import (
    SLOPE_OFFSET,
    SelectiveAttention,
    SelectiveAttentionModule,
    Temperature,
)
from headway.mechanisms.state import DecodeState

if TYPE_CHECKING:
    from headway.ops.token_launch import TokenLaunch


def fusible(mechanisms: Sequence[Mechanism]) -> bool:
    """Whether the prologues of a list are ones that the fused pass knows."""
    prologues = [m for m in mechanisms if m.place < Place.OUTPUT]
    return bool(prologues) and all(_known(m) for m in prologues)


class FusedPrologue(nn.Module):
    """What `prologue` and the rotation give, in one pass, for one layer.

    It has no parameters of its own. It is a module of plain numbers and other modules because
    `torch.compile` can tell at a glance that such a tree has not changed since it was traced,
    where it looks again at every attribute of any other object before each step.

    Args:
        mechanisms: of a list that is `fusible`.
        choice: see `headway.ops.choice`.
    """

    shift: KVShiftModule | None
    query: Temperature | None
    value: Temperature | None

    def __init__(self, mechanisms: AttentionMechanisms, choice: str) -> None:
        super().__init__()
        members = dict(mechanisms.members.items())
        self.choice = choice
        shift = cast(KVShiftModule | None, members.get("kv_shift"))
        tempered = cast(SelectiveAttentionModule | None, members.get("selective_attention"))
        # Past nn.Module's bookkeeping: these are modules of the mechanisms, and counted there.
        vars(self)["shift"] = shift
        vars(self)["query"] = _temperature(tempered, "query")
        vars(self)["value"] = _temperature(tempered, "value")
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
        self.launch: TokenLaunch | None = None

    def forward(
        self, raw: QKV, positions: Tensor, state: DecodeState | None, cos: Tensor, sin: Tensor
    ) -> QKV:
        """Rotated queries and keys, and values.

        Args:
            raw: queries `(B, H, T, D)`, keys and values `(B, G, T, D)`.
            positions: `(B, T)` inside the own document.
            state: what the layer carries from one decoding step to the next.
            cos: `(B or 1, T, R)`, R rotated channels, pairs half of R apart.
            sin: the same.
        """
        from headway.ops.fused_prologue import Learned, Surroundings, fused_prologue

        shift, query, value = self.shift, self.query, self.value
        key_taps = value_taps = key_before = value_before = None
        if shift is not None and self.shifts_key:
            key_taps = shift.key if self.free_taps else shift.taps("key")
            key_before = None if state is None else state.held("kv_shift.key", raw.k, 1)
        if shift is not None and self.shifts_value:
            value_taps = shift.value if self.free_taps else shift.taps("value")
            value_before = None if state is None else state.held("kv_shift.value", raw.v, 1)
        learned = Learned(
            key_taps,
            value_taps,
            None if query is None or not self.by_token else query.weight,
            None if query is None or not self.by_position else query.alpha,
            None if value is None or not self.by_token else value.weight,
            None if value is None or not self.by_position else value.alpha,
        )
        one = raw.q.shape[2] == 1 and not torch.is_grad_enabled()
        in_place = one and state is not None and state.static
        around = Surroundings(
            positions, cos, sin, key_before, value_before, self.slope_offset, in_place
        )
        if one and not is_compiling():
            out = QKV(*self._token_launch()(*raw, learned, around))
        else:
            out = QKV(*fused_prologue(*raw, learned, around))
        if state is not None and not in_place:
            if key_before is not None:
                state.keep("kv_shift.key", raw.k)
            if value_before is not None:
                state.keep("kv_shift.value", raw.v)
        return out

    def _token_launch(self) -> TokenLaunch:
        if self.launch is None:
            from headway.ops.token_launch import TokenLaunch

            self.launch = TokenLaunch()
        return self.launch


def _known(mechanism: Mechanism) -> bool:
    if isinstance(mechanism, KVShift):
        plain = (mechanism.window, mechanism.granularity) == (1, "head")
        return plain and "query" not in mechanism.targets
    if isinstance(mechanism, SelectiveAttention):
        simple = mechanism.token in ("shared", "none") and not mechanism.per_head
        return simple and not mechanism.key
    return False


def _temperature(module: SelectiveAttentionModule | None, target: str) -> Temperature | None:
    if module is None or target not in module.targets:
        return None
    return cast(Temperature, module.get_submodule(target))
