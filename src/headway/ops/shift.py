"""Mixing a projection with the projections of previous tokens."""

import torch
from torch import Tensor


def mix_previous(x: Tensor, taps: Tensor, positions: Tensor, before: Tensor) -> Tensor:
    """Weighted sum of each row and the `W` rows before it in the same document.

    `y_t = taps_0 x_t + taps_1 x_{t-1} + ... + taps_W x_{t-W}`; a row before the first token of the
    document counts as zero (arXiv 2411.19574, section 2.2, with the reset at document starts).

    Args:
        x: `(B, G, T, D)`, a projection before rotation.
        taps: `(G, W + 1)` one weight a head, or `(G, D, W + 1)` one a channel; index 0 is the
            current token.
        positions: `(B, T)`, positions counted from the start of the own document.
        before: `(B, G, W, D)`, the rows that stand before `x` (zeros where there are none).

    Returns:
        `(B, G, T, D)` in the dtype of `x`.
    """
    window, length = taps.shape[-1] - 1, x.shape[-2]
    taps = taps.to(x.dtype)
    if taps.dim() == 2:
        taps = taps.unsqueeze(1)
    mixed = x * taps[..., 0].unsqueeze(1)
    rows = torch.cat([before, x], dim=-2)
    for distance in range(1, window + 1):
        earlier = rows[..., window - distance : window - distance + length, :]
        inside = (positions >= distance)[:, None, :, None]
        weighted = earlier * taps[..., distance].unsqueeze(1)
        mixed = mixed + torch.where(inside, weighted, torch.zeros_like(weighted))
    return mixed
