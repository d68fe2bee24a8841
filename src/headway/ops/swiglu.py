"""The second half of a gated feed-forward, of which only gate and up are kept for the backward."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from headway.ops.autocast import as_autocast

BLOCK = 1024
"""Numbers of a row that a program takes."""


def gated_linear(both: Tensor, weight: Tensor) -> Tensor:
    """`(silu(gate) * up) weight^T` (arXiv 2002.05202), with gate and up side by side.

    One kernel of the backward computes the product again, which the gradient of `weight` reads,
    and writes the gradient of `both` in one piece. Under autocast the matrix product is in its
    dtype, as that of a linear layer. It has no second derivative.

    Args:
        both: `(..., 2 F)`, on a GPU (or under Triton's interpreter), the gate first.
        weight: `(C, F)`.

    Returns:
        `(..., C)`.
    """
    out: Tensor = cast(Any, _GatedLinear).apply(*as_autocast(both, weight))
    return out


def reference_gated_linear(both: Tensor, weight: Tensor) -> Tensor:
    """What defines `gated_linear`."""
    return F.linear(_product(both), weight)


def _product(both: Tensor) -> Tensor:
    gate, up = both.chunk(2, dim=-1)
    return F.silu(gate) * up


class _GatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, both: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(both, weight)
        return F.linear(_product(both), weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        both, weight = ctx.saved_tensors
        d_both, product = _swiglu_backward(grad @ weight, both)
        frozen = not ctx.needs_input_grad[1]
        return d_both, None if frozen else grad.flatten(0, -2).T @ product.flatten(0, -2)


@torch.library.custom_op("headway::swiglu_backward", mutates_args=())
def _swiglu_backward(grad: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
    """Of the product `(..., F)`: from its gradient that of `both`, and the product itself."""
    import triton
    import triton.language as tl

    from headway.ops.swiglu_kernel import backward_kernel

    grad, both = grad.contiguous(), both.contiguous()
    d_both, product = torch.empty_like(both), torch.empty_like(grad)
    width = grad.shape[-1]
    block = min(BLOCK, triton.next_power_of_2(width))
    grid = (grad.numel() // width, triton.cdiv(width, block))
    wide = tl.float64 if both.dtype == torch.float64 else tl.float32
    backward_kernel[grid](both, grad, d_both, product, width, BLOCK=block, WIDE=wide)
    return d_both, product


@_swiglu_backward.register_fake
def _(grad: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
    return both.new_empty(both.shape), grad.new_empty(grad.shape)
