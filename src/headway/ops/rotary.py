"""Rotary position encoding (arXiv 2104.09864), in transformers' half-split layout."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Rotary(NamedTuple):
    """Cosines and sines of one forward pass, each `(B, 1, T, D)`."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate `x`: `(B, H, T, D)`; computed in the dtype of `x`."""
        low, high = x.chunk(2, dim=-1)
        turned = torch.cat([-high, low], dim=-1)
        return x * self.cos.to(x.dtype) + turned * self.sin.to(x.dtype)


def rotary(positions: Tensor, width: int, theta: float, dtype: torch.dtype) -> Rotary:
    """Angles for `positions` `(B, T)` and head width `width` (even) with base `theta`.

    Angles are computed in float32 at least (float64 when `dtype` is), as float16 and bfloat16
    cannot count past a few hundred positions.
    """
    wide = dtype == torch.float64
    # Left to itself the compiler computes powers and sines again in every layer, forward and
    # backward, where they take longer than the attention's own memory traffic.
    once = torch.compiler.is_compiling() and positions.shape[-1] > 1
    cos, sin = (_angles_once if once else _angles)(positions, width, theta, wide)
    return Rotary(cos[:, None], sin[:, None])


def _angles(positions: Tensor, width: int, theta: float, wide: bool) -> tuple[Tensor, Tensor]:
    """Cosines and sines `(B, T, width)`."""
    working = torch.float64 if wide else torch.float32
    steps = torch.arange(0, width, 2, device=positions.device, dtype=working)
    frequencies = theta ** (-steps / width)
    angles = positions[..., None].to(working) * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


@torch.library.custom_op("headway::rotary_angles", mutates_args=())
def _angles_once(positions: Tensor, width: int, theta: float, wide: bool) -> tuple[Tensor, Tensor]:
    """`_angles` behind a door that the compiler does not open: its tables are kept."""
    return _angles(positions, width, theta, wide)


@_angles_once.register_fake
def _(positions: Tensor, width: int, theta: float, wide: bool) -> tuple[Tensor, Tensor]:
    shape, dtype = (*positions.shape, width), torch.float64 if wide else torch.float32
    return positions.new_empty(shape, dtype=dtype), positions.new_empty(shape, dtype=dtype)


@_angles_once.register_vmap
def _(
    info: Any, in_dims: Any, positions: Tensor, width: int, theta: float, wide: bool
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    found = _angles_once(positions.movedim(in_dims[0], 0), width, theta, wide)
    return found, (0, 0)
