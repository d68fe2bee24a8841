"""The depth read's kernels as operators of PyTorch: shapes, gradients and `vmap`.

`torch.library.custom_op` would do, were the gradient that it registers not one that `torch.func`
refuses (as of torch 2.13). Here the operator has a function of a single level of autograd, and
each of `torch.func`'s own levels takes it in turn.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction

from headway.errors import HeadwayError
from headway.ops.choice import CHOICE

STEP = 4
"""Kernels are compiled for a multiple of so many sources and read as many as there are."""

BLOCK = 1024
"""Channels that a program with a shared query reads at once, of as many tokens as that gives."""

CHANNELS_A_WARP = 512
"""Of such a program."""

HELD = 3 << 15
"""Bytes of a token's rows, padded, that a program with heads keeps in registers."""

_library = torch.library.Library("headway", "FRAGMENT")
_OPTIONS = "str normed, float eps, float scale, float gain"
_library.define(f"depth_read(Tensor query, Tensor[] sources, {_OPTIONS}) -> (Tensor, Tensor)")
_library.define(
    "depth_read_backward(Tensor grad, Tensor query, Tensor[] sources, Tensor out, Tensor lse, "
    f"{_OPTIONS}) -> (Tensor, Tensor[])"
)
depth_read_backward = torch.ops.headway.depth_read_backward
depth_read = torch.ops.headway.depth_read
"""`(query, sources, normed, eps, scale, gain) -> (out, log-sum-exp)`, see
`headway.ops.depth.depth_attention`. A query of all positions may also be `(*P, C)`, one for each
index `P` that the sources `(*P, ..., C)` begin with. The log-sum-exp has no gradient."""


def _has_heads(query: Tensor, source: Tensor) -> bool:
    return query.dim() > source.dim()


def _empty_results(query: Tensor, sources: list[Tensor]) -> tuple[Tensor, Tensor]:
    like, dtype = query, query.dtype
    if not _has_heads(query, sources[0]):
        like, dtype = sources[0], sources[0].dtype
        for x in sources:
            dtype = torch.promote_types(dtype, x.dtype)
    out = like.new_empty(like.shape, dtype=dtype)
    return out, like.new_empty(like.shape[:-1], dtype=torch.float32)


def _forward(
    query: Tensor, sources: list[Tensor], normed: str, eps: float, scale: float, gain: float
) -> tuple[Tensor, Tensor]:
    from headway.ops.depth_kernels import heads_forward_kernel, shared_forward_kernel

    query, sources = query.contiguous(), [x.contiguous() for x in sources]
    out, lse = _empty_results(query, sources)
    factors = (scale, eps, gain)
    with torch.cuda.device_of(query):
        if _has_heads(query, sources[0]):
            tokens, options = _heads_launch(query, sources, normed)
            heads_forward_kernel[(tokens,)](
                query, _padded(sources), out, lse, len(sources), tokens, *factors, **options
            )
        else:
            grid, share, options = _shared_launch(query, sources, normed)
            shared_forward_kernel[grid](
                query, _padded(sources), out, lse, len(sources), share, *factors, **options
            )
    return out, lse


def _backward(
    grad: Tensor,
    query: Tensor,
    sources: list[Tensor],
    out: Tensor,
    lse: Tensor,
    normed: str,
    eps: float,
    scale: float,
    gain: float,
) -> tuple[Tensor, list[Tensor]]:
    from headway.ops.depth_kernels import heads_backward_kernel, shared_backward_kernel

    grad, query, out, lse = (x.contiguous() for x in (grad, query, out, lse))
    sources = [x.contiguous() for x in sources]
    by_sources = [torch.empty_like(x) for x in sources]
    count, factors = len(sources), (scale, eps, gain)
    with torch.cuda.device_of(query):
        if _has_heads(query, sources[0]):
            by_query = torch.empty_like(query)
            tokens, options = _heads_launch(query, sources, normed)
            heads_backward_kernel[(tokens,)](
                *(grad, query, _padded(sources), lse, by_query, _padded(by_sources)),
                *(count, tokens, *factors),
                **options,
            )
            return by_query, by_sources
        grid, share, options = _shared_launch(query, sources, normed)
        parts = query.new_empty(grid[1], grid[0], query.shape[-1], dtype=torch.float32)
        shared_backward_kernel[grid](
            *(grad, query, _padded(sources), out, lse, parts, _padded(by_sources)),
            *(count, share, *factors),
            **options,
        )
    return parts.sum(1).view(query.shape).to(query.dtype), by_sources


def _padded(tensors: list[Tensor]) -> tuple[Tensor, ...]:
    return (*tensors, *[tensors[-1]] * (-len(tensors) % STEP))


