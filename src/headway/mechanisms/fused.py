"""Which lists of mechanisms one fused pass can carry, and handing them to it.

The pass is a Triton kernel (`headway.ops.fused_prologue`) that shifts, scales and rotates at once;
`AttentionMechanisms.prologue` followed by the rotation defines what it must give.
"""

import os
from importlib.util import find_spec
from typing import cast

from torch import Tensor

from headway.errors import HeadwayError
from headway.mechanisms.base import Mechanism, Place
from headway.mechanisms.compose import AttentionMechanisms
from headway.mechanisms.context import QKV, Context
from headway.mechanisms.kv_shift import KVShift, KVShiftModule
from headway.mechanisms.selective_attention import (
    SelectiveAttention,
    SelectiveAttentionModule,
    Temperature,
)

CHOICE = "HEADWAY_OPS"
"""Environment variable: 'triton' forces the kernels, 'reference' the plain functions."""


def fusible(mechanisms: list[Mechanism]) -> bool:
    """Whether the prologues of a list are ones that the fused pass knows."""
    prologues = [m for m in mechanisms if m.place < Place.OUTPUT]
    return bool(prologues) and all(_known(m) for m in prologues)


def takes_kernels(x: Tensor) -> bool:
    """Whether the fused pass runs here: on a GPU with Triton, unless the environment decides.

    Raises:
        HeadwayError: the environment forces what cannot run, or has a value of its own.
    """
    choice = os.environ.get(CHOICE, "auto")
    if choice not in ("auto", "triton", "reference"):
        raise HeadwayError(f"{CHOICE}: {choice!r} is not accepted; accepted are triton, reference")
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    possible = (x.is_cuda or interpreted) and find_spec("triton") is not None
    if choice == "triton" and not possible:
        raise HeadwayError(
            f"{CHOICE}: 'triton' cannot run on {x.device.type} here; accepted are reference, or a "
            "GPU with the package triton"
        )
    return possible and choice != "reference" and (x.is_cuda or choice == "triton")


def run_fused(
    mechanisms: AttentionMechanisms, raw: QKV, ctx: Context, cos: Tensor, sin: Tensor
) -> QKV:
    """What `prologue` and the rotation give, in one pass.

    Args:
        mechanisms: of a list that is `fusible`.
        raw: queries `(B, H, T, D)`, keys and values `(B, G, T, D)`.
        ctx: the layer's surroundings.
        cos: `(B or 1, T, R)`, R rotated channels, pairs half of R apart.
        sin: the same.
    """
    from headway.ops.fused_prologue import Learned, Surroundings, fused_prologue

    members = dict(mechanisms.members.items())
    shift = cast(KVShiftModule | None, members.get("kv_shift"))
    tempered = cast(SelectiveAttentionModule | None, members.get("selective_attention"))
    targets = () if shift is None else shift.spec.targets
    state = ctx.state
    before = {
        t: state.before(f"kv_shift.{t}", getattr(raw, t[0]), 1)
        for t in targets
        if state is not None
    }
    query, value = (_temperature(tempered, target) for target in ("query", "value"))
    out = fused_prologue(
        *raw,
        Learned(
            key_taps=shift.taps("key") if shift and "key" in targets else None,
            value_taps=shift.taps("value") if shift and "value" in targets else None,
            query_weight=_weight(query),
            query_alpha=_alpha(query),
            value_weight=_weight(value),
            value_alpha=_alpha(value),
        ),
        Surroundings(
            ctx.positions, cos, sin, before.get("key"), before.get("value"), _offset(query or value)
        ),
    )
    return QKV(*out)


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


def _weight(temperature: Temperature | None) -> Tensor | None:
    if temperature is None or temperature.spec.token == "none":
        return None
    return temperature.weight.flatten()


def _alpha(temperature: Temperature | None) -> Tensor | None:
    return None if temperature is None or not temperature.spec.position else temperature.alpha


def _offset(temperature: Temperature | None) -> float:
    return 0.0 if temperature is None else temperature.slope_offset
