"""One pass from raw projections to what attention reads: stream, shift, norm, temperatures,
rotation.

The reference is the composition of the mechanisms' own operations and the rotation, see
`headway.mechanisms.fused`. Everything is computed in float32, row by row, and written once. Two
operators stand for it in PyTorch's library, `headway::prologue` and `headway::prologue_backward`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from headway.ops.prologue_launch import (
    Learned,
    Numbers,
    Shares,
    Surroundings,
    empty_gradients,
    empty_results,
    empty_taus,
    launch_backward,
    launch_forward,
    parts,
)


def fused_prologue(
    raw: Sequence[Tensor], learned: Learned, around: Surroundings, numbers: Numbers
) -> tuple[Tensor, ...]:
    """Add the stream, mix with the previous token's, scale queries and values, rotate.

    Args:
        raw: queries `(B, H, T, D)`, keys and values `(B, G, T, D)`, channels contiguous; or the
            three in one piece, `(B, T, H + 2 G, D)`, whose gradient then comes in one piece too.
        learned: parameters.
        around: positions, angles, earlier rows and values.
        numbers: options.

    Returns:
        The three, `(B, heads, T, D)` in the dtype they had, and where they are left the raw values:
        the same memory, but a gradient of its own, which the backward adds where it is at it.
    """
    if numbers.replaces_rows:
        return launch_forward(raw, learned, around, numbers, keep_tau=False)[:3]
    own = [x for x in (*learned, *around[3:]) if x is not None]
    given = tuple(x is not None for x in (*learned, *around[3:]))
    inside = (around.positions, around.cos, around.sin)
    found = torch.ops.headway.prologue(list(raw), own, *inside, _code(given, numbers))
    mixed = tuple(x.transpose(1, 2) for x in found[:3])
    if not numbers.leaves:
        return mixed
    values, path = parts(raw, numbers)[2].detach(), found[3].transpose(1, 2)
    return *mixed, cast(Any, _Handed).apply(values, path)


class _Handed(torch.autograd.Function):
    """Values whose gradient goes to another tensor, which holds none."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, path: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0]


@torch.library.custom_op("headway::prologue", mutates_args=())
def _prologue(
    raw: list[Tensor], own: list[Tensor], positions: Tensor, cos: Tensor, sin: Tensor, code: str
) -> list[Tensor]:
    """Results token by token, `(B, T, heads, D)`, where values are left a path for their gradient,
    and both temperatures `(2, B, T)`."""
    learned, around, numbers = _decoded(own, positions, cos, sin, code)
    *found, tau = launch_forward(raw, learned, around, numbers, keep_tau=True)
    return [*(x.transpose(1, 2) for x in found), *_path(raw, numbers), tau]


@_prologue.register_fake
def _(
    raw: list[Tensor], own: list[Tensor], positions: Tensor, cos: Tensor, sin: Tensor, code: str
) -> list[Tensor]:
    _, _, numbers = _decoded(own, positions, cos, sin, code)
    return [*empty_results(raw, numbers), *_path(raw, numbers), empty_taus(raw, numbers)]


def _path(raw: list[Tensor], numbers: Numbers) -> list[Tensor]:
    """One number in the shape `(B, T, G, D)` of values, where they are left: autograd hands back a
    gradient of this shape, and nothing is written or kept for it."""
    if not numbers.leaves:
        return []
    values = parts(raw, numbers)[2].transpose(1, 2)
    return [values.new_zeros(()).expand(values.shape)]


@torch.library.custom_op("headway::prologue_backward", mutates_args=())
def _prologue_backward(
    grads: list[Tensor],
    raw: list[Tensor],
    tau: Tensor,
    own: list[Tensor],
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    code: str,
    from_out: bool,
) -> list[Tensor]:
    """Gradients of `raw` in the form it has, of the source, and sums of `Shares`."""
    learned, around, numbers = _decoded(own, positions, cos, sin, code)
    return launch_backward(grads, raw, tau, learned, around, numbers, from_out)


