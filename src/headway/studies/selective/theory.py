"""The study `selective-theory`: the propositions of arXiv 2411.12892 put to numbers.

Each draw is a random instance of what a statement allows. Tensors are `(N,)`, float64, one entry
an instance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from headway.report.curves import bands
from headway.report.figures import CurveText, Figure, curve_figure
from headway.studies.claims import Claim, Measures, Results, Run, Size, Study, one_by_one
from headway.studies.criteria import Criterion, Estimate, at_least, at_most
from headway.studies.estimates import exact
from headway.studies.running import arms_by_seeds
from headway.studies.selective.bounds import (
    apart,
    flat_loss,
    least_norm_for_specificity,
    plain_bound,
    plain_norm,
    selective_bound,
    selective_norm,
    sparsity,
)
from headway_settings import StudySettings

INSTANCES: Mapping[Size, int] = {"small": 20_000, "paper": 1_000_000}
"""Draws a seed of what has a closed form."""
WIDTH, LENGTH = 16, 256
"""Of the instances that are computed as attention."""


def _uniform(count: int, low: float, high: float, generator: torch.Generator, *more: int) -> Tensor:
    drawn = torch.rand((count, *more), generator=generator, dtype=torch.float64)
    return low + (high - low) * drawn


def _instances(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Targets, errors as the proposition allows them, and correlations."""
    target = _uniform(count, 0.02, 0.98, generator)
    most = torch.minimum(target, 1 - target) / 2
    error = most * 10 ** _uniform(count, -6, 0, generator)
    return target, error, _uniform(count, -0.99, 0.99, generator)


RHO = tuple(step / 20 for step in range(-19, 20))
"""Correlations of the figure, at target 0.3 and error 0.001."""


def _curve(norm: Callable[[Tensor, Tensor, Tensor], Tensor]) -> dict[str, float]:
    rho = torch.tensor(RHO, dtype=torch.float64)
    shown = norm(torch.full_like(rho, 0.3), torch.full_like(rho, 1e-3), rho)
    return {f"{x:g}": float(y) for x, y in zip(RHO, shown, strict=True)}


def _plain(size: Size, generator: torch.Generator) -> Measures:
    count = INSTANCES[size]
    given = _instances(count, generator)
    bound = plain_bound(*given)
    says = bound > 0
    lemma = [
        least_norm_for_specificity(high, low, rho) * apart(rho) / (high - low)
        for high, low, rho in zip(*(x.split(5_000) for x in _specificities(count, generator)),
                                  strict=True)
    ]  # fmt: skip
    early = _uniform(25, 1, 2, generator, 50)
    late = _uniform(25, 4, 20, generator, 50)
    nearest = torch.tensor([[2.0]]).double(), torch.tensor([[4.0]]).double()
    return {
        "lemma-1": float(torch.cat(lemma).min()),
        "proposition-1": float((plain_norm(*given) / bound)[says].min()),
        "flat": min(float(flat_loss(early, late).min()), float(flat_loss(*nearest).min())),
        "dilution": _dilution(generator),
        "norm": _curve(plain_norm),
    }