def _shared_launch(
    query: Tensor, sources: list[Tensor], normed: str
) -> tuple[tuple[int, int], int, dict[str, Any]]:
    """Programs, tokens that share a query, and what the kernels are compiled for."""
    channels = query.shape[-1]
    queries = query.numel() // channels
    share = sources[0].numel() // channels // queries
    block = _power_of_two(channels)
    tokens = max(1, BLOCK // block)
    options = _options(sources, channels, normed) | {"BLOCK_T": tokens, "BLOCK_C": block}
    warps = min(8, max(1, tokens * block // CHANNELS_A_WARP))
    return (-(-share // tokens), queries), share, options | {"num_warps": warps}


def _heads_launch(query: Tensor, sources: list[Tensor], normed: str) -> tuple[int, dict[str, Any]]:
    """Tokens, one a program, and what the kernels are compiled for."""
    heads, channels = query.shape[0], query.shape[-1]
    tall, wide = max(16, _power_of_two(heads)), max(16, _power_of_two(len(sources)))
    # Three products in TF32 are as exact as one in float32, and take more registers.
    exact = query.dtype == torch.float32
    largest = 64 if exact else 256 if tall == 16 else 128
    block = min(_power_of_two(max(16, channels)), largest)
    row = -(-channels // block) * block * query.element_size()
    held = not exact and (2 * tall + wide) * row <= HELD
    return query[0].numel() // channels, _options(sources, channels, normed) | {
        "HEADS": heads,
        "BLOCK_H": tall,
        "BLOCK_N": wide,
        "BLOCK_C": block,
        "HOLD": held,
        "ALIGNED": all(x.data_ptr() % 16 == 0 for x in sources),
        "PRECISION": "tf32x3" if exact else "tf32",
        "num_warps": 8 if exact or tall > 16 else 4,
        "num_stages": 2,
    }


def _options(sources: list[Tensor], channels: int, normed: str) -> dict[str, Any]:
    return {
        "SLOTS": len(_padded(sources)),
        "CHANNELS": channels,
        "NORM_KEYS": normed != "none",
        "NORM_VALUES": normed == "both",
    }


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _fake_backward(
    grad: Tensor, query: Tensor, sources: list[Tensor], *_: Any
) -> tuple[Tensor, list[Tensor]]:
    # As `contiguous` leaves them: the kernels know no other layout.
    return query.new_empty(query.shape), [x.new_empty(x.shape) for x in sources]


def _fake_forward(query: Tensor, sources: list[Tensor], *_: Any) -> tuple[Tensor, Tensor]:
    return _empty_results(query, sources)


class _DepthRead(_SingleLevelFunction):
    """Takes `(options, query, *sources)`, as autograd looks into no list."""

    @staticmethod
    def forward(options: tuple[Any, ...], query: Tensor, *sources: Tensor) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return depth_read(query, list(sources), *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.options, query, *sources = inputs
        out, lse = output
        ctx.mark_non_differentiable(lse)
        ctx.save_for_backward(out, lse, query, *sources)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Any:
        out, lse, query, *sources = ctx.saved_tensors
        tensors = (grad, query, sources, out, lse)
        by_query, by_sources = depth_read_backward(*tensors, *ctx.options)
        return None, by_query, *by_sources


class _FirstOrderOnly(_SingleLevelFunction):
    """The backward, which has none: else a second derivative would be zero without a word."""

    @staticmethod
    def forward(options: tuple[Any, ...], *tensors: Tensor) -> Any:
        grad, query, out, lse, *sources = tensors
        with torch._C._AutoDispatchBelowAutograd():
            by_query, by_sources = depth_read_backward(grad, query, sources, out, lse, *options)
        return by_query, *by_sources

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise HeadwayError(
            f"{CHOICE}: 'triton' has no second derivative of the depth read; accepted is reference"
        )


def _with_gradients(query: Tensor, sources: list[Tensor], *options: Any) -> Any:
    with enable_single_level_autograd_function():
        return cast(Any, _DepthRead).apply(options, query, *sources)


def _without_second(
    grad: Tensor, query: Tensor, sources: list[Tensor], out: Tensor, lse: Tensor, *options: Any
) -> tuple[Tensor, list[Tensor]]:
    with enable_single_level_autograd_function():
        tensors = (grad, query, out, lse, *sources)
        by_query, *by_sources = cast(Any, _FirstOrderOnly).apply(options, *tensors)
    return by_query, by_sources


def _batched(info: Any, x: Tensor, dim: int | None, at: int = 0) -> Tensor:
    """`x` with the dimension that `vmap` hides at `at`."""
    if dim is None:
        return x.unsqueeze(at).expand(*x.shape[:at], info.batch_size, *x.shape[at:])
    return x.movedim(dim, at)


def _vmap_forward(
    info: Any, dims: Any, query: Tensor, sources: list[Tensor], *options: Any
) -> tuple[Any, Any]:
    at = _place_of_batch(query, dims[0], sources[0], dims[1][0])
    query = _batched(info, query, dims[0], at)
    sources = [_batched(info, x, d) for x, d in zip(sources, dims[1], strict=True)]
    return depth_read(query, sources, *options), (at, at)


def _vmap_backward(
    info: Any,
    dims: Any,
    grad: Tensor,
    query: Tensor,
    sources: list[Tensor],
    out: Tensor,
    lse: Tensor,
    *options: Any,
) -> tuple[Any, Any]:
    at = _place_of_batch(query, dims[1], sources[0], dims[2][0])
    own = zip((grad, query, out, lse), (dims[0], dims[1], dims[3], dims[4]), strict=True)
    grad, query, out, lse = (_batched(info, x, d, at) for x, d in own)
    sources = [_batched(info, x, d) for x, d in zip(sources, dims[2], strict=True)]
    found = depth_read_backward(grad, query, sources, out, lse, *options)
    return found, (at, [0] * len(sources))


def _place_of_batch(query: Tensor, dim: int | None, source: Tensor, source_dim: int | None) -> int:
    """After the heads, where there are any: a batch of rows is more rows."""
    own = query.dim() - (dim is not None)
    return int(own > source.dim() - (source_dim is not None))


_library.impl("depth_read", _forward, "CompositeExplicitAutograd")
_library.impl("depth_read_backward", _backward, "CompositeExplicitAutograd")
_library.impl("depth_read", _with_gradients, "Autograd")
_library.impl("depth_read_backward", _without_second, "Autograd")
torch.library.register_fake("headway::depth_read", _fake_forward, lib=_library)
torch.library.register_fake("headway::depth_read_backward", _fake_backward, lib=_library)
torch.library.register_vmap("headway::depth_read", _vmap_forward, lib=_library)
torch.library.register_vmap("headway::depth_read_backward", _vmap_backward, lib=_library)
