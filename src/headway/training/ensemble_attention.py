"""Attention of many copies at once.

PyTorch's fused attention has no backward pass that `vmap` can map: it is called once for each copy,
and a step of 32 copies launches 32 times as many kernels. Here copies are folded into the batch,
which attention treats row by row in any case; short sequences are two matrix products and a
softmax, which the compiler fuses with what stands around them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten
FUSED_LENGTH = 64
"""Shorter sequences are not worth a fused kernel."""


class FoldedAttention(TorchFunctionMode):
    """While entered, `scaled_dot_product_attention` can be mapped over copies at full speed."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        if _fusible(*args, **kwargs):
            q, k, v = (_lowered(t) for t in args)
            scale = kwargs.get("scale")
            scale = q.shape[-1] ** -0.5 if scale is None else scale
            return _Forward.apply(q, k, v, kwargs.get("is_causal", False), scale)[0]
        with sdpa_kernel(SDPBackend.MATH):
            return func(*args, **kwargs)


def _lowered(tensor: Tensor) -> Tensor:
    """In the dtype that autocast gives to attention."""
    kind = tensor.device.type
    if torch.is_autocast_enabled(kind):
        return tensor.to(torch.get_autocast_dtype(kind))
    return tensor


def _fusible(*tensors: Tensor, **kwargs: Any) -> bool:
    """Whether the kernels take it: no mask, no dropout, no grouped heads, whole vectors."""
    told = {name for name, value in kwargs.items() if value not in (None, False, 0.0)}
    if len(tensors) != 3 or not told <= {"is_causal", "scale"}:
        return False
    q, k, v = tensors
    whole = q.shape[-1] % 8 == 0 and q.shape[-1] == v.shape[-1]
    return whole and q.shape[-2] == k.shape[-2] >= FUSED_LENGTH and q.shape[:-1] == k.shape[:-1]


class _Forward(Function):
    """Output `(B, H, T, D)` and the kernel's log-sum-exp, from q, k, v `(B, H, T, D)`."""

    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        if q.is_cuda:
            found = aten._scaled_dot_product_efficient_attention(
                q, k, v, None, True, 0.0, causal, scale=scale
            )
        else:
            found = aten._scaled_dot_product_flash_attention_for_cpu(
                q, k, v, 0.0, causal, scale=scale
            )
        return found[0], found[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, ctx.causal, ctx.scale = inputs
        ctx.save_for_backward(q, k, v, *output)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        found = _Backward.apply(gradients[0], *ctx.saved_tensors, ctx.causal, ctx.scale)
        return *found, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        return _folded(_Forward.apply, info.batch_size, in_dims, inputs)


class _Backward(Function):
    """Gradients of q, k, v, from that of the output and what the forward pass left."""

    @staticmethod
    def forward(
        gradient: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if q.is_cuda:
            undrawn = torch.zeros((), dtype=torch.int64, device=q.device)  # nothing is dropped
            found = aten._scaled_dot_product_efficient_attention_backward(
                gradient, q, k, v, None, out, lse, undrawn, undrawn, 0.0,
                [True, True, True, False], causal, scale=scale,
            )  # fmt: skip
        else:
            found = aten._scaled_dot_product_flash_attention_for_cpu_backward(
                gradient, q, k, v, out, lse, 0.0, causal, scale=scale
            )
        return found[0], found[1], found[2]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        return _folded(_Backward.apply, info.batch_size, in_dims, inputs)


def _folded(
    apply: Callable[..., tuple[Tensor, ...]],
    copies: int,
    in_dims: tuple[int | None, ...],
    inputs: tuple[Any, ...],
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Call with tensors `(S * B, ...)`, and give `(S, B, ...)`."""
    flat = []
    for value, place in zip(inputs, in_dims, strict=True):
        if isinstance(value, Tensor):
            first = value.expand(copies, *value.shape) if place is None else value.movedim(place, 0)
            flat.append(first.flatten(0, 1))
        else:
            flat.append(value)
    found = tuple(t.unflatten(0, (copies, -1)) for t in apply(*flat))
    return found, (0,) * len(found)
