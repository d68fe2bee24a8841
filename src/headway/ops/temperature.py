"""Learned temperatures of queries, keys and values (arXiv 2411.12892, definition 1)."""

import torch
from torch import Tensor


def position_temperature(positions: Tensor, slope: Tensor) -> Tensor:
    """`1 + slope * ln(n)`, n the 1-based position in the own document = number of visible keys.

    Args:
        positions: `(B, T)`, 0-based.
        slope: scalar, or `(H,)`.

    Returns:
        `(B, H or 1, T)`.
    """
    counts = (positions + 1).to(slope.dtype).log()
    return 1 + slope.reshape(-1, 1) * counts[:, None, :]


def token_temperature(features: Tensor, weights: Tensor) -> Tensor:
    """`tanh(weights . gelu(features))`, in (-1, 1).

    Args:
        features: `(B, H, T, D)`.
        weights: `(H, D)`.

    Returns:
        `(B, H, T)`, one temperature a head and token.
    """
    return token_score(features, weights).tanh()


def token_score(features: Tensor, weights: Tensor) -> Tensor:
    """What `token_temperature` takes the tanh of, `(B, H, T)`."""
    gelu = torch.nn.functional.gelu(features)
    return torch.einsum("bhtd,hd->bht", gelu, weights.to(features.dtype))
