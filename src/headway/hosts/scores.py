"""Attention of a host with the log-sum-exp of its scores, which epilogues and shortcuts need."""

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from headway.decoder.observer import OBSERVED, observed_attention
from headway.errors import HeadwayError


def attend_with_lse(
    module: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Any,
    scaling: float,
    dropout: float = 0.0,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Attention by the host's own mask.

    Under 'sdpa', which gives no log-sum-exp, and 'eager' all scores are stored; 'flex_attention'
    gives it from its kernel.

    Args:
        module: the attention module; its configuration names the implementation.
        q: `(B, H, T, D)`.
        k: `(B, G, S, D)`.
        v: `(B, G, S, D)`.
        mask: additive or boolean `(B or 1, 1 or H, T, S or more)`, a block mask, or None: causal.
        scaling: factor on the scores.
        dropout: on the weights.
        softcap: `cap tanh(score / cap)` before the mask.

    Returns:
        Output `(B, H, T, D)`, log-sum-exp `(B, H, T)` in float32 or wider, and under 'eager' the
        weights `(B, H, T, S)`, as the family's own function gives them.

    Raises:
        HeadwayError: the implementation gives no log-sum-exp.
    """
    backend = module.config._attn_implementation
    if backend == "flex_attention" and q.is_cuda:
        flex: Any = ALL_ATTENTION_FUNCTIONS["flex_attention"]
        out, lse = flex(module, q, k, v, mask, scaling=scaling, softcap=softcap)
        return out.transpose(1, 2), lse, None
    if backend == OBSERVED:
        out, lse = observed_attention(module, q, k, v, mask, scaling, dropout, softcap)
        return out.transpose(1, 2), lse, None
    if backend not in ("eager", "sdpa"):
        raise HeadwayError(
            f"attn_implementation: {backend!r} gives no log-sum-exp here, which a mechanism needs; "
            "accepted are eager, sdpa, and flex_attention on a GPU"
        )
    out, lse, weights = eager_scores(q, k, v, mask, scaling, dropout, softcap, module.training)
    return out, lse, weights if backend == "eager" else None


def eager_scores(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    softcap: float | None = None,
    training: bool = False,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output `(B, H, T, D)`, log-sum-exp `(B, H, T)` and weights `(B, H, T, S)`.

    Args:
        bias: added to the scores before the mask (ALiBi).
    """
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    scores = (q @ k.transpose(-1, -2) * scaling).to(wide)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    if mask is None and q.shape[2] > 1:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        mask = mask[..., : k.shape[-2]]
        if mask.dtype == torch.bool:
            # The lowest finite number, as a row of padding sees nothing at all.
            scores = scores.masked_fill(~mask, torch.finfo(wide).min)
        else:
            scores = scores + mask
    lse = scores.logsumexp(dim=-1)
    weights = (scores - lse.unsqueeze(-1)).exp().to(v.dtype)
    weights = torch.nn.functional.dropout(weights, dropout, training)
    return weights @ v, lse, weights
