"""Rotary position encoding (arXiv 2104.09864), in transformers' half-split layout."""

from typing import NamedTuple

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
    working = torch.float64 if dtype == torch.float64 else torch.float32
    steps = torch.arange(0, width, 2, device=positions.device, dtype=working)
    frequencies = theta ** (-steps / width)
    angles = positions[:, None, :, None].to(working) * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return Rotary(angles.cos(), angles.sin())
