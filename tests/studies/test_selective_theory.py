"""The propositions on selective attention: closed forms against search, and exact statements."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from headway.studies.claim_page import claim_table, render
from headway.studies.claims import Results
from headway.studies.criteria import Verdict
from headway.studies.running import run_study
from headway.studies.selective import theory as selective_theory
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
from headway.studies.selective.theory import SELECTIVE_THEORY
from headway_settings import StudySettings


def one(*values: float) -> tuple[Tensor, ...]:
    return tuple(torch.tensor([value], dtype=torch.float64) for value in values)


@pytest.mark.parametrize(
    ("rho", "plain", "bound", "selective"),
    [(0.0, 4.88, 2.76, 4.88), (0.5, 7.97, 4.51, 6.91), (0.9, 35.4, 20.0, 15.4),
     (0.99, 346, 196, 48.8)],
)  # fmt: skip
def test_known_numbers_of_proposition_1(
    rho: float, plain: float, bound: float, selective: float
) -> None:
    given_ = one(0.5, 1e-3, rho)
    assert plain_norm(*given_).item() == pytest.approx(plain, rel=5e-3)
    assert plain_bound(*given_).item() == pytest.approx(bound, rel=5e-3)
    for signed in (False, True):
        assert selective_norm(*given_, signed).item() == pytest.approx(selective, rel=5e-3)
    assert selective_bound(*given_).item() == pytest.approx(selective, rel=5e-3)


def needed(target: float, error: float) -> tuple[float, float, float]:
    low = math.log((1 - target - error) / (target + error))
    high = math.log((1 - target + error) / (target - error))
    return low, high, math.log((1 - error) / error)


instance = {
    "target": st.floats(0.05, 0.95),
    "share": st.floats(0.001, 0.99),
    "rho": st.floats(-0.95, 0.95),
}


@settings(deadline=None, max_examples=40)
@given(**instance)
def test_the_least_plain_norm_is_what_a_search_finds(
    target: float, share: float, rho: float
) -> None:
    error = share * min(target, 1 - target) / 2
    low, high, sharp = needed(target, error)
    across = math.sqrt(1 - rho * rho)
    first = np.linspace(low, high, 20_001)
    second = np.minimum(0, (-sharp - rho * first) / across)
    searched = np.hypot(first, second).min() / math.sqrt(2 - 2 * rho)
    found = plain_norm(*one(target, error, rho)).item()
    assert found <= searched * (1 + 1e-12)
    assert found == pytest.approx(searched, rel=1e-3)


@settings(deadline=None, max_examples=40)
@given(**instance, signed=st.booleans())
def test_the_least_selective_norm_is_what_a_search_finds(
    target: float, share: float, rho: float, signed: bool
) -> None:
    """Over the direction of w = W (e1 - e2), a temperature for each query."""
    error = share * min(target, 1 - target) / 2
    low, high, sharp = needed(target, error)
    angle = np.linspace(0, 2 * np.pi, 400_001)
    first = np.cos(angle)
    second = -rho * np.cos(angle) - math.sqrt(1 - rho * rho) * np.sin(angle)
    need = max(low, -high, 0.0)
    side = first if low > 0 else -first
    if signed:
        side, second = np.abs(side), np.abs(second)
    assume(need == 0 or need > 1e-3)
    with np.errstate(divide="ignore", over="ignore"):
        one_row = np.where(side > 0, need / side, np.inf) if need else 0 * angle
        other = np.where(second > 0, sharp / second, np.inf)
    searched = np.maximum(one_row, other).min() / math.sqrt(2 - 2 * rho)
    found = selective_norm(*one(target, error, rho), signed).item()
    assert found <= searched * (1 + 1e-9)
    assert found == pytest.approx(searched, rel=1e-3)


@given(**instance)
def test_a_temperature_never_costs_and_its_sign_is_a_freedom(
    target: float, share: float, rho: float
) -> None:
    given_ = one(target, share * min(target, 1 - target) / 2, rho)
    either, positive = selective_norm(*given_, True), selective_norm(*given_)
    assert either <= positive * (1 + 1e-9)
    assert positive <= plain_norm(*given_) * (1 + 1e-9)
    assert plain_norm(*given_) >= plain_bound(*given_)


def test_where_the_upper_bound_of_proposition_1_does_not_hold() -> None:
    """Two tokens at right angles need sqrt(L^2 + G^2) with and without temperatures."""
    given_ = one(0.1, 1e-3, 0.0)
    low, _, sharp = needed(0.1, 1e-3)
    wanted = math.hypot(sharp, low) / math.sqrt(2)
    assert plain_norm(*given_).item() == pytest.approx(wanted)
    assert selective_norm(*given_, True).item() == pytest.approx(wanted)
    assert selective_bound(*given_).item() < 0.96 * wanted
    # Like tokens whose first row must lean to e1: positive temperatures do not help at all.
    like = one(0.1, 1e-3, 0.9)
    assert selective_norm(*like).item() == pytest.approx(plain_norm(*like).item(), rel=1e-9)
    assert selective_norm(*like).item() > 2 * selective_bound(*like).item()
    assert selective_norm(*like, True).item() < selective_bound(*like).item()


@settings(deadline=None, max_examples=25)
@given(st.floats(0.2, 5), st.floats(0, 0.95), st.floats(-0.95, 0.95))
def test_the_least_norm_for_specificity_is_what_a_search_finds(
    high: float, share: float, rho: float
) -> None:
    """In the plane of the tokens W W' = norm^2 (I - s v v') is all that can be best: of a
    direction v, the least s that makes b unspecific enough."""
    low = high * share
    found = least_norm_for_specificity(*one(high, low, rho)).item()
    angle = np.linspace(0, np.pi, 20_001)
    a = np.cos(angle) ** 2
    b = (rho * np.cos(angle) + math.sqrt(1 - rho**2) * np.sin(angle)) ** 2
    # norm^2 (1 - s a) = high^2 and norm^2 (1 - s b) <= low^2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        s = (high**2 - low**2) / (high**2 * b - low**2 * a)
        norm = np.where((s >= 0) & (s <= 1 + 1e-7), high**2 / (1 - s * a), np.inf)
    searched = math.sqrt(norm.min())
    assert found <= searched * (1 + 1e-3)
    assert found == pytest.approx(searched, rel=1e-2)
    assert found >= (high - low) / apart(*one(rho)).item() * (1 - 1e-9)


@settings(deadline=None)
@given(st.integers(0, 100))
def test_no_random_weights_break_the_lemma(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn((6, 6), generator=generator, dtype=torch.float64)
    a, b = torch.nn.functional.normalize(
        torch.randn((2, 6), generator=generator, dtype=torch.float64), dim=1
    )
    high, low = sorted(((weight.T @ a).norm(), (weight.T @ b).norm()), reverse=True)
    norm = torch.linalg.matrix_norm(weight, 2)
    assert norm >= least_norm_for_specificity(high[None], low[None], (a @ b)[None])[0] * (1 - 1e-9)


def test_a_flat_temperature_loses_at_least_what_its_nearest_conditions_cost() -> None:
    """kappa 2 and then 4: the best weight is at sqrt 2 to either side."""
    off = 0.5 - 1 / (1 + math.sqrt(2))
    found = flat_loss(torch.tensor([[2.0]]).double(), torch.tensor([[4.0]]).double()).item()
    assert found == pytest.approx(off**2 / 2, rel=1e-4)
    assert found > 1 / 500
    farther = flat_loss(torch.tensor([[1.0]]).double(), torch.tensor([[9.0]]).double()).item()
    assert farther > found


@given(st.integers(15, 500))
def test_the_two_conditions_of_proposition_2_exclude_each_other(quarter: int) -> None:
    """kappa <= 2 at half the sequence, kappa >= 4 from three quarters on: the count of the
    minority token, which can only grow, would have to fall."""
    half, late = 2 * quarter, 3 * quarter + 1
    least_at_half = next(count for count in range(1, half) if (half - count) / count <= 2)
    most_later = max(count for count in range(1, late) if (late - count) / count >= 4)
    assert least_at_half > most_later


@given(st.integers(8, 400), st.data())
def test_the_sparsity_is_that_of_a_softmax(length: int, data: st.DataObject) -> None:
    salient = data.draw(st.integers(1, length))
    rate, advantage = data.draw(st.floats(0, 2)), data.draw(st.floats(0, 2))
    scores = torch.zeros(length, dtype=torch.float64)
    scores[:salient] = advantage
    top = torch.softmax(rate * math.log(length) * scores, dim=0)[0]
    found = sparsity(*one(length, salient, rate, advantage)).item()
    assert found == pytest.approx(1 / (length * top.item()), rel=1e-12)
    share, tail = salient / length, length ** (-rate * advantage)
    assert found == pytest.approx((1 - share) * tail + share, rel=1e-12)
    if salient < length and tail > 1e-6:
        assert tail / (1 - share) + share > found * (1 + 1e-9)  # as printed: too large


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The study with few instances."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(selective_theory.INSTANCES, "small", 300)
        out = tmp_path_factory.mktemp("theory")
        asked = StudySettings(name=("selective-theory",), out=out, device="cpu")
        return run_study(SELECTIVE_THEORY, asked, "headway study selective-theory")


def test_the_study_runs_judges_and_draws(found: Results) -> None:
    assert len(found.found) == 40
    rows = {row[0]: row[-1] for row in claim_table(SELECTIVE_THEORY, found).rows}
    assert len(rows) == len(SELECTIVE_THEORY.claims)
    failed = {claim for claim, verdict in rows.items() if verdict == Verdict.NOT_REPRODUCED}
    assert len(failed) == 3
    assert all("printed" in c or c.startswith("The same for every target") for c in failed)
    assert set(rows.values()) == {Verdict.REPRODUCED, Verdict.NOT_REPRODUCED}
    assert 'id="norm"' in render(SELECTIVE_THEORY, found)


@pytest.mark.parametrize(
    ("arm", "measure", "shift", "sentence"),
    [
        ("plain", "lemma-1", -0.1, "Tokens of different specificity"),
        ("plain", "proposition-1", -0.9, "Plain attention that is sharp"),
        ("plain", "flat", -0.003, "A flat temperature"),
        ("selective", "matched", 0.1, "A temperature log kappa_n"),
        ("selective", "even", 0.1, "Selective attention needs at most"),
        ("plain", "dilution", 0.01, "The top weight"),
        ("sparsification", "corrected", 0.1, "kappa as derived"),
    ],
)
def test_one_bad_draw_of_many_is_enough(
    found: Results, arm: str, measure: str, shift: float, sentence: str
) -> None:
    worse = tuple(
        replace(r, measures={**r.measures, measure: r.measures[measure] + shift})
        if (r.run.arm, r.run.seed) == (arm, 4)
        else r
        for r in found
    )
    rows = claim_table(SELECTIVE_THEORY, replace(found, found=worse)).rows
    (verdict,) = (row[-1] for row in rows if row[0].startswith(sentence))
    assert verdict == Verdict.NOT_REPRODUCED
