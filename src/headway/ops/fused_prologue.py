"""One pass from raw projections to what attention reads: shift, temperatures, rotation.

The reference is the composition of `ops.shift`, `ops.temperature` and the rotation, see
`headway.mechanisms.fused`. Everything is computed in float32, row by row, and written once.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import triton
from torch import Tensor

from headway.ops.prologue_kernels import backward_kernel, forward_kernel

PROGRAMS = 512
"""Programs of the backward; each adds up its own share of the learned numbers' gradients."""


class Learned(NamedTuple):
    """What the pass learns, contiguous; None leaves a part out.

    Attributes:
        key_taps: `(G, 2)`, current and previous key.
        value_taps: `(G, 2)`.
        query_weight: `(H, D)`, token part of the query temperature.
        query_alpha: `(1,)`, its position part has the slope `sigmoid(alpha) - slope_offset`.
        value_weight: `(G, D)`.
        value_alpha: `(1,)`.
    """

    key_taps: Tensor | None = None
    value_taps: Tensor | None = None
    query_weight: Tensor | None = None
    query_alpha: Tensor | None = None
    value_weight: Tensor | None = None
    value_alpha: Tensor | None = None


class Surroundings(NamedTuple):
    """What the pass reads and does not learn.

    Attributes:
        positions: `(B, T)` inside the own document.
        cos: `(B or 1, T, R)`, R rotated channels of each head.
        sin: the same.
        key_before: `(B, G, 1, D)`, the raw keys before the first row, or None for zeros.
        value_before: the same of values.
        slope_offset: of both temperatures' slopes.
        replaces_rows: the raw rows of now take the place of `key_before` and `value_before`, which
            the pass writes; for one new token without gradients only.
    """

    positions: Tensor
    cos: Tensor
    sin: Tensor
    key_before: Tensor | None = None
    value_before: Tensor | None = None
    slope_offset: float = 0.0
    replaces_rows: bool = False