def _specificities(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    high = _uniform(count, 0.1, 10, generator)
    low = high * _uniform(count, 0, 0.999, generator)
    return high, low, _uniform(count, -0.999, 0.999, generator)


def _dilution(generator: torch.Generator) -> float:
    """Largest top weight over the bound 1 / (1 + (L - 1) e^{-2 ||W||}), over random unit tokens
    and the arrangement that is best for one of them."""
    ratios = []
    for norm in (0.5, 1.0, 2.0, 4.0):
        bound = 1 / (1 + (LENGTH - 1) * math.exp(-2 * norm))
        tokens = _unit(torch.randn((LENGTH, WIDTH), generator=generator, dtype=torch.float64))
        weight = norm * _orthogonal(generator)
        drawn = torch.softmax(tokens[-1] @ weight @ tokens.T, dim=0).max()
        one = tokens[0]
        arranged = torch.cat([one[None], -one.expand(LENGTH - 1, WIDTH)])
        query = weight @ one / norm
        best = torch.softmax(query @ weight @ arranged.T, dim=0).max()
        ratios += [float(drawn) / bound, float(best) / bound]
    return max(ratios)


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


def _orthogonal(generator: torch.Generator) -> Tensor:
    drawn = torch.randn((WIDTH, WIDTH), generator=generator, dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(drawn)[0]
    return basis


def _selective(size: Size, generator: torch.Generator, signed: bool) -> Measures:
    count = INSTANCES[size]
    target, error, rho = _instances(count, generator)
    ratio = selective_norm(target, error, rho, signed) / selective_bound(target, error, rho)
    half = torch.full_like(target, 0.5)
    even = selective_norm(half, error.clamp_max(0.25), rho, signed)
    measures = {
        "proposition-1": float(ratio.max()),
        "even": float((even / selective_bound(half, error.clamp_max(0.25), rho)).max()),
        "norm": _curve(partial(selective_norm, signed=signed)),
    }
    if signed:
        return measures
    return measures | {
        "lemma-1": _reached_specificity(generator),
        "matched": _matched_loss(generator),
        "slope": _slope_error(generator),
    }


def _reached_specificity(generator: torch.Generator) -> float:
    """Largest tau ||W|| over max(L_a, L_b), where W is a rotation and tau the specificity asked
    for; infinite if a specificity is not met."""
    ratios = []
    for _ in range(20):
        weight = _orthogonal(generator)
        tokens = _unit(torch.randn((2, WIDTH), generator=generator, dtype=torch.float64))
        asked = _uniform(2, 0.1, 10, generator)
        met = ((asked * (tokens @ weight).norm(dim=1) - asked).abs() < 1e-12).all()
        norm = float((asked * torch.linalg.matrix_norm(weight, 2)).max() / asked.max())
        ratios.append(norm if met else math.inf)
    return max(ratios)


def _matched_loss(generator: torch.Generator) -> float:
    """Largest squared error of attention with tau_n = log kappa_n + log(alpha / (1 - alpha)) to
    its target alpha a + (1 - alpha) b, over sequences of a minority token a among tokens b."""
    worst = 0.0
    for _ in range(10):
        a, b = _unit(torch.randn((2, WIDTH), generator=generator, dtype=torch.float64))
        alpha = float(_uniform(1, 0.1, 0.9, generator))
        share = float(_uniform(1, 0.05, 0.5, generator))
        is_a = torch.rand(LENGTH, generator=generator) < share
        is_a[0], is_a[1] = True, False
        tokens = torch.where(is_a[:, None], a, b)
        # q' W (a - b) = 1 for both queries.
        left = torch.linalg.pinv(torch.stack([a, b])).sum(dim=1)
        weight = torch.outer(left, (a - b) / (a - b).square().sum())
        count = is_a.cumsum(0).double()
        kappa = (torch.arange(1, LENGTH + 1) - count) / count
        tau = kappa.log() + math.log(alpha / (1 - alpha))
        logits = tau[:, None] * (tokens @ weight @ tokens.T)
        hidden = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        out = torch.softmax(logits.masked_fill(hidden, -torch.inf), dim=1) @ tokens
        wanted = alpha * a + (1 - alpha) * b
        # The first position sees one token alone.
        worst = max(worst, float((out[1:] - wanted).square().sum(dim=1).max()))
    return worst


def _slope_error(generator: torch.Generator) -> float:
    """Largest error of the slope of tau_n over log n where kappa_n = n^pow."""
    length = torch.arange(2, LENGTH + 1, dtype=torch.float64)
    errors = []
    for power in _uniform(20, 0.1, 1.5, generator):
        tau = (length**power).log() + math.log(3)
        slope = tau.diff() / length.log().diff()
        errors.append(float((slope - power).abs().max()))
    return max(errors)


def _sparsification(size: Size, generator: torch.Generator) -> Measures:
    count = INSTANCES[size]
    length = _uniform(count, 64, 100_000, generator).round()
    salient = (length ** (1 - _uniform(count, 0.05, 0.95, generator))).round().clamp_min(1)
    rate, advantage = _uniform(count, 0.05, 1, generator), _uniform(count, 0.1, 1, generator)
    share, tail = salient / length, length ** (-rate * advantage)
    measured = sparsity(length, salient, rate, advantage)

    def error(constant: Tensor) -> float:
        return float((constant / measured - 1).abs().max())

    return {
        "corrected": error((1 - share) * tail + share),
        "printed": error(tail / (1 - share) + share),
    }


ARMS = {
    "plain": "attention without temperatures",
    "selective": "a positive temperature for each query",
    "selective-signed": "a temperature of either sign for each query",
    "sparsification": "temperatures that grow with log n, as a hard choice of keys",
}


def _run(run: Run, settings: StudySettings) -> Measures:
    generator = torch.Generator().manual_seed(run.seed)
    match run.arm:
        case "plain":
            return _plain(settings.size, generator)
        case "sparsification":
            return _sparsification(settings.size, generator)
        case _:
            return _selective(settings.size, generator, signed=run.arm == "selective-signed")


def _extreme(arm: str, measure: str, of: Callable[..., float], results: Results) -> Estimate | None:
    found = results.measure(arm, measure).values()
    return exact(of(found), len(found)) if found else None


def _bound(
    sentence: str, place: str, arm: str, measure: str, criterion: Criterion, told: str,
    shown: str = ".4g",
) -> Claim:  # fmt: skip
    """A claim that something never goes beyond a limit: the worst over all draws is taken."""
    of = min if criterion.words.startswith("at least") else max
    return Claim(
        claim=sentence,
        source=f"arXiv 2411.12892, {place}",
        published=None,
        told=told,
        shown=shown,
        criterion=criterion,
        arms=(arm,),
        estimate=partial(_extreme, arm, measure, of),
        seeds=10,
    )


ROUNDING = 1e-9
"""What arithmetic may be off by."""

CLAIMS = (
    _bound("Tokens of different specificity need ||W|| >= (L_a - L_b) / ||a - b||: least of the "
           "two sides' ratio", "Lemma 1", "plain", "lemma-1", at_least(1.0 - ROUNDING),
           "at least 1"),
    _bound("With selective attention max(L_a, L_b) is enough: largest tau ||W|| over it",
           "Lemma 1", "selective", "lemma-1", at_most(1.0 + ROUNDING), "at most 1"),
    _bound("Plain attention that is sharp for one of two like tokens needs ||W|| >= (log(1/4e) - "
           "G) / (||e1 - e2|| sqrt(2 - 2 rho^2)): least of the ratio", "Proposition 1", "plain",
           "proposition-1", at_least(1.0 - ROUNDING), "at least 1"),
    _bound("Selective attention needs at most max(log(1/e), G / sqrt(1 - rho^2)) / ||e1 - e2||, "
           "where the first row is even (G = 0): largest ratio", "Proposition 1", "selective",
           "even", at_most(1.0 + ROUNDING), "at most 1"),
    _bound("The same for every target, temperatures positive: largest ratio", "Proposition 1",
           "selective", "proposition-1", at_most(1.0 + ROUNDING), "at most 1"),
    _bound("The same for every target, temperatures of either sign: largest ratio",
           "Proposition 1", "selective-signed", "proposition-1", at_most(1.0 + ROUNDING),
           "at most 1"),
    _bound("A temperature log kappa_n + log(alpha / (1 - alpha)) has no loss: largest squared "
           "error", "Proposition 2", "selective", "matched", at_most(1e-20), "0", ".1e"),
    _bound("A flat temperature has a loss above 1/500: least loss", "Proposition 2", "plain",
           "flat", at_least(1 / 500), "above 0.002"),
    _bound("Where kappa_n = n^pow the temperature is a constant and pow log n: largest error of "
           "the slope", "Proposition 2", "selective", "slope", at_most(ROUNDING), "0", ".1e"),
    _bound("The top weight is at most 1 / (1 + (L - 1) e^{-2||W||}): largest ratio",
           "section on dilution", "plain", "dilution", at_most(1.0 + ROUNDING), "at most 1"),
    _bound("kappa as printed, n^{-alpha gamma} / (1 - n^{-pow}) + n^{-pow}: largest relative "
           "error", "Appendix D", "sparsification", "printed", at_most(ROUNDING), "0", ".1e"),
    _bound("kappa as derived, (1 - n^{-pow}) n^{-alpha gamma} + n^{-pow}: largest relative error",
           "Appendix D, corrected", "sparsification", "corrected", at_most(ROUNDING), "0", ".1e"),
)  # fmt: skip

NORM = CurveText(
    "norm", "Least norm in Proposition 1",
    "Target 0.3 and error 0.001; with temperatures: the largest temperature times the norm.",
    "correlation of the two tokens", "norm",
)  # fmt: skip


def _figures(results: Results) -> Sequence[Figure]:
    there = [arm for arm in ARMS if results.of([arm])]
    points = {
        arm: [
            (float(rho), norm)
            for result in results.of([arm])
            for rho, norm in result.measures.get("norm", {}).items()
        ]
        for arm in there
    }
    return [curve_figure(NORM, shown, there)] if (shown := bands(points)) else []


_DIFFERS = (
    "Statements as restated from the paper, whose proofs are sketches. Least norms are solved "
    "exactly for {count:,} random instances a seed. Proposition 2 counts the squared error of a's "
    "weight in the second and the last quarter, over all positions; kappa is drawn at each "
    "position on its own, as in one sequence the two conditions on it exclude each other. In "
    "Appendix D kappa is 1 / (n x the weight of a salient key), at temperature alpha log n."
)

SELECTIVE_THEORY = Study(
    name="selective-theory",
    claim="Queries that need different sharpness need large weights in plain attention and small "
    "ones with a temperature for each query.",
    source="arXiv 2411.12892, Lemma 1, Propositions 1 and 2, Appendix D",
    published="inequalities, an exact solution and a constant",
    arms=ARMS,
    measure="The worst over random instances of each statement; a bound's ratio is to be on the "
    "right side of 1.",
    claims=CLAIMS,
    seeds={"small": 10, "paper": 10},
    differs={size: _DIFFERS.format(count=count) for size, count in INSTANCES.items()},
    runs=lambda settings, _: arms_by_seeds(tuple(ARMS), settings),
    perform=one_by_one(_run),
    figures=_figures,
)
