"""Reading the outputs of earlier layers at the same position."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_sum(sources: Sequence[Tensor], weights: Tensor) -> Tensor:
    """`sum_i weights_i sources_i`.

    Args:
        sources: N tensors `(..., C)`; they are not stacked.
        weights: `(N,)` static weights, or `(..., N)` one set a position.
    """
    total = sources[0] * weights[..., :1]
    for i, source in enumerate(sources[1:], start=1):
        total = total + source * weights[..., i : i + 1]
    return total


def pseudo_query_weights(sources: Sequence[Tensor], query: Tensor, eps: float) -> Tensor:
    """Softmax over sources of `query . RMSNorm(source)` (arXiv 2603.15031).

    Args:
        sources: N tensors `(..., C)`.
        query: `(C,)`, learned per reading site.
        eps: of the norm.

    Returns:
        `(..., N)`, in the dtype of the sources.
    """
    logits = [(F.rms_norm(s, s.shape[-1:], eps=eps) * query).sum(-1) for s in sources]
    return torch.stack(logits, dim=-1).softmax(dim=-1)
