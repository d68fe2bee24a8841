"""The fused prologue of one new token, with as little Python around the kernel as can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from headway.ops.prologue_kernels import token_kernel
from headway.ops.prologue_launch import (
    Learned,
    Numbers,
    Surroundings,
    choices,
    forward_arguments,
    warps,
)


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
        self, raw: Sequence[Tensor], learned: Learned, around: Surroundings, numbers: Numbers
    ) -> tuple[Tensor, ...]:
        """As `fused_prologue`, with three of `(B, heads, 1, D)`, on the current device."""
        q, k, _ = raw
        batch, heads, _, width = q.shape
        groups = k.shape[1]
        counts = (heads, groups, groups)
        results = q.new_empty(batch, 1, sum(counts), width).split_with_sizes(counts, 2)
        tensors, free = forward_arguments(raw, results, q, learned, around)
        fits = (
            *(q.device, batch, heads, groups, width, around.cos.shape[-1], numbers),
            *[x is None for x in (*learned, *around)],
            *[x.dtype for x in tensors],
        )
        if self.start is not None and self.fits == fits:
            self.start(*tensors, *free, *self.constants)
        else:
            named = choices(raw, learned, around, numbers)
            named |= {"CHUNK": 1, "KEEP_TAU": False, "REPLACE_ROWS": numbers.replaces_rows}
            compiled = token_kernel[(batch, 3)](
                *tensors, *free, **named, num_warps=warps(heads * width, 1)
            )
            # Triton's interpreter compiles nothing, and is asked again each time.
            self.start = None if compiled is None else compiled[(batch, 3, 1)]
            self.fits, self.constants = fits, tuple(named.values())
        return tuple(x.transpose(1, 2) for x in results)
