"""What the page of `selective-lm` shows of its runs, and what its claims say of learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_language_models import compared_run, raced

from headway.studies.claims import Claim, Finding, Result, Results, findings
from headway.studies.criteria import Verdict
from headway.studies.language_models.rates import SHARE
from headway.studies.races.tuning import TEST
from headway.studies.run_files import read_runs
from headway.studies.selective.arms import ARMS, FINE, GROUPS, base_of
from headway.studies.selective.selective_lm import CLAIMS, SELECTIVE_LM
from headway.studies.selective.sharpness import SHARPNESS_CLAIMS
from headway.studies.selective.table import FOLLOWED, LOSSES

COMMITTED = Path(__file__).parents[2] / "docs" / "results" / SELECTIVE_LM.name
FOLLOWING = {"mean": 1.25, "deviation": 0.5, "with_norm": -0.4, "with_frequency": 0.2}


def runs(arm: str, *by_seed: Mapping[str, Any], rate: float = 0.01) -> list[Result]:
    """An arm that was tuned to a rate, with a run there for each seed."""
    given = {"loss": 4.0, "parameters": 1_000, "spikiness": 0.5, "operator_norm": 2.0,
             "tempered_norm": 2.0, "temperatures": {}}  # fmt: skip
    tests = [
        compared_run(arm, rate, seed, **{**given, **told}) for seed, told in enumerate(by_seed)
    ]
    return [*raced(arm, {rate: 3.0}), *tests]


def results(*found: list[Result]) -> Results:
    return Results("paper", {}, tuple(result for each in found for result in each))


def rows(made: Results, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Of all tables with these columns."""
    return [row for found in SELECTIVE_LM.tables(made) if found.columns == columns
            for row in found.rows]  # fmt: skip


def test_a_row_tells_perplexity_and_what_an_arm_has_more_than_its_base() -> None:
    made = results(
        runs("plain", {"loss": 4.0}, {"loss": 4.2}),
        runs("qv-both", {"loss": 3.9, "parameters": 1_015, "operator_norm": 1.0},
             {"loss": 4.0, "parameters": 1_015, "operator_norm": 4.0}, rate=0.02),
    )  # fmt: skip
    plain, tempered = rows(made, LOSSES)
    assert tempered == (
        "qv-both", "0.02", "52.00 (49.40 to 54.60)", "3.9500", "-0.1500 [-0.7853, +0.4853]",
        "15 (1.5000%)", "0.500 (0.500 to 0.500)", "2.50 (1.00 to 4.00)", "2.00 (2.00 to 2.00)",
    )  # fmt: skip
    assert plain[:6] == ("plain", "0.01", "60.64 (54.60 to 66.69)", "4.1000", "", "")


def test_arms_are_told_beside_the_base_that_shares_their_training_and_qk_norm() -> None:
    bases = {"plain": 4.0, "plain-norm": 5.0, "fine-plain": 6.0, "fine-plain-norm": 7.0}
    arms = {"output-gate": 4.5, "q-token-norm": 3.0, "fine-head-constant": 3.0,
            "fine-qv-both-norm": 3.0}  # fmt: skip
    made = results(
        *(runs(arm, {"loss": loss}, {"loss": loss}) for arm, loss in (bases | arms).items())
    )
    assert {row[0]: row[4].partition(" ")[0] for row in rows(made, LOSSES)} == {
        **dict.fromkeys(bases, ""), "output-gate": "+0.5000", "q-token-norm": "-2.0000",
        "fine-head-constant": "-3.0000", "fine-qv-both-norm": "-4.0000",
    }  # fmt: skip
    for found in SELECTIVE_LM.tables(made):
        group = found.title.rpartition(": ")[2]
        assert {row[0] for row in found.rows} <= set(GROUPS[group])
    assert {base_of(arm) for arm in ARMS} == set(bases)


def test_an_arm_without_compared_runs_has_no_row_and_one_seed_no_interval() -> None:
    alone = runs("q-both", {"temperatures": {"query": FOLLOWING}})
    made = results(raced("plain", {0.01: 3.0}), alone)
    [row] = rows(made, LOSSES)
    assert row == ("q-both", "0.01", "54.60", "4.0000", "", "", "0.500", "2.00", "2.00")
    assert rows(made, FOLLOWED) == [("q-both", "query", "1.250", "0.500", "-0.40", "+0.20")]
    assert SELECTIVE_LM.tables(results(raced("plain", {0.01: 3.0}))) == []


