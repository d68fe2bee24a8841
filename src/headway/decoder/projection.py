"""Several projections of the same vectors as one matrix product."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
    """The outputs of `linears` for `x`, side by side."""
    weights: list[Tensor] = [linear.weight for linear in linears]
    biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    return F.linear(x, torch.cat(weights), torch.cat(biases) if biases else None)
