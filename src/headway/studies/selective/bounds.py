"""Bounds of arXiv 2411.12892 and, beside each, the least that is really needed.

What is needed is solved for exactly. Tensors are `(N,)`, float64, one entry an instance.
"""

from __future__ import annotations

import torch
from torch import Tensor


def least_norm_for_specificity(high: Tensor, low: Tensor, correlation: Tensor) -> Tensor:
    """Least ||W|| with which unit tokens a, b have specificity ||W'a|| >= high, ||W'b|| <= low.

    By duality its square is the maximum over m >= 0 of (high^2 - m low^2) / e(m), where e(m) is
    the positive eigenvalue of a a' - m b b'; it is taken on a grid that only comes too low.

    Args:
        high: L_a of Lemma 1.
        low: L_b, not above it.
        correlation: of a and b.
    """
    weight = torch.cat([torch.zeros(1), torch.logspace(-6, 6, 1_000)]).double()[:, None]
    eigenvalue = ((1 - weight) + ((1 - weight) ** 2 + 4 * weight * (1 - correlation**2)).sqrt()) / 2
    return ((high**2 - weight * low**2) / eigenvalue).amax(dim=0).clamp_min(0).sqrt()


def _rows(target: Tensor, error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least and largest logit of e1 over e2 in the first row, and least of e2 in the second,
    for attention within `error` of [[1 - target, target], [0, 1]]."""
    low = torch.log((1 - target - error) / (target + error))
    high = torch.log((1 - target + error) / (target - error))
    return low, high, torch.log((1 - error) / error)


def plain_norm(target: Tensor, error: Tensor, correlation: Tensor) -> Tensor:
    """Least ||W|| of plain attention in Proposition 1.

    Only w = W (e1 - e2) matters, and a W of rank one has no larger norm than it must. In the plane
    of e1 = (1, 0) and e2: the shortest w whose first row is right and whose second is sharp.
    """
    low, high, sharp = _rows(target, error)
    across = (1 - correlation**2).sqrt()
    first = torch.minimum(torch.maximum(-sharp * correlation, low), high)
    second = ((-sharp - correlation * first) / across).clamp_max(0)
    return torch.hypot(first, second) / apart(correlation)


def selective_norm(
    target: Tensor, error: Tensor, correlation: Tensor, signed: bool = False
) -> Tensor:
    """Least max over queries of |tau| ||W|| with a temperature tau for each query.

    Args:
        target, error, correlation: of Proposition 1.
        signed: temperatures may be negative; the operation's own are positive.
    """
    low, high, sharp = _rows(target, error)
    need = torch.maximum(torch.maximum(low, -high), torch.zeros_like(low))
    # w must point to -e2, and to e1 or -e1 as the first row is; between these two directions is
    # an angle of this cosine.
    cosine = correlation.abs() if signed else torch.where(low > 0, -correlation, correlation)
    both = ((sharp**2 + need**2 - 2 * sharp * need * cosine) / (1 - cosine**2)).sqrt()
    least = torch.where(need <= sharp * cosine, sharp, both)
    least = torch.where(sharp <= need * cosine, need, least)
    return torch.where(need > 0, least, sharp) / apart(correlation)


def plain_bound(target: Tensor, error: Tensor, correlation: Tensor) -> Tensor:
    """Proposition 1: plain attention needs at least this ||W||."""
    gap = torch.log((1 - target) / target).abs()
    reach = apart(correlation) * (2 - 2 * correlation**2).sqrt()
    return (torch.log(1 / (4 * error)) - gap) / reach


def selective_bound(target: Tensor, error: Tensor, correlation: Tensor) -> Tensor:
    """Proposition 1: selective attention needs at most this tau ||W||."""
    gap = torch.log((1 - target) / target).abs()
    first = gap / (1 - correlation**2).sqrt()
    return torch.maximum(torch.log(1 / error), first) / apart(correlation)


def apart(correlation: Tensor) -> Tensor:
    """||e1 - e2|| of unit tokens."""
    return (2 - 2 * correlation).sqrt()


def flat_loss(kappa_early: Tensor, kappa_late: Tensor) -> Tensor:
    """Least mean squared error of a's weight under one temperature, alpha = 1/2 (Proposition 2).

    Args:
        kappa_early: `(N, E)` majority over minority in the second quarter, between 1 and 2.
        kappa_late: `(N, E)` in the last quarter, from 4 on; the other two quarters cost nothing.
    """
    scale = torch.logspace(-4, 1, 501, dtype=torch.float64)[:, None, None]

    def quarter(kappa: Tensor) -> Tensor:
        return (1 / (1 + scale * kappa) - 0.5).square().mean(dim=-1) / 4

    return (quarter(kappa_early) + quarter(kappa_late)).amin(dim=0)


def sparsity(length: Tensor, salient: Tensor, rate: Tensor, advantage: Tensor) -> Tensor:
    """1 / (n x the weight of a salient key), of n keys whose logits are temperature rate log n
    times a score, in which the salient ones have an advantage."""
    logits = rate * length.log() * advantage
    mass = salient * logits.exp() + (length - salient)
    return mass / (length * logits.exp())