def test_each_temperature_has_a_row_with_what_it_follows() -> None:
    flat = {"mean": 0.9, "deviation": 0.1, "with_norm": 0.0, "with_frequency": 0.0}
    other = {**FOLLOWING, "mean": 0.75, "with_norm": -0.6}
    made = results(
        runs("plain", {}, {}),
        runs("qv-both", *({"temperatures": {"value": told, "query": told}}
                          for told in (FOLLOWING, other))),
        runs("head-constant", *[{"temperatures": {"query": flat}}] * 2),
    )  # fmt: skip
    query, value, constant = rows(made, FOLLOWED)
    assert query == (
        "qv-both", "query", "1.000 (0.750 to 1.250)", "0.500 (0.500 to 0.500)",
        "-0.50 [-1.00, +0.77]", "+0.20 [+0.20, +0.20]",
    )  # fmt: skip
    assert value[:2] == ("qv-both", "value")
    assert constant[0] == "head-constant"
    assert constant[4:] == ("n/a", "n/a")


def found(claims: tuple[Claim, ...], made: Results, words: str) -> Finding:
    """The one finding whose claim has these words."""
    [one] = [each for each in findings(claims, made) if words in each.claim.claim]
    return one


def caveats(made: Results, start: str = "") -> set[str]:
    """Of the claims that compare sharpness and norms of two arms."""
    arms = {f"{start}plain", f"{start}qv-both"}
    told = [
        claim
        for claim in CLAIMS
        if set(claim.arms) == arms and ("spikier" in claim.claim or "smaller" in claim.claim)
    ]
    assert len(told) == 3
    return {claim.caveat(made, None) for claim in told}


def test_sharpness_at_different_learning_rates_says_so_and_what_others_gave() -> None:
    plain, tempered = runs("plain", {}, {}), runs("qv-both", {}, {}, rate=0.02)
    assert caveats(results(plain, tempered)) == {"Learning rates differ: qv-both 0.02, plain 0.01."}
    high = [
        compared_run("qv-both", 0.04, seed, spikiness=0.1, operator_norm=18 + 2 * seed,
                     tempered_norm=8)
        for seed in (0, 1)
    ]  # fmt: skip
    shorter = compared_run("qv-both", 0.08, 0, operator_norm=5)
    half = replace(shorter, run=replace(shorter.run, options={**shorter.run.options, SHARE: 0.5}))
    start = "Learning rates differ: qv-both 0.02, plain 0.01. With qv-both "
    assert caveats(results(plain, tempered, high, [half])) == {
        f"{start}the spikiness is 0.500 at 0.02, 0.100 at 0.04.",
        f"{start}the norm is 2.00 at 0.02, 19.00 at 0.04.",
        f"{start}tau x the norm is 2.00 at 0.02, 8.00 at 0.04.",
    }


def test_sharpness_at_one_learning_rate_says_nothing() -> None:
    tuned = [runs(f"{FINE}{arm}", {}, {}) for arm in ("plain", "qv-both")]
    more = compared_run(f"{FINE}qv-both", 0.04, 0, spikiness=0.1, operator_norm=1, tempered_norm=1)
    assert caveats(results(*tuned, [more]), FINE) == {""}
    assert caveats(results(tuned[0], [more]), FINE) == {""}


def test_every_committed_arm_that_was_compared_has_one_row() -> None:
    made = read_runs(COMMITTED, SELECTIVE_LM)
    assert made is not None
    told = [row[0] for row in rows(made, LOSSES)]
    assert set(told) == {result.run.arm for result in made.of(ARMS, stage=TEST)}
    assert len(told) == len(set(told))


def test_the_guide_says_that_arms_were_not_run_as_long_as_some_were_not() -> None:
    made = read_runs(COMMITTED, SELECTIVE_LM)
    assert made is not None
    waiting = ARMS.keys() - {result.run.arm for result in made.of(ARMS, stage=TEST)}
    guide = (COMMITTED.parents[1] / "studies.md").read_text(encoding="utf-8")
    section = guide.partition("## `selective-lm`")[2].partition("\n## ")[0]
    assert ("Not all of this was run" in section) == bool(waiting)


def test_norm_ratios_are_the_bases_over_those_with_temperatures() -> None:
    made = results(
        runs("fine-plain", *[{"operator_norm": 6.0, "tempered_norm": 5.0}] * 3),
        runs("fine-qv-both", *[{"operator_norm": 2.0, "tempered_norm": 4.0}] * 3),
    )
    alone = found(CLAIMS, made, "operator norm of W_q W_k^T is smaller, fine-tuned")
    tempered = found(CLAIMS, made, "temperature counted too, fine-tuned")
    assert (alone.our_text, alone.verdict) == ("3.00", Verdict.REPRODUCED)
    assert (tempered.our_text, tempered.verdict) == ("1.25", Verdict.NOT_REPRODUCED)


