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


def independent(one: Tensor, other: Tensor, checks: int = 1) -> None:
    """Numbers 0, 1, ... of rows, `(B,)` each, that tell nothing of each other (chi-square); one of
    so many checks of a test, which share its rate of false alarms."""
    table = _counts(one, other)
    table = table[table.any(1)][:, table.any(0)]
    found = stats.chi2_contingency(table.numpy(), correction=False)
    assert found.expected_freq.min() >= 5, "too few draws for a chi-square test"
    assert found.pvalue > ALARM / checks, f"p = {found.pvalue:.1e}"


def table_guess(seen: Tensor, answers: Tensor, asked: Tensor) -> Tensor:
    """`(B',)`: the answers of a table that knows which one went most often with each id at a place,
    the place whose table is most often right on the rows that it is made of.

    Args:
        seen, asked: ids `(B, T)` and `(B', T)`.
        answers: `(B,)`, to the rows that were seen.
    """
    ids = int(torch.maximum(seen.max(), asked.max())) + 1
    places = range(seen.shape[1])
    tables = torch.stack([_counts(seen[:, place], answers, ids) for place in places])
    best = int(tables.amax(2).sum(1).argmax())
    return tables[best].argmax(1)[asked[:, best]]


def _counts(rows: Tensor, columns: Tensor, height: int | None = None) -> Tensor:
    """How often each pair of numbers occurs, `(height, number of columns)`."""
    height = height or int(rows.max()) + 1
    width = int(columns.max()) + 1
    return torch.bincount(rows * width + columns, minlength=height * width).view(height, width)


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
