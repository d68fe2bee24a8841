"""The taps' gradient flow: formulas against attention as computed, and where the flow ends."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import headway_cli
from headway.studies.claim_page import claim_table, render
from headway.studies.claims import Result, Results, Run
from headway.studies.criteria import Estimate, Verdict
from headway.studies.kv_shift import theorem3
from headway.studies.kv_shift.theorem3 import (
    ALL,
    EXTENTS,
    THEOREM3,
    TOKENS,
    Extent,
    Taps,
    corrected_loss,
    flow,
    printed_loss,
    simulated_loss,
    two_token_loss,
)
from headway.studies.run_files import read_runs
from headway.studies.running import run_study
from headway_settings import StudySettings

SHORT = Extent(40, 0.02, 250)


def taps(*values: float) -> Taps:
    a1, a2, b1, b2 = (torch.tensor([value], dtype=torch.float64) for value in values)
    return a1, a2, b1, b2


def starts(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((count, 2), generator=generator, dtype=torch.float64)


number = st.floats(-3, 3)


@settings(deadline=None)
@given(number, number, number, number, st.integers(4, 40), st.data())
def test_the_corrected_loss_is_that_of_attention(
    a1: float, a2: float, b1: float, b2: float, tokens: int, data: st.DataObject
) -> None:
    repeated = data.draw(st.integers(2, tokens - 2))
    given_taps = taps(a1, a2, b1, b2)
    wanted = simulated_loss(given_taps, tokens, repeated)
    torch.testing.assert_close(corrected_loss(given_taps, tokens), wanted, rtol=1e-12, atol=1e-12)


@given(number, number, number, number)
def test_the_loss_of_two_tokens_is_that_of_attention(
    a1: float, a2: float, b1: float, b2: float
) -> None:
    given_taps = taps(a1, a2, b1, b2)
    wanted = simulated_loss(given_taps, 2, 1)
    torch.testing.assert_close(two_token_loss(given_taps, 2), wanted, rtol=1e-12, atol=1e-12)


def test_the_simulation_is_attention_with_the_mechanisms_own_shift() -> None:
    """Against scaled dot products of one-hot vectors written out by hand, T = 4, j = 2."""
    a1, a2, b1, b2 = 0.3, 1.1, 0.7, -0.4
    x = torch.eye(4).double()[[0, 1, 2, 3, 1]]
    scores, values = [], []
    for i in range(5):
        before = x[i - 1] if i else torch.zeros(4).double()
        scores.append(float((a1 * x[i] + a2 * before) @ x[4]))
        values.append(b1 * x[i] + b2 * before)
    weights = [math.exp(s) / sum(map(math.exp, scores)) for s in scores]
    logits = torch.stack([w * v for w, v in zip(weights, values, strict=True)]).sum(0)
    wanted = -logits.log_softmax(0)[2]
    assert simulated_loss(taps(a1, a2, b1, b2), 4, 2).item() == pytest.approx(wanted.item())


def test_the_printed_loss_is_off_where_a1_differs_from_a2_and_b2_counts() -> None:
    square = starts(500)
    both = [square[:, 0], 1 - square[:, 0], square[:, 1], 1 - square[:, 1]]
    error = (printed_loss(tuple(both), 20) - corrected_loss(tuple(both), 20)).abs()
    assert 5e-3 < error.max() < 2e-2
    for same in (taps(0.4, 0.4, 0.3, 0.9), taps(0.1, 0.9, 0.8, 0.0)):
        assert printed_loss(same, 20).item() == pytest.approx(corrected_loss(same, 20).item())


def test_the_induction_head_has_less_loss_than_plain_attention() -> None:
    for tokens in TOKENS:
        induction = corrected_loss(taps(0, 1, 1, 0), tokens)
        assert induction < corrected_loss(taps(1, 0, 1, 0), tokens)
        sharp = simulated_loss(taps(-30, 30, 60, 0), min(tokens, 50), 2)
        assert sharp < 1e-12


@pytest.mark.parametrize("tokens", [5, 20, 100])
def test_descent_from_anywhere_ends_in_the_induction_corner(tokens: int) -> None:
    ended = flow(partial(corrected_loss, tokens=tokens), starts(40), SHORT)
    a1, a2, b1, b2 = ended.taps
    assert not a1.any()
    assert not b2.any()
    assert (a2 == 1).all()
    assert (b1 == 1).all()


def test_a_flow_is_downhill_and_its_time_that_of_the_gradient() -> None:
    """On a bowl the flow is known: a1 = b1 = e^{-t}; where it stands still no time passes."""

    def bowl(given_taps: Taps) -> Tensor:
        return (given_taps[0] ** 2 + given_taps[2] ** 2) / 2

    begin = torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    way = Extent(1, 1e-3, 1_000)
    ended = flow(bowl, begin, way)
    left = 1 - 1.0 / math.sqrt(2)
    assert ended.taps[0][0].item() == pytest.approx(left, abs=1e-6)
    assert ended.times[0].item() == pytest.approx(-math.log(left), rel=2e-3)
    assert ended.times[1] == 0
    assert ended.monotone.tolist() == [False, True]  # b1 falls
    assert torch.equal(begin, torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=torch.float64))
    assert not begin.requires_grad


def test_what_leads_out_of_the_square_is_cut_off_and_free_taps_are_not() -> None:
    def slope(given_taps: Taps) -> Tensor:
        return given_taps[0] - 2 * given_taps[2]  # down to the left, and up

    begin = torch.tensor([[0.1, 0.9]], dtype=torch.float64)
    bounded = flow(slope, begin, Extent(1, 0.01, 100))
    assert [t.item() for t in bounded.taps] == [0, 1, 1, 0]
    assert bounded.monotone.all()
    free = flow(slope, begin, Extent(1, 0.01, 100), tied=False)
    a1, a2, b1, b2 = (t.item() for t in free.taps)
    assert (a2, b2) == pytest.approx((0.9, 0.1))  # they start tied, and nothing moves them
    assert (a1, b1) == pytest.approx((0.1 - 1 / math.sqrt(5), 0.9 + 2 / math.sqrt(5)))


def test_what_counts_as_all_of_the_starts() -> None:
    judged = [ALL.judge(Estimate(v, v, v, 10)) for v in (1.0, 0.99, 0.98, 0.51, 0.5)]
    assert judged == [Verdict.REPRODUCED] * 2 + [Verdict.PARTLY] * 2 + [Verdict.NOT_REPRODUCED]
    wide = [ALL.judge(Estimate(0.5, 0.4, high, 10)) for high in (0.98, 0.99)]
    assert wide == [Verdict.NOT_REPRODUCED, Verdict.NOT_TESTABLE]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(theorem3.EXTENTS, "small", Extent(20, 0.05, 60))
    monkeypatch.setattr(theorem3, "TOKENS", (5, 20))


@pytest.mark.usefixtures("quick")
def test_the_study_runs_judges_and_draws(tmp_path: Path) -> None:
    asked = StudySettings(name=("theorem3",), out=tmp_path, device="cpu", seeds=2)
    found = run_study(THEOREM3, asked, "headway study theorem3")
    assert found == read_runs(tmp_path, THEOREM3)
    rows = {row[0]: row for row in claim_table(THEOREM3, found).rows}
    assert len(rows) == len(THEOREM3.claims)
    assert all(row[-1] == Verdict.NOT_TESTABLE for row in rows.values())  # 2 of 10 seeds
    measured = found.measure("corrected", "corner")
    assert [by_t["20"] for by_t in measured.values()] == [1.0, 1.0]
    assert max(found.measure("corrected", "error").values()) < 1e-12
    assert min(found.measure("printed", "error").values()) > 1e-3
    page = render(THEOREM3, found)
    for figure in THEOREM3.figures(found):
        assert f'id="{figure.id}"' in page
    assert [figure.id for figure in THEOREM3.figures(found)] == ["corner", "time", "monotone"]
    one = replace(asked, out=tmp_path / "again", arms=("two-tokens",))
    again = run_study(THEOREM3, one, "b")
    assert [r.measures for r in again] == [r.measures for r in found.of(["two-tokens"])]


def test_the_least_share_over_the_lengths_is_what_is_judged() -> None:
    claim = next(c for c in THEOREM3.claims if "least over T" in c.claim)

    def made(seed: int, least: float) -> Result:
        by_t = {str(t): 1.0 for t in TOKENS} | {"50": least}
        return Result(Run("corrected", seed), {"corner": by_t}, "c", "d", {}, "2026-01-01", 0.0)

    ours = claim.estimate(Results("small", {}, (made(0, 0.6), made(1, 0.8))))
    assert ours is not None
    assert ours.value == pytest.approx(0.7)


def test_the_verb_refuses_what_the_study_does_not_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["study", "theorem3", "--steps", "4", "--out", str(tmp_path / "out")]
    assert headway_cli.main(words) == 2
    assert "steps: 4 is not accepted; the study theorem3 takes" in capsys.readouterr().err


def test_sizes_reach_across_the_square() -> None:
    for extent in EXTENTS.values():
        assert extent.length * extent.steps > 4