@pytest.mark.parametrize(
    ("words", "arm", "target", "name", "side"),
    [
        ("even out their norms", "q-both", "query", "with_norm", -1),
        ("even out their norms", "fine-qv-both", "query", "with_norm", -1),
        ("bring back the norms", "qv-both-norm", "query", "with_norm", 1),
        ("Queries of rare tokens", "qv-both", "query", "with_frequency", -1),
        ("Values of frequent tokens", "fine-qv-both", "value", "with_frequency", -1),
    ],
)
def test_what_temperatures_follow_comes_out_both_ways(
    words: str, arm: str, target: str, name: str, side: int
) -> None:
    def judged(*correlations: float) -> Finding:
        told = []
        for each in correlations:
            follows = {
                one: {other: each if (one, other) == (target, name) else -9 * side
                      for other in ("with_norm", "with_frequency")}
                for one in ("query", "value")
            }  # fmt: skip
            told.append({"temperatures": follows})
        [one] = [f for f in findings(CLAIMS, results(runs(arm, *told)))
                 if words in f.claim.claim and f.claim.arms == (arm,)]  # fmt: skip
        return one

    assert judged(*[side * 0.4] * 3).verdict == Verdict.REPRODUCED
    assert judged(*[side * 0.09] * 3).verdict == Verdict.NOT_REPRODUCED
    assert judged(*[side * -0.4] * 3).verdict == Verdict.NOT_REPRODUCED
    assert judged(side * 0.4, side * 0.4).verdict == Verdict.NOT_TESTABLE
    wide = judged(side * 0.9, side * 0.5, side * 0.2)
    assert wide.verdict == Verdict.NOT_TESTABLE
    assert wide.ours is not None
    assert max(wide.ours.high, -wide.ours.low) == 1


def test_claims_that_were_added_to_results_say_when() -> None:
    first = [claim for claim in SHARPNESS_CLAIMS if not claim.asked]
    assert [set(claim.arms) for claim in first] == [{"plain", "qv-both"}] * 3


def drawn(made: Results) -> dict[str, list[dict[str, Any]]]:
    """The lines of each figure."""
    return {
        figure.id: [trace for trace in figure.plot["data"] if "hovertemplate" in trace]
        for figure in SELECTIVE_LM.figures(made)
    }


def looked(spiky: float, **tau: float) -> dict[str, Any]:
    return {
        "spikiness_by_position": [[1, 1.0], [2, spiky]],
        "temperatures": {t: {"by_frequency": [value, 2 * value]} for t, value in tau.items()},
    }


def test_the_page_draws_spikiness_and_each_temperature_over_its_seeds() -> None:
    lines = drawn(
        results(
            runs("plain", looked(0.5), looked(0.4)),
            runs("qv-both", looked(0.25, query=1, value=3), looked(0.5, query=2, value=3)),
        )
    )
    assert set(lines) == {
        f"{name}-from-scratch" for name in ("training-loss", "by-rate", "spikiness",
                                            "spikiness-ratio", "temperature-query",
                                            "temperature-value")
    }  # fmt: skip
    plain, tempered = lines["spikiness-from-scratch"]
    assert (list(plain["y"]), list(tempered["y"])) == ([1.0, 0.45], [1.0, 0.375])
    [ratio] = lines["spikiness-ratio-from-scratch"]
    assert list(ratio["y"]) == [1.0, 0.875]
    [tau] = lines["temperature-query-from-scratch"]
    assert (list(tau["x"]), list(tau["y"])) == ([1.0, 2.0], [1.5, 3.0])


def test_arms_that_were_fine_tuned_are_drawn_apart_in_the_colours_of_the_legend() -> None:
    made = results(
        runs("plain", looked(0.5)), runs("q-both", looked(0.4, query=1)),
        runs("fine-plain", looked(0.8)), runs("fine-q-both", looked(0.4, query=3)),
    )  # fmt: skip
    lines = drawn(made)
    legend = [arm for arm in SELECTIVE_LM.arms if made.of([arm])]
    for name in ("training-loss", "by-rate", "spikiness", "spikiness-ratio", "temperature-query"):
        for group, arms in GROUPS.items():
            told = {legend[line["meta"]] for line in lines[f"{name}-{group}"]}
            assert told
            assert told <= set(arms)
    [ratio] = lines["spikiness-ratio-fine-tuned"]
    assert list(ratio["y"]) == [1.0, 0.5]
    [tau] = lines["temperature-query-fine-tuned"]
    assert list(tau["y"]) == [3.0, 6.0]