@_prologue_backward.register_fake
def _(
    grads: list[Tensor],
    raw: list[Tensor],
    tau: Tensor,
    own: list[Tensor],
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    code: str,
    from_out: bool,
) -> list[Tensor]:
    learned, around, numbers = _decoded(own, positions, cos, sin, code)
    share = Shares(parts(raw, numbers), learned).total
    return [*empty_gradients(raw, around), tau.new_empty(share)]


def _saved(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    raw, own, positions, cos, sin, code = inputs
    learned, _, _ = _decoded(own, positions, cos, sin, code)
    # The scaled query, which attention keeps anyway, stands for a raw one that lies apart.
    ctx.from_out = len(raw) == 3 and learned.query_norm is None
    ctx.code, ctx.count = code, len(raw)
    kept = [output[0].transpose(1, 2), *raw[1:]] if ctx.from_out else raw
    ctx.save_for_backward(*kept, output[-1], positions, cos, sin, *own)


def _gradients(ctx: Any, grads: list[Tensor]) -> Any:
    kept, rest = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
    tau, positions, cos, sin, *own = rest
    learned, around, numbers = _decoded(own, positions, cos, sin, ctx.code)
    found = torch.ops.headway.prologue_backward(
        [x.transpose(1, 2) for x in grads[:-1]],
        list(kept),
        tau,
        own,
        positions,
        cos,
        sin,
        ctx.code,
        ctx.from_out,
    )
    pieces = found[: ctx.count]
    d_raw = [x.transpose(1, 2) for x in pieces] if ctx.count == 3 else list(pieces)
    sums = Shares(parts(kept, numbers), learned).gradients(found[-1], learned)
    d_own = [
        None if p is None or g is None else g.to(p.dtype).reshape(p.shape)
        for p, g in zip(learned, sums, strict=True)
    ]
    d_source = None if around.source is None else found[-2].transpose(1, 2)
    pairs = zip((*learned, *around[3:]), [*d_own, None, None, d_source], strict=True)
    return d_raw, [g for x, g in pairs if x is not None], None, None, None, None


def _copy_by_copy(operator: Any) -> Callable[..., Any]:
    """How an operator is mapped over copies: one launch a copy."""

    def mapped(info: Any, in_dims: Any, *given: Any) -> Any:
        def of(value: Any, dim: Any, number: int) -> Any:
            if isinstance(value, list):
                return [of(x, d, number) for x, d in zip(value, dim, strict=True)]
            return value if dim is None else value.select(dim, number)

        found = [
            operator(*(of(x, d, n) for x, d in zip(given, in_dims, strict=True)))
            for n in range(info.batch_size)
        ]
        stacked = [torch.stack(results) for results in zip(*found, strict=True)]
        return stacked, [0] * len(stacked)

    return mapped


_prologue.register_autograd(_gradients, setup_context=_saved)
for _operator in (_prologue, _prologue_backward):
    _operator.register_vmap(_copy_by_copy(_operator))


def _code(given: Sequence[bool], numbers: Numbers) -> str:
    """What an operator can be handed: which tensors there are, and the options."""
    return " ".join(str(x) for x in (*given, *numbers))


@cache
def _read(code: str) -> tuple[list[bool], Numbers]:
    words = code.split()
    count = len(words) - len(Numbers._fields)
    groups, offset, eps, stream, scale, leaves, replaces = words[count:]
    numbers = Numbers(
        int(groups),
        float(offset),
        float(eps),
        int(stream),
        float(scale),
        leaves == "True",
        replaces == "True",
    )
    return [word == "True" for word in words[:count]], numbers


def _decoded(
    own: list[Tensor], positions: Tensor, cos: Tensor, sin: Tensor, code: str
) -> tuple[Learned, Surroundings, Numbers]:
    given, numbers = _read(code)
    there = iter(own)
    named = [next(there) if x else None for x in given]
    count = len(Learned._fields)
    return Learned(*named[:count]), Surroundings(positions, cos, sin, *named[count:]), numbers