def fused_prologue(
    q: Tensor, k: Tensor, v: Tensor, learned: Learned, around: Surroundings
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix keys and values with the previous token's, scale queries and values, rotate.

    Args:
        q: raw, `(B, H, T, D)`, channels contiguous.
        k: raw, `(B, G, T, D)`.
        v: raw, `(B, G, T, D)`.
        learned: parameters.
        around: positions, angles, earlier rows.

    Returns:
        The three in the same shapes and dtype.
    """
    if torch.is_grad_enabled():
        out: tuple[Tensor, Tensor, Tensor] = cast(Any, _Prologue).apply(q, k, v, around, *learned)
        return out
    return _forward(q, k, v, learned, around, keep_tau=False)[:3]


class _Prologue(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, around: Surroundings, *own: Any) -> Any:
        learned = Learned(*own)
        *out, query_tau, value_tau = _forward(q, k, v, learned, around, keep_tau=True)
        ctx.slope_offset = around.slope_offset
        # The scaled query, which attention keeps anyway, stands for the raw one.
        ctx.save_for_backward(out[0], k, v, query_tau, value_tau, *around[:5], *own)
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        q_out, k, v, query_tau, value_tau, *rest = ctx.saved_tensors
        positions, cos, sin, key_before, value_before, *own = rest
        around = Surroundings(positions, cos, sin, key_before, value_before, ctx.slope_offset)
        learned = Learned(*own)
        return _backward(grads, q_out, k, v, (query_tau, value_tau), learned, around)


def _forward(
    q: Tensor, k: Tensor, v: Tensor, learned: Learned, around: Surroundings, keep_tau: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The three and, if kept, both temperatures `(B, T)`."""
    batch, heads, length, width = q.shape
    groups = k.shape[1]
    # Token by token, as a projection is stored. In three pieces, as attention may keep queries
    # but copies of keys and values, and as the compiler copies views of one piece to write them.
    results = [q.new_empty(batch, length, count, width) for count in (heads, groups, groups)]
    taus = [q, q]
    if keep_tau:
        taus = list(q.new_empty(2, batch, length, dtype=torch.float32))
    forward_kernel[(batch * length,)](
        q,
        k,
        v,
        *results,
        *taus,
        *_pointers(learned, q),
        around.positions,
        around.cos,
        around.sin,
        _or(around.key_before, k),
        _or(around.value_before, v),
        length,
        *_strides(q),
        *_strides(k),
        *_strides(v),
        results[0].stride(1),
        results[1].stride(1),
        *around.positions.stride(),
        row_stride(around.cos),
        around.cos.stride(1),
        *before_strides(around.key_before),
        *before_strides(around.value_before),
        **choices(heads, groups, width, learned, around),
        KEEP_TAU=keep_tau,
        REPLACE_ROWS=around.replaces_rows,
        num_warps=warps(heads * width, length),
    )
    q_out, k_out, v_out = (x.transpose(1, 2) for x in results)
    return q_out, k_out, v_out, taus[0], taus[1]


def _backward(
    grads: Any,
    q_out: Tensor,
    k: Tensor,
    v: Tensor,
    taus: tuple[Tensor, Tensor],
    learned: Learned,
    around: Surroundings,
) -> tuple[Any, ...]:
    batch, heads, length, width = q_out.shape
    groups, tokens = k.shape[1], batch * length
    grads = [x if x.stride(-1) == 1 else x.contiguous() for x in grads]
    dq, dk, dv = (_rows_of_tokens(x) for x in (q_out, k, v))
    programs = min(tokens, PROGRAMS)
    blank: dict[str, Any] = {"dtype": torch.float32, "device": q_out.device}
    query_shares = torch.zeros(programs, heads * width, **blank)
    value_shares = torch.zeros(programs, 5, groups * width, **blank)
    slope_shares = torch.zeros(programs, 2, **blank)
    backward_kernel[(programs,)](
        *grads,
        q_out,
        k,
        v,
        dq,
        dk,
        dv,
        *taus,
        query_shares,
        value_shares,
        slope_shares,
        *_pointers(learned, q_out),
        around.positions,
        around.cos,
        around.sin,
        _or(around.key_before, k),
        _or(around.value_before, v),
        tokens,
        length,
        *_strides(grads[0]),
        *_strides(grads[1]),
        *_strides(grads[2]),
        *_strides(k),
        *_strides(v),
        *around.positions.stride(),
        row_stride(around.cos),
        around.cos.stride(1),
        *before_strides(around.key_before),
        *before_strides(around.value_before),
        PROGRAMS=programs,
        **choices(heads, groups, width, learned, around),
        num_warps=warps(heads * width, length),
    )
    shares = value_shares.sum(0).unflatten(-1, (groups, width))
    taps, slopes = shares[:4].sum(-1), slope_shares.sum(0)
    found = Learned(
        key_taps=taps[:2].T,
        value_taps=taps[2:].T,
        query_weight=query_shares.sum(0),
        query_alpha=_through_sigmoid(slopes[:1], learned.query_alpha),
        value_weight=shares[4].flatten(),
        value_alpha=_through_sigmoid(slopes[1:], learned.value_alpha),
    )
    pairs = zip(found, learned, strict=True)
    own = [None if p is None or g is None else g.to(p.dtype).view_as(p) for g, p in pairs]
    return dq, dk, dv, None, *own


def _through_sigmoid(grad: Tensor, alpha: Tensor | None) -> Tensor:
    if alpha is None:
        return grad
    risen = alpha.float().sigmoid()
    return grad * risen * (1 - risen)


def _rows_of_tokens(x: Tensor) -> Tensor:
    """An empty `(B, heads, T, D)`, stored token by token as a projection is."""
    batch, heads, length, width = x.shape
    return torch.empty(batch, length, heads, width, dtype=x.dtype, device=x.device).transpose(1, 2)


def _strides(x: Tensor) -> tuple[int, int, int]:
    return x.stride(0), x.stride(1), x.stride(2)


def before_strides(x: Tensor | None) -> tuple[int, int]:
    """Of a row that was kept: from one of the batch to the next, and from head to head."""
    return (0, 0) if x is None else (x.stride(0), x.stride(1))


def row_stride(angles: Tensor) -> int:
    """From one of the batch to the next; zero where all share one row."""
    return 0 if angles.shape[0] == 1 else angles.stride(0)


def _or(x: Tensor | None, instead: Tensor) -> Tensor:
    return instead if x is None else x


def _pointers(learned: Learned, instead: Tensor) -> list[Tensor]:
    return [_or(p, instead) for p in learned]


def choices(
    heads: int, groups: int, width: int, learned: Learned, around: Surroundings
) -> dict[str, Any]:
    """What both kernels are compiled for, in the order of their arguments."""
    names = ("SHIFT_K", "SHIFT_V", "TOKEN_Q", "PLACE_Q", "TOKEN_V", "PLACE_V")
    present = {name: p is not None for name, p in zip(names, learned, strict=True)}
    return {
        "HEADS": heads,
        "GROUPS": groups,
        "WIDTH": width,
        "ROTATED": around.cos.shape[-1],
        "BLOCK_Q": triton.next_power_of_2(heads * width),
        "BLOCK_K": triton.next_power_of_2(groups * width),
        **present,
        "HAS_BEFORE_K": around.key_before is not None,
        "HAS_BEFORE_V": around.value_before is not None,
        "OFFSET": around.slope_offset,
    }


def warps(row: int, length: int) -> int:
    """For one program that reads a token's heads at once; more where few programs are started."""
    return (4 if row <= 2048 else 8) * (2 if length == 1 else 1)
