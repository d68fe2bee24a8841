"""Which lists of mechanisms one fused pass can carry, and handing them to it.

The pass is a Triton kernel (`headway.ops.fused_prologue`) that shifts, scales and rotates at once;
`AttentionMechanisms.prologue` followed by the rotation defines what it must give.
"""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import cast

from torch import Tensor

from headway.errors import HeadwayError
from headway.mechanisms.base import Mechanism, Place
from headway.mechanisms.compose import AttentionMechanisms
from headway.mechanisms.context import QKV, Context
from headway.mechanisms.kv_shift import KVShift, KVShiftModule
from headway.mechanisms.selective_attention import (
    SLOPE_OFFSET,
    SelectiveAttention,
    SelectiveAttentionModule,
    Temperature,
)

CHOICE = "HEADWAY_OPS"
"""Environment variable: 'triton' forces the kernels, 'reference' the plain functions."""


_TRITON = find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def ops_choice() -> str:
    """'auto', 'triton' or 'reference', as the environment says.

    Raises:
        HeadwayError: it says something else.
    """
    choice = os.environ.get(CHOICE, "auto")
    if choice not in ("auto", "triton", "reference"):
        raise HeadwayError(f"{CHOICE}: {choice!r} is not accepted; accepted are triton, reference")
    return choice


def fusible(mechanisms: Sequence[Mechanism]) -> bool:
    """Whether the prologues of a list are ones that the fused pass knows."""
    prologues = [m for m in mechanisms if m.place < Place.OUTPUT]
    return bool(prologues) and all(_known(m) for m in prologues)


class FusedPrologue:
    """What `prologue` and the rotation give, in one pass, for one layer.

    Args:
        mechanisms: of a list that is `fusible`.
        choice: see `ops_choice`.
    """

    def __init__(self, mechanisms: AttentionMechanisms, choice: str) -> None:
        members = dict(mechanisms.members.items())
        self.choice = choice
        self.shift = cast(KVShiftModule | None, members.get("kv_shift"))
        tempered = cast(SelectiveAttentionModule | None, members.get("selective_attention"))
        self.query, self.value = (_temperature(tempered, t) for t in ("query", "value"))
        # Settled here once, as the pass runs for every layer of every token.
        targets: tuple[str, ...] = () if self.shift is None else self.shift.spec.targets
        self.shifts_key, self.shifts_value = "key" in targets, "value" in targets
        self.free_taps = self.shift is None or self.shift.spec.constraint == "none"
        spec = None if tempered is None else next(tempered.children()).spec
        self.by_token = isinstance(spec, SelectiveAttention) and spec.token == "shared"
        self.by_position = isinstance(spec, SelectiveAttention) and spec.position
        self.slope_offset = 0.0
        if isinstance(spec, SelectiveAttention) and spec.init == "identity":
            self.slope_offset = SLOPE_OFFSET

    def runs_on(self, x: Tensor) -> bool:
        """Whether it is taken: on a GPU with Triton, unless the environment decides.

        Raises:
            HeadwayError: the environment forces what cannot run.
        """
        if self.choice == "auto":
            return x.is_cuda and _TRITON
        if self.choice == "triton" and not (_TRITON and (x.is_cuda or _INTERPRETED)):
            raise HeadwayError(
                f"{CHOICE}: 'triton' cannot run on {x.device.type} here; accepted are reference, "
                "or a GPU with the package triton"
            )
        return self.choice == "triton"

    def __call__(self, raw: QKV, ctx: Context, cos: Tensor, sin: Tensor) -> QKV:
        """Rotated queries and keys, and values.

        Args:
            raw: queries `(B, H, T, D)`, keys and values `(B, G, T, D)`.
            ctx: the layer's surroundings.
            cos: `(B or 1, T, R)`, R rotated channels, pairs half of R apart.
            sin: the same.
        """
        from headway.ops.fused_prologue import Learned, Surroundings, fused_prologue

        state, shift = ctx.state, self.shift
        key_taps: Tensor | None = None
        value_taps: Tensor | None = None
        key_before = value_before = None
        if shift is not None and self.shifts_key:
            key_taps = shift.key if self.free_taps else shift.taps("key")
            key_before = None if state is None else state.held("kv_shift.key", raw.k, 1)
        if shift is not None and self.shifts_value:
            value_taps = shift.value if self.free_taps else shift.taps("value")
            value_before = None if state is None else state.held("kv_shift.value", raw.v, 1)
        learned = Learned(key_taps, value_taps, *self._of(self.query), *self._of(self.value))
        around = Surroundings(ctx.positions, cos, sin, key_before, value_before, self.slope_offset)
        out = QKV(*fused_prologue(*raw, learned, around))
        if key_before is not None and state is not None:
            state.keep("kv_shift.key", raw.k)
        if value_before is not None and state is not None:
            state.keep("kv_shift.value", raw.v)
        return out

    def _of(self, temperature: Temperature | None) -> tuple[Tensor | None, Tensor | None]:
        """Weights of the token part and alpha of the position part."""
        if temperature is None:
            return None, None
        weight = temperature.weight.flatten() if self.by_token else None
        return weight, temperature.alpha if self.by_position else None


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
