"""In-context classification: what is claimed at either learning rate, and what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
from made_studies import result
from scipy.stats import spearmanr

from headway.studies import estimates
from headway.studies.claims import Results, Run, findings
from headway.studies.criteria import Verdict
from headway.studies.races.tuning import FIRST_TUNING_SEED, TEST, TUNING, steps_of
from headway.studies.residual_streams.icl_classification import (
    CLAIMS,
    ICL_CLASSIFICATION,
    TEST_SETS,
)
from headway.studies.residual_streams.icl_training import ARMS, EXTENTS, RACED, SETS
from headway.studies.run_files import read_runs

PAPER = EXTENTS["paper"]
COMMITTED = Path(__file__).parents[2] / "docs" / "results" / "icl-classification"


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "RESAMPLES", 199)


def run_of(arm: str, seed: int = 0, rate: float = 0.1, stage: str = TEST) -> Run:
    return Run(arm, seed, {"stage": stage, "rate": rate})


SEEDS = 12


def made(size: Any, **steps: tuple[float | None, float | None]) -> Results:
    """Results of arms, their steps at the published and at the best learning rate; seeds differ."""
    found = []
    names = {name.replace("-", "_"): name for name in ARMS}
    for arm, by_rate in steps.items():
        for rate, count in zip((0.01, 0.04), by_rate, strict=True):
            races = {"steps": 500 if rate == 0.04 else None, "trained": 500, "diverged": False,
                     "score": 0.9, "parameters": 7}  # fmt: skip
            found.append(result(run_of(names[arm], FIRST_TUNING_SEED, rate, TUNING), **races))
            for seed in range(SEEDS):
                own = None if count is None else count * (1 + seed / 10) + seed % 3
                run = run_of(names[arm], seed, rate)
                found.append(result(run, steps=own, curve=[[10, 0.5], [20, 0.96]], parameters=7))
    return Results(size, {}, tuple(found))


def verdicts(results: Results) -> dict[str, Verdict | None]:
    return {f.claim.claim: f.verdict for f in findings(CLAIMS, results)}


def all_arms(**changed: tuple[float | None, float | None]) -> Results:
    as_published: dict[str, tuple[float | None, float | None]] = {
        "plain": (1000, 500), "value": (760, 380), "key": (900, 450), "query": (950, 475),
        "value_scaled": (770, 385), "first_layer": (790, 395), "own_matrix": (800, 400),
        "larger_values": (1000, 500.5),
    }  # fmt: skip
    return made("paper", **as_published | changed)


def test_made_up_results_of_the_published_kind_are_reproduced() -> None:
    assert set(verdicts(all_arms()).values()) == {Verdict.REPRODUCED}


PUBLISHED_RATE, BEST_RATES = "at the published learning rate", "both at their best learning rates"
FASTER, THAN_KEY, THAN_QUERY = "24 % faster", "faster than the key", "faster than the query"


@pytest.mark.parametrize(
    ("changed", "words", "rate", "verdict"),
    [
        ({"value": (930, 380)}, FASTER, PUBLISHED_RATE, Verdict.PARTLY),
        ({"value": (1100, 380)}, FASTER, PUBLISHED_RATE, Verdict.NOT_REPRODUCED),
        ({"value": (None, 380)}, FASTER, PUBLISHED_RATE, Verdict.NOT_REPRODUCED),
        ({"plain": (None, 500), "value": (None, 380)}, FASTER, PUBLISHED_RATE,
         Verdict.NOT_TESTABLE),
        ({"plain": (None, 500)}, FASTER, PUBLISHED_RATE, Verdict.REPRODUCED),
        ({"value": (760, 470)}, FASTER, BEST_RATES, Verdict.PARTLY),
        ({"value": (760, 520)}, FASTER, BEST_RATES, Verdict.NOT_REPRODUCED),
        ({"key": (700, 450)}, THAN_KEY, PUBLISHED_RATE, Verdict.NOT_REPRODUCED),
        ({"key": (900, 350)}, THAN_KEY, BEST_RATES, Verdict.NOT_REPRODUCED),
        ({"query": (700, 475)}, THAN_QUERY, PUBLISHED_RATE, Verdict.NOT_REPRODUCED),
        ({"query": (950, 350)}, THAN_QUERY, BEST_RATES, Verdict.NOT_REPRODUCED),
        ({"key": (1001, 450)}, "key stream is faster than plain", PUBLISHED_RATE,
         Verdict.NOT_REPRODUCED),
        ({"query": (1001, 475)}, "query stream is faster than plain", PUBLISHED_RATE,
         Verdict.NOT_REPRODUCED),
        ({"value_scaled": (1001, 385)}, "not the larger values", PUBLISHED_RATE,
         Verdict.NOT_REPRODUCED),
        ({"value_scaled": (770, 501)}, "not the larger values", BEST_RATES,
         Verdict.NOT_REPRODUCED),
        ({"first_layer": (1001, 395)}, "ResFormer", PUBLISHED_RATE, Verdict.NOT_REPRODUCED),
        ({"first_layer": (790, 501)}, "ResFormer", BEST_RATES, Verdict.NOT_REPRODUCED),
        ({"larger_values": (760, 500.5)}, "values alone change", PUBLISHED_RATE,
         Verdict.NOT_REPRODUCED),
        ({"larger_values": (1000, 380)}, "values alone change", BEST_RATES, Verdict.NOT_REPRODUCED),
        ({"own_matrix": (700, 400)}, "of its own", PUBLISHED_RATE, Verdict.NOT_REPRODUCED),
        ({"own_matrix": (800, 370)}, "of its own", BEST_RATES, Verdict.NOT_REPRODUCED),
    ],
)  # fmt: skip
def test_each_claim_can_fail_at_its_rate_alone(
    changed: dict[str, tuple[float | None, float | None]], words: str, rate: str, verdict: Verdict
) -> None:
    found = verdicts(all_arms(**changed))
    told = {at: [v for claim, v in found.items() if words in claim and at in claim]
            for at in (PUBLISHED_RATE, BEST_RATES)}  # fmt: skip
    assert told.pop(rate) == [verdict]
    assert set(*told.values()) <= {Verdict.REPRODUCED}


@pytest.mark.parametrize("at", [0, 1])
def test_the_stream_is_compared_with_larger_values_themselves(at: int) -> None:
    """These are as fast as the stream, and the stream is still faster than plain."""
    larger = [(760.0, 500.5), (1000.0, 380.0)][at]
    of_pair = [f for f in findings(CLAIMS, all_arms(larger_values=larger))
               if f.claim.arms == ("value", "larger-values")]  # fmt: skip
    rates = [PUBLISHED_RATE in f.claim.claim for f in of_pair]
    assert rates == [True, False]
    assert all(f.claim.asked and f.ours is not None for f in of_pair)
    wanted = [Verdict.REPRODUCED] * 2
    wanted[at] = Verdict.NOT_REPRODUCED
    assert [f.verdict for f in of_pair] == wanted
    assert verdicts(all_arms(larger_values=larger))[CLAIMS[at].claim] is Verdict.REPRODUCED


def test_the_headline_says_how_else_it_can_be_read() -> None:
    told = {c.claim for c in CLAIMS if "can also be read as 1 / 1.24 = 0.81" in c.differs}
    assert told == {c.claim for c in CLAIMS if FASTER in c.claim}


@pytest.mark.parametrize("at", [0.01, 0.04])
def test_runs_that_are_cut_do_not_pass_for_runs_that_are_as_fast(at: float) -> None:
    """Larger values get there just before the end, plain ones at a time that nobody knows."""
    limit = (PAPER.published if at == 0.01 else PAPER.course).limit
    ends: dict[str, float | None] = {"plain": None, "larger-values": 0.97 * limit}
    cut = tuple(
        replace(r, measures={**r.measures, "steps": ends[r.run.arm]})
        if r.run.arm in ends and r.run.options == {"stage": TEST, "rate": at}
        else r
        for r in all_arms()
    )
    rate = PUBLISHED_RATE if at == 0.01 else BEST_RATES
    (found,) = [f for f in findings(CLAIMS, Results("paper", {}, cut))
                if "values alone change" in f.claim.claim and rate in f.claim.claim]  # fmt: skip
    assert found.verdict is Verdict.NOT_TESTABLE
    assert "hangs on how long runs would have needed" in found.claim.criterion.words


def test_what_was_asked_when_its_runs_were_there_says_so() -> None:
    later = {c.claim for c in CLAIMS if c.asked}
    first = {c.claim for c in CLAIMS if PUBLISHED_RATE in c.claim and FASTER in c.claim}
    added = {c.claim for c in CLAIMS if c.arms == ("value", "larger-values")}
    assert later == {c.claim for c in CLAIMS if PUBLISHED_RATE in c.claim} - first | added
    assert {c.asked for c in CLAIMS} == {"", "2026-11-30"}
    tuned = {c.claim for c in CLAIMS if "Learning rates are tuned" in c.differs}
    assert tuned == {c.claim for c in CLAIMS if BEST_RATES in c.claim}


def test_a_small_run_is_no_test_of_the_claim() -> None:
    *speeds, parameters = verdicts(replace(all_arms(), size="small")).values()
    assert set(speeds) == {Verdict.NOT_TESTABLE}
    assert parameters is Verdict.REPRODUCED


def test_figures_hold_every_arm() -> None:
    figures: Sequence[Any] = ICL_CLASSIFICATION.figures(all_arms())
    assert [f.id for f in figures] == ["in-context", "in-context-published", "by-rate"]
    for figure in figures:
        assert {t["meta"] for t in figure.plot["data"]} == set(range(len(ARMS)))
    assert RACED in SETS


def test_the_page_has_the_last_accuracy_of_each_arm_in_each_test_set() -> None:
    known = {"plain": 0.4, "value": 0.25}
    found = tuple(
        replace(one, measures={**one.measures, "score": 0.96, "last": {
            "test": 0.8, "in_context": 0.96, "in_context_rotated": 0.95,
            "in_weights": known[one.run.arm] + 0.01 * (one.run.seed % 2)
            + 0.1 * (one.run.options["rate"] == PAPER.tuning.published)}})
        for one in made("paper", plain=(1000, 500), value=(760, 380))
    )  # fmt: skip
    (_, table) = ICL_CLASSIFICATION.tables(Results("paper", {}, found))
    assert list(TEST_SETS) == list(SETS)
    assert table.columns[3:-1] == tuple(TEST_SETS.values())
    same = ("0.800", "0.960", "0.950")
    less = "-0.150 [-0.150, -0.150]"
    assert table.rows == (
        ("plain", "0.04", "12", *same, "0.405", ""),
        ("value", "0.04", "12", *same, "0.255", less),
        ("plain", "0.01", "12", *same, "0.505", ""),
        ("value", "0.01", "12", *same, "0.355", less),
    )


def test_arms_that_are_sooner_in_context_know_less_in_their_weights_in_committed_results() -> None:
    """docs/studies.md says so."""
    results = read_runs(COMMITTED, ICL_CLASSIFICATION)
    if results is None or results.size != "paper":
        pytest.skip("docs/results/icl-classification holds no results of size paper")
    known = {arm: [r.measures["last"]["in_weights"] for r in
                   results.of([arm], stage=TEST, rate=PAPER.tuning.published)]
             for arm in ARMS}  # fmt: skip
    steps = [median(steps_of(results, arm, PAPER.tuning.published).values()) for arm in ARMS]
    means = {arm: fmean(found) for arm, found in known.items()}
    assert spearmanr(steps, list(means.values())).statistic > 0.9
    assert means["value"] < means["plain"] < means["first-layer"]
