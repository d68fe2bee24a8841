"""Starting the kernels of the fused prologue: what they take, what they give, how they are cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from headway.ops.prologue_backward import backward_kernel
from headway.ops.prologue_kernels import forward_kernel

FORWARD_CHUNK, BACKWARD_CHUNK = 8, 16
"""Neighbouring tokens that a program takes."""


class Learned(NamedTuple):
    """What the pass learns, contiguous; None leaves a part out.

    Attributes:
        key_taps: `(G, 2)`, current and previous key.
        value_taps: `(G, 2)`.
        query_weight: `(H, D)`, token part of the query temperature.
        query_alpha: `(1,)`, its position part has the slope `sigmoid(alpha) - slope_offset`.
        value_weight: `(G, D)`.
        value_alpha: `(1,)`.
        query_norm: `(D,)`, gain of the QK-norm; both or none.
        key_norm: `(D,)`.
        mix: `(2, 1)` or `(2, G)`, weights of the own value and of the stream's.
    """

    key_taps: Tensor | None = None
    value_taps: Tensor | None = None
    query_weight: Tensor | None = None
    query_alpha: Tensor | None = None
    value_weight: Tensor | None = None
    value_alpha: Tensor | None = None
    query_norm: Tensor | None = None
    key_norm: Tensor | None = None
    mix: Tensor | None = None


class Surroundings(NamedTuple):
    """What the pass reads and does not learn.

    Attributes:
        positions: `(B, T)` inside the own document.
        cos: `(B or 1, T, R)`, R rotated channels of each head, the same for both of a pair.
        sin: the same.
        key_before: `(B, G, 1, D)`, what the shift read before the first row, or None for zeros.
        value_before: the same of values.
        source: `(B, G, T, D)`, the raw values of an earlier layer, which are added, or None.
    """

    positions: Tensor
    cos: Tensor
    sin: Tensor
    key_before: Tensor | None = None
    value_before: Tensor | None = None
    source: Tensor | None = None


class Numbers(NamedTuple):
    """What the pass is compiled for, beside which tensors there are.

    Attributes:
        groups: key-value heads.
        slope_offset: of both temperatures' slopes.
        eps: of the norm.
        stream: the source is added 1 before the shift, 2 after it.
        scale: of the own value and of the source, where no `mix` is learned.
        leaves: later layers add the raw values, whose gradient comes to the backward apart.
        replaces_rows: what the shift reads now takes the place of `key_before` and `value_before`,
            which the pass writes; for one new token without gradients only.
    """

    groups: int
    slope_offset: float = 0.0
    eps: float = 0.0
    stream: int = 1
    scale: float = 1.0
    leaves: bool = False
    replaces_rows: bool = False


class Shares:
    """Where each program leaves its sums of the learned numbers' gradients, one after another.

    Attributes:
        total: numbers a program.
    """

    def __init__(self, raw: Sequence[Tensor], learned: Learned) -> None:
        heads, groups, width = raw[0].shape[1], raw[1].shape[1], raw[0].shape[3]
        norm = learned.query_norm is not None
        sizes = {
            # No products with a bool: torch.compile(dynamic=True) makes symbols of these sizes.
            "query_weight": heads * width if learned.query_weight is not None else 0,
            "query_norm": heads * width if norm else 0,
            "value_weight": groups * width if learned.value_weight is not None else 0,
            "key_norm": groups * width if norm else 0,
            "key_taps": 2 * groups,
            "value_taps": 2 * groups,
            "mix": 2 * groups,
            "query_alpha": 1,
            "value_alpha": 1,
        }
        self.sizes, self.width, self.groups = sizes, width, groups
        self.total = sum(sizes.values())

    def gradients(self, sums: Tensor, learned: Learned) -> Learned:
        """Of what is learned, from the programs' sums `(total,)`, in float32."""
        named = dict(zip(self.sizes, sums.split(list(self.sizes.values())), strict=True))
        for name in ("query_norm", "key_norm"):
            named[name] = named[name].view(-1, self.width).sum(0)
        for name in ("key_taps", "value_taps"):
            named[name] = named[name].view(2, -1).T
        named["mix"] = named["mix"].view(2, self.groups)
        if learned.mix is not None and learned.mix.shape[1] == 1:
            named["mix"] = named["mix"].sum(1, keepdim=True)
        for name in ("query_alpha", "value_alpha"):
            alpha = getattr(learned, name)
            if alpha is not None:
                risen = alpha.float().sigmoid()
                named[name] = named[name] * risen * (1 - risen)
        return Learned(**named)


