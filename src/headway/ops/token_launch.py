"""The fused prologue of one new token, with as little Python around the kernel as can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from headway.ops.fused_prologue import (
    Learned,
    Surroundings,
    before_strides,
    choices,
    row_stride,
    warps,
)
from headway.ops.prologue_kernels import token_kernel


class TokenLaunch:
    """`fused_prologue` for one new token of each row, without gradients.

    Triton looks at every argument of a launch anew, which takes longer than the kernel. What it
    compiled is kept here and started again as long as types and sizes stay as they were; addresses
    and strides may change, as `token_kernel` assumes nothing about them.
    """

    def __init__(self) -> None:
        self.fits: tuple[Any, ...] = ()
        self.start: Callable[..., object] | None = None
        self.constants: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[type[TokenLaunch], tuple[()]]:
        # A copy, in this process or another, compiles anew.
        return TokenLaunch, ()

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, learned: Learned, around: Surroundings
    ) -> tuple[Tensor, ...]:
        """As `fused_prologue`, with `q` of shape `(B, H, 1, D)`, on the current device."""
        positions, cos, sin, key_before, value_before, offset, replaces = around
        batch, heads, _, width = q.shape
        groups = k.shape[1]
        rows = heads + 2 * groups
        results = q.new_empty(batch, rows, 1, width).split_with_sizes((heads, groups, groups), 1)
        tensors = (
            *(q, k, v, *results, q, q),
            *[q if p is None else p for p in learned],
            *(positions, cos, sin),
            k if key_before is None else key_before,
            v if value_before is None else value_before,
        )
        arguments = (
            *tensors,
            1,
            *q.stride()[:3],
            *k.stride()[:3],
            *v.stride()[:3],
            *(rows * width, rows * width),
            *positions.stride(),
            *(row_stride(cos), 0),
            *before_strides(key_before),
            *before_strides(value_before),
        )
        fits = (
            *(q.device, batch, heads, groups, width, cos.shape[-1], offset),
            *(key_before is None, value_before is None, replaces),
            *[p is None for p in learned],
            *[x.dtype for x in tensors],
        )
        if self.start is not None and self.fits == fits:
            self.start(*arguments, *self.constants)
        else:
            named = choices(heads, groups, width, learned, around)
            named |= {"KEEP_TAU": False, "REPLACE_ROWS": replaces}
            compiled = token_kernel[(batch,)](
                *arguments, **named, num_warps=warps(heads * width, 1)
            )
            # Triton's interpreter compiles nothing, and is asked again each time.
            self.start = None if compiled is None else compiled[(batch, 1, 1)]
            self.fits, self.constants = fits, tuple(named.values())
        return results
