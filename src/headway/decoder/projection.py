"""Several projections of the same vectors as one matrix product."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headway.decoder.recompute import transformed
from headway.ops.autocast import as_autocast


def in_one_piece(linears: Sequence[nn.Linear], x: Tensor) -> Tensor | None:
    """What `linears` give of `x`, side by side in the last dimension, or None.

    One product over many tokens is faster than several, and so is its backward, which adds up the
    gradients of `x` inside. It is done while a model is trained on a GPU, as long as these are
    plain layers that nobody listens to: not where an adapter stands in for one, or a hook does.
    """
    if x.is_cuda and torch.is_grad_enabled() and mergeable(linears):
        return merged(linears, x)
    return None


def mergeable(linears: Sequence[nn.Linear]) -> bool:
    """Whether nothing but their own product happens in these layers; with biases all or none."""
    plain = all(untouched(linear) for linear in linears)
    return plain and len({linear.bias is None for linear in linears}) == 1


def untouched(module: nn.Module) -> bool:
    """Whether it is a linear layer as it was built: no adapter, no hook, no other forward."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return type(module) is nn.Linear and not any(hooks) and "forward" not in vars(module)


def merged(linears: Sequence[nn.Linear], x: Tensor) -> Tensor:
    """The outputs of `linears` for `x`, side by side.

    For the backward only the matrices themselves are kept, not what they are put together to: a
    model that is sharded, or as large as its GPU, has no room for a second copy.
    """
    weights: list[Tensor] = [linear.weight for linear in linears]
    biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    if transformed():
        return F.linear(x, torch.cat(weights), torch.cat(biases) if biases else None)
    x, *weights = as_autocast(x, *weights)
    bias = torch.cat(as_autocast(*biases)) if biases else None
    out: Tensor = cast(Any, _Merged).apply(x, bias, *weights)
    return out


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, *weights)
        return F.linear(x, torch.cat(weights), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, *weights) = grads, ctx.saved_tensors
        by_x, by_bias, *by_weights = ctx.needs_input_grad
        d_x = grad @ torch.cat(weights) if by_x else None
        rows = grad.flatten(0, -2)
        d_bias = rows.sum(0) if by_bias else None
        d_weights: Sequence[Tensor | None] = [None] * len(weights)
        if any(by_weights):
            d_weights = (rows.T @ x.flatten(0, -2)).split([len(weight) for weight in weights])
        return d_x, d_bias, *d_weights
