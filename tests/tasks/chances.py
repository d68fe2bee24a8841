"""Statistical checks with a stated false-alarm rate; seeds in the tests are fixed."""

from __future__ import annotations

import math

import torch
from scipy import stats
from torch import Tensor

ALARM = 1e-4
"""How often a right generator would fail one of these checks, over seeds."""


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def happens(events: Tensor, probability: float) -> None:
    """Independent bools of this probability."""
    hits, count = int(events.sum()), events.numel()
    p = stats.binomtest(hits, count, probability).pvalue
    assert p > ALARM, f"{hits} of {count}, expected {probability:.4f}: p = {p:.1e}"


def no_more_than(events: Tensor, probability: float) -> None:
    """Independent bools of at most this probability."""
    hits, count = int(events.sum()), events.numel()
    p = stats.binomtest(hits, count, probability, alternative="greater").pvalue
    assert p > ALARM, f"{hits} of {count}, expected at most {probability:.4f}: p = {p:.1e}"


def distributed(values: Tensor, probabilities: Tensor) -> None:
    """Independent numbers 0, 1, ... of these probabilities (chi-square)."""
    counts = torch.bincount(values.flatten(), minlength=len(probabilities)).double()
    assert len(counts) == len(probabilities), f"{len(counts) - 1} is out of range"
    expected = probabilities.double() / probabilities.double().sum() * counts.sum()
    assert expected.min() >= 5, "too few draws for a chi-square test"
    p = stats.chisquare(counts.numpy(), expected.numpy()).pvalue
    assert p > ALARM, f"p = {p:.1e}"


def uniform(values: Tensor, count: int) -> None:
    """Independent uniform numbers below `count`."""
    distributed(values, torch.ones(count))


def spread(values: Tensor, variance: float) -> None:
    """Independent N(0, variance): their sum of squares, and their mean."""
    n = values.numel()
    scaled = float(values.double().square().sum()) / variance
    p = 2 * min(stats.chi2.cdf(scaled, n), stats.chi2.sf(scaled, n))
    assert p > ALARM, f"variance {scaled / n * variance:.3g}, expected {variance:.3g}: p = {p:.1e}"
    z = float(values.double().mean()) / math.sqrt(variance / n)
    assert 2 * stats.norm.sf(abs(z)) > ALARM, f"mean is {z:.1f} standard errors from 0"


def mean_is(values: Tensor, expected: float) -> None:
    """Independent numbers of this mean, many of them."""
    values = values.double()
    z = float((values.mean() - expected) / (values.std() / math.sqrt(len(values))))
    assert 2 * stats.norm.sf(abs(z)) > ALARM, f"mean {values.mean():.4g}, expected {expected:.4g}"