def launch_forward(
    raw: Sequence[Tensor],
    learned: Learned,
    around: Surroundings,
    numbers: Numbers,
    keep_tau: bool,
) -> tuple[Tensor, ...]:
    """The three, `(B, heads, T, D)`, and both temperatures."""
    q, k, v = parts(raw, numbers)
    batch, heads, length, width = q.shape
    results, tau = empty_results(raw, numbers), empty_taus(raw, numbers)
    chunk = min(FORWARD_CHUNK, length)
    grid = (batch * triton.cdiv(length, chunk), 3)
    tensors, free = forward_arguments((q, k, v), results, tau, learned, around)
    forward_kernel[grid](
        *tensors,
        *free,
        **choices((q, k, v), learned, around, numbers),
        CHUNK=chunk,
        KEEP_TAU=keep_tau,
        REPLACE_ROWS=numbers.replaces_rows,
        num_warps=warps(heads * width, length),
    )
    return *(x.transpose(1, 2) for x in results), tau


def forward_arguments(
    raw: Sequence[Tensor],
    results: Sequence[Tensor],
    tau: Tensor,
    learned: Learned,
    around: Surroundings,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Tensors and numbers that `forward_kernel` takes, in its order."""
    (q, k, v), positions = raw, around.positions
    tensors = (
        *(q, k, v, *results, tau),
        *[_or(p, q) for p in learned],
        *(positions, around.cos, around.sin),
        *(_or(around.key_before, k), _or(around.value_before, v), _or(around.source, v)),
    )
    free = (
        *(q.shape[0], q.shape[2]),
        *(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3]),
        *(results[0].stride(1), results[1].stride(1)),
        *positions.stride(),
        *(_row_stride(around.cos), around.cos.stride(1)),
        *_before_strides(around.key_before),
        *_before_strides(around.value_before),
        *(_or(around.source, v).stride()[:3]),
    )
    return tensors, free


def launch_backward(
    grads: Sequence[Tensor],
    raw: Sequence[Tensor],
    tau: Tensor,
    learned: Learned,
    around: Surroundings,
    numbers: Numbers,
    from_out: bool,
) -> list[Tensor]:
    q, k, v = parts(raw, numbers)
    batch, heads, length, width = q.shape
    grads = [x if x.stride(-1) == 1 else x.contiguous() for x in grads]
    leave = grads[3] if numbers.leaves else grads[2]
    blank = empty_gradients(raw, around)
    pieces = parts(blank[: len(raw)], numbers) if len(raw) == 1 else blank[:3]
    stored = pieces if len(raw) == 3 else [x.transpose(1, 2) for x in pieces]
    d_source = v if around.source is None else blank[-1]
    share = Shares((q, k), learned).total
    chunk = min(BACKWARD_CHUNK, length)
    programs = batch * triton.cdiv(length, chunk)
    shares = torch.empty(programs, share, dtype=torch.float32, device=q.device)
    backward_kernel[(programs, 3)](
        *(*grads[:3], leave, q, k, v, *stored, d_source, tau, shares),
        *[_or(p, q) for p in learned],
        *(around.positions, around.cos, around.sin),
        *(_or(around.key_before, k), _or(around.value_before, v), _or(around.source, v)),
        *(batch, length),
        *(s for x in (*grads[:3], leave, q, k, v) for s in x.stride()[:3]),
        *(stored[0].stride(1), stored[1].stride(1)),
        *around.positions.stride(),
        *(_row_stride(around.cos), around.cos.stride(1)),
        *_before_strides(around.key_before),
        *_before_strides(around.value_before),
        *(_or(around.source, v).stride()[:3]),
        **choices((q, k, v), learned, around, numbers),
        LEAVES=numbers.leaves,
        CHUNK=chunk,
        SHARE=share,
        FROM_OUT=from_out,
        # It holds more of a token at a time.
        num_warps=min(8, 2 * warps(heads * width, length)),
    )
    return [*blank, shares.sum(0)]


def parts(raw: Sequence[Tensor], numbers: Numbers) -> tuple[Tensor, Tensor, Tensor]:
    """Queries `(B, H, T, D)`, keys and values `(B, G, T, D)`, views of what is given."""
    if len(raw) == 3:
        return raw[0], raw[1], raw[2]
    groups, rows = numbers.groups, raw[0].transpose(1, 2)
    q, k, v = rows.split([rows.shape[1] - 2 * groups, groups, groups], dim=1)
    return q, k, v


def empty_results(raw: Sequence[Tensor], numbers: Numbers) -> list[Tensor]:
    """Empty, token by token, as a projection is stored. In pieces, as attention may keep queries
    but copies of keys and values, and as the compiler copies views of one piece to write them."""
    q, k, v = parts(raw, numbers)
    return [_stored_by_token(x) for x in (q, k, v)]


def empty_taus(raw: Sequence[Tensor], numbers: Numbers) -> Tensor:
    q, _, _ = parts(raw, numbers)
    return q.new_empty(2, q.shape[0], q.shape[2], dtype=torch.float32)


def empty_gradients(raw: Sequence[Tensor], around: Surroundings) -> list[Tensor]:
    """Empty gradients of `raw` in the form it has, and of the source."""
    made = [torch.empty_like(raw[0])] if len(raw) == 1 else [_stored_by_token(x) for x in raw]
    return made if around.source is None else [*made, _stored_by_token(around.source)]


def _stored_by_token(x: Tensor) -> Tensor:
    """An empty `(B, T, heads, D)` for `(B, heads, T, D)`."""
    batch, heads, length, width = x.shape
    return x.new_empty(batch, length, heads, width)


def choices(
    raw: Sequence[Tensor], learned: Learned, around: Surroundings, numbers: Numbers
) -> dict[str, Any]:
    """What both kernels are compiled for, in the order of their arguments."""
    q, k, _ = raw
    given = {name: p is not None for name, p in learned._asdict().items()}
    return {
        "HEADS": q.shape[1],
        "GROUPS": k.shape[1],
        "WIDTH": q.shape[3],
        "ROTATED": around.cos.shape[-1],
        "SHIFT_K": given["key_taps"],
        "SHIFT_V": given["value_taps"],
        "TOKEN_Q": given["query_weight"],
        "PLACE_Q": given["query_alpha"],
        "TOKEN_V": given["value_weight"],
        "PLACE_V": given["value_alpha"],
        "NORM": given["query_norm"],
        "EPS": numbers.eps,
        "STREAM": 0 if around.source is None else numbers.stream,
        "MIX": 0 if learned.mix is None else learned.mix.shape[1],
        "SCALE": numbers.scale,
        "HAS_BEFORE_K": around.key_before is not None,
        "HAS_BEFORE_V": around.value_before is not None,
        "OFFSET": numbers.slope_offset,
        "FAST": q.element_size() == 2,
    }


def warps(row: int, length: int) -> int:
    """For one program that reads a token's heads at once; more where few programs are started."""
    return (2 if row <= 1024 else 4 if row <= 2048 else 8) * (2 if length == 1 else 1)


def _before_strides(x: Tensor | None) -> tuple[int, int]:
    """Of a row that was kept: from one of the batch to the next, and from head to head."""
    return (0, 0) if x is None else (x.stride(0), x.stride(1))


def _row_stride(angles: Tensor) -> int:
    """From one of the batch to the next; zero where all share one row."""
    return 0 if angles.shape[0] == 1 else angles.stride(0)


def _or(x: Tensor | None, instead: Tensor) -> Tensor:
    return instead if x is None else x
