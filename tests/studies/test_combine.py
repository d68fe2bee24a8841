"""The study `combine`: its parts and stages, training, verdicts, tables, and what it recommends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_studies import result, settings
from small_language_models import TINY, asked

from headway.decoder import HeadwayConfig
from headway.studies import combine_found, combine_runs, combine_table, lm_cost
from headway.studies.claims import Result, Results, Run, Size, findings
from headway.studies.combine import CHOSEN, CLAIMS, COMBINE, RECOMMENDED
from headway.studies.combine_found import (
    SCREENED,
    best_left,
    chosen_parts,
    effects_on,
    soonest,
    step_ratio,
    tokens_needed,
)
from headway.studies.combine_parts import (
    ARMS,
    CHOSEN_PARTS,
    CONFIRMING,
    DESIGN,
    PARTS,
    PLAIN,
    RECOMMENDED_PARTS,
    SCREENED_SEEDS,
    SHARES,
    SUBSETS,
    name_of,
    without,
)
from headway.studies.combine_runs import operations, screening_runs
from headway.studies.combine_table import (
    arm_table,
    conclusion,
    losses_and_effects,
    main,
    markdown,
    part_table,
)
from headway.studies.criteria import Verdict
from headway.studies.lm_cost import COST, ROUNDS
from headway.studies.lm_course import Course
from headway.studies.lm_rates import best_rate
from headway.studies.run_files import add_run, read_runs
from headway.studies.running import run_study, settled, still_missing
from headway.studies.tuning import TEST, TUNING

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs" / "results" / "combine"
GAINS = dict.fromkeys(PARTS, 0.01) | {"stream": -0.14, "gate": -0.014}
"""What each part adds to the loss of made-up results."""


def measured(run: Run, gains: Mapping[str, float], step: float) -> dict[str, Any]:
    """What a made-up run measures: a loss to which each part adds its own."""
    if run.options["stage"] == COST:
        longer = step + 0.047 * ("gate" in SUBSETS[run.arm])
        ratios = [longer + 0.001 * (turn % 3) for turn in range(ROUNDS)]
        return {"step_ratios": ratios, "corpus": "one"}
    noise = 0.002 * ((7 * run.seed + len(run.arm)) % 5 - 2)
    less = 0.5 * (1 - run.options.get("share", 1))
    far = 0.1 * abs(run.options["rate"] / 2e-3 - 1)
    parts = SUBSETS[run.arm]
    return {
        "loss": 4 + sum(gains[part] for part in parts) + noise + less + far,
        "parameters": 1000 + 10 * len(parts),
        "corpus": "one",
        "curve": [[10, 5.0]],
        "in_context_gain": 0.1 + 0.01 * ("shift" in parts),
        "repeat_accuracy": 0.2 + 0.5 * ("shift" in parts),
        "prefix_score": 0.3,
        "operations": 1 + 0.1 * ("depth" in parts),
    }


def played(
    size: Size = "paper",
    gains: Mapping[str, float] = GAINS,
    step: float = 1.0,
    until: Callable[[int, Run], bool] = lambda count, run: False,
) -> tuple[Results, list[Run]]:
    """All runs as the study asks for them, made up; until one, or so many of them, stop it."""
    spoken = settled(COMBINE, settings(Path("out"), size=size))
    results, order = Results(size, {}), []
    while missing := [
        run for run in COMBINE.runs(spoken, results) if run.key not in {r.run.key for r in results}
    ]:
        for run in missing:
            if until(len(order), run):
                return results, order
            order.append(run)
            made: Result = result(run, **measured(run, gains, step))
            results = replace(results, found=(*results.found, made))
    return results, order


def test_arms_are_all_subsets_of_the_parts_in_the_order_of_the_data() -> None:
    assert len(ARMS) == len({str(arm.mechanisms) + str(arm.fields) for arm in ARMS.values()}) == 64
    assert ARMS[PLAIN].mechanisms == ()
    assert name_of(("gate", "shift")) == "shift+gate"
    for name, arm in ARMS.items():
        config = CONFIRMING["small"].config(arm, 100, 0)
        assert len(config.mechanism_list()) + config.qk_norm == len(SUBSETS[name])
    assert without(("shift", "gate")) == {"shift": ("gate",), "gate": ("shift",)}


def test_stages_follow_each_other_and_the_telling_runs_come_first() -> None:
    results, order = played()
    stages = [run.options["stage"] for run in order]
    design = len(DESIGN.runs) * SCREENED_SEEDS["paper"]
    assert stages[:design] == [SCREENED] * design
    assert SCREENED not in stages[design:]
    assert chosen_parts(results) == CHOSEN_PARTS
    first = order[design : stages.index(COST) + 1]
    assert {run.arm for run in first} == {PLAIN, CHOSEN}
    tests = [run for run in first if run.options["stage"] == TEST]
    assert {run.seed for run in tests} == {0, 1, 2}
    assert [run.options.get("share") for run in tests if run.arm == CHOSEN] == [*SHARES, None] * 3
    assert all(run.options["rate"] == best_rate(results, run.arm) for run in tests)
    later = order[stages.index(COST) + 1 :]
    left = {name_of(parts) for parts in without(CHOSEN_PARTS).values()}
    assert {run.arm for run in later} == left == {"stream", "gate"}
    timed = [place for place, run in enumerate(later) if run.options["stage"] == COST]
    assert timed == list(range(timed[0], timed[0] + len(left)))  # in one group, in turn
    fewer = later[timed[-1] + 1 :]
    assert best_left(results) == "stream"
    assert [(run.arm, run.options["share"]) for run in fewer] == [("stream", s) for s in SHARES] * 3
    by_stage = {stage: {r.seed for r in order if r.options["stage"] == stage} for stage in stages}
    assert len(by_stage[SCREENED]) == SCREENED_SEEDS["paper"]
    assert not by_stage[TEST] & (by_stage[SCREENED] | by_stage[TUNING])


def test_nothing_is_confirmed_where_nothing_is_chosen_and_one_part_has_no_parts() -> None:
    results, order = played(gains=dict.fromkeys(PARTS, 0.05))
    assert {run.options["stage"] for run in order} == {SCREENED}
    assert conclusion(results).startswith("The screening chooses no part")
    alone, order = played(gains=dict.fromkeys(PARTS, 0.01) | {"shift": -0.05})
    assert {run.arm for run in order if run.options["stage"] != SCREENED} == {PLAIN, "shift"}
    assert [row[0] for row in arm_table(alone).rows] == [PLAIN, "shift"]


def test_a_part_that_may_do_nothing_is_not_chosen() -> None:
    results, _ = played(gains=dict.fromkeys(PARTS, 0.01) | {"shift": -0.05, "norm": -0.001})
    unsure = effects_on(results, "loss")["norm"]
    assert unsure.value < 0 < unsure.high
    assert chosen_parts(results) == ("shift",)


def test_what_gets_there_soonest_counts_tokens_and_time() -> None:
    results, _ = played()
    assert soonest(results) == "stream"  # fewer tokens with the gate, but longer steps
    assert soonest(played(gains=GAINS | {"gate": -0.06})[0]) == "stream+gate"
    half, _ = played(until=lambda _, run: run.options["stage"] == COST)
    assert soonest(half) is best_left(half) is None


def test_half_a_screening_chooses_nothing_and_is_gone_on_with() -> None:
    results, order = played("small", until=lambda count, run: count == 20)
    assert [r.seed for r in order] == [run.seed for run in screening_runs("small")[:20]]
    assert effects_on(results, "loss")["shift"].seeds == 1
    spoken = settled(COMBINE, settings(Path("out")))
    assert {run.options["stage"] for run in COMBINE.runs(spoken, results)} == {SCREENED}


def test_the_page_draws_effects_once_a_seed_of_the_screening_is_done() -> None:
    results, _ = played()
    drawn = {f.id: f.plot for f in losses_and_effects(results)}
    (trace,) = drawn["effects"]["data"]
    found = effects_on(results, "loss")
    assert list(trace["y"]) == list(DESIGN.factors)
    assert list(trace["x"]) == [found[part].value for part in DESIGN.factors]
    half, _ = played("small", until=lambda count, run: count == 10)
    assert "effects" not in {f.id for f in losses_and_effects(half)}


def test_verdicts_follow_from_results() -> None:
    good = findings(CLAIMS, played()[0])
    effects, others = good[: len(DESIGN.factors)], good[len(DESIGN.factors) :]
    assert {f.verdict for f in others} == {Verdict.REPRODUCED}
    assert [f.claim.besides for f in others][-3:] == [True] * 3
    for part, found in zip(DESIGN.factors, effects, strict=True):
        assert found.ours is not None
        assert found.ours.value == pytest.approx(GAINS[part], abs=0.005)
        assert found.verdict == Verdict.NOT_TESTABLE  # of one seed
    slow, _ = played(step=1.2, gains={p: g / 100 for p, g in GAINS.items()})
    worse = [str(f.verdict) for f in findings(CLAIMS, slow)]
    assert "reproduced" not in worse
    small = played("small")[0]
    assert {f.verdict for f in findings(CLAIMS, small)} == {Verdict.NOT_TESTABLE}


def test_effects_have_a_verdict_where_the_screening_has_seeds_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SCREENED_SEEDS, "paper", 3)
    found = findings(CLAIMS, played()[0])[: len(DESIGN.factors)]
    assert [f.verdict == Verdict.REPRODUCED for f in found] == [
        part in CHOSEN_PARTS for part in DESIGN.factors
    ]
    assert Verdict.NOT_TESTABLE not in {f.verdict for f in found}


def test_other_choices_leave_claims_on_parts_that_were_not_confirmed_open() -> None:
    other = dict.fromkeys(PARTS, 0.01) | {"norm": -0.05, "gate": -0.05}
    found = findings(CLAIMS, played(gains=other)[0])
    fresh = [f for f in found if f.claim.arms in ((CHOSEN, PLAIN), (RECOMMENDED, PLAIN))]
    assert len(fresh) == 5
    assert all(f.verdict != Verdict.REPRODUCED for f in fresh)


def test_tokens_are_read_off_runs_of_their_own() -> None:
    results, _ = played()
    found = tokens_needed(CHOSEN, results)
    assert found is not None
    gain = -sum(GAINS[part] for part in CHOSEN_PARTS)
    assert found.value == pytest.approx(max(SHARES[0], 1 - gain / 0.5), abs=0.02)


def test_each_process_that_timed_steps_counts_as_a_seed_and_all_rounds_are_resampled() -> None:
    runs = [Run(CHOSEN, seed, {"stage": COST}) for seed in (0, 3)]
    ratios = ([1.0] * ROUNDS, [1.1] * ROUNDS)
    timed = [result(run, step_ratios=of) for run, of in zip(runs, ratios, strict=True)]
    found = step_ratio(CHOSEN, Results("paper", {}, tuple(timed)))
    assert found is not None
    assert (found.seeds, found.value) == (2, 1.05)
    assert (found.low, found.high) == (1.0, 1.1)
    assert step_ratio(CHOSEN, Results("paper", {})) is None


def test_tables_say_what_was_found() -> None:
    results, _ = played()
    parts = {row[0]: row for row in part_table(results).rows}
    assert list(parts) == list(DESIGN.factors)
    assert {part for part, row in parts.items() if row[-1] == "yes"} == set(CHOSEN_PARTS)
    assert parts["shift"][4].startswith("+0.5000 [")
    assert parts["depth"][5] == "+10.00%"
    assert parts["gate"][6] == "10"
    rows = {row[0]: row for row in arm_table(results).rows}
    assert list(rows) == [PLAIN, CHOSEN, *(f"less {part}" for part in CHOSEN_PARTS)]
    assert rows[PLAIN][4:9] == ("n/a", "n/a", "n/a", "n/a", "n/a")
    assert rows[CHOSEN][7].startswith("1.0480 [")
    assert rows["less stream"][6] == rows["less stream"][8] == "n/a"
    assert rows["less gate"][8] == "0.72x"
    assert conclusion(results).endswith("at most 0.75 and 1.05, is met.")
    assert conclusion(played(step=1.2)[0]).endswith("is missed.")
    unsure = played(step=1.0495)[0]  # rounds to either side of the target
    assert conclusion(unsure).endswith("is missed by its values, which the intervals do not show.")
    worse = replace(results, found=tuple(raised(r) for r in results))
    assert "needs more than all of plain's tokens" in conclusion(worse)


def raised(one: Result) -> Result:
    """The result with a loss that is larger by one, where the chosen parts are compared."""
    compared = one.run.options["stage"] == TEST and one.run.arm != PLAIN
    return (
        replace(one, measures={**one.measures, "loss": one.measures["loss"] + 1})
        if compared
        else one
    )


def test_one_seed_has_differences_without_intervals() -> None:
    results, _ = played(until=lambda _, run: run.options["stage"] == TEST and run.seed == 1)
    rows = {row[0]: row for row in arm_table(results).rows}
    assert rows[CHOSEN][1] == "1"
    assert "[" not in rows[CHOSEN][4] + rows[CHOSEN][5] + rows[CHOSEN][6]
    assert rows[CHOSEN][4].startswith("-")
    assert conclusion(results).endswith("It is not confirmed yet.")
    assert conclusion(Results("paper", {})) == "The screening is not done."


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models of a moment, of which two parts are chosen whatever comes of it."""
    rates = replace(TINY.rates, first=(0.01,), most=1)
    one = dict.fromkeys(CONFIRMING, replace(TINY, steps=8, batch_size=2, rates=rates))
    monkeypatch.setattr(combine_runs, "SCREENING", one)
    monkeypatch.setattr(combine_runs, "CONFIRMING", one)
    monkeypatch.setattr(combine_runs, "SCREENED_SEEDS", dict.fromkeys(one, 1))
    monkeypatch.setattr(lm_cost, "ROUNDS", 3)
    for module in (combine_runs, combine_found, combine_table):
        monkeypatch.setattr(module, "chosen_parts", lambda _: ("shift", "gate"))
    operations.cache_clear()
    yield
    operations.cache_clear()


@pytest.mark.usefixtures("tiny")
def test_the_study_trains_and_measures_on_text(text: Path, tmp_path: Path) -> None:
    results = run_study(COMBINE, asked(text, tmp_path), "headway study combine")
    assert still_missing_of(results) == []
    screened = results.of(ARMS, stage=SCREENED)
    assert {r.run.arm for r in screened} == {name_of(parts) for parts in DESIGN.runs}
    by_arm = {r.run.arm: r.measures for r in screened}
    whole = by_arm[name_of(DESIGN.factors)]
    assert whole["operations"] > by_arm[PLAIN]["operations"] == 1
    assert whole["tokens"] < by_arm[PLAIN]["tokens"] == 8 * 2 * 16
    assert whole["parameters"] > by_arm[PLAIN]["parameters"]
    [chosen] = results.of(["shift+gate"], stage=TEST, share=None)
    [shorter] = results.of(["shift+gate"], stage=TEST, share=0.75)
    assert (chosen.measures["tokens"], shorter.measures["tokens"]) == (256, 192)
    assert 0 <= chosen.measures["repeat_accuracy"] <= 1
    assert 0 < chosen.measures["prefix_score"] <= 1
    assert "in_context_gain" not in chosen.measures  # so short a context has no late part
    [cost] = results.of(["shift+gate"], stage=COST)
    assert len(cost.measures["step_ratios"]) == 3
    assert all(ratio > 0 for ratio in cost.measures["step_ratios"])
    assert {r.run.arm for r in results.of(ARMS, stage=COST)} == {"shift+gate", "shift", "gate"}
    assert {r.run.arm for r in results.of(ARMS, stage=TEST, share=0.6)} == {
        "shift+gate",
        best_left(results),
    }
    assert "| less gate |" in markdown(results)


def test_what_is_chosen_is_judged_on_other_text_than_what_is_compared(
    text: Path, tmp_path: Path
) -> None:
    course = Course(ARMS, TINY, asked(text, tmp_path))
    screened, tuned, tested = (
        course.held(Run(PLAIN, 0, {"stage": stage})) for stage in (SCREENED, TUNING, TEST)
    )
    assert torch.equal(screened, tuned)
    assert not torch.equal(screened[:4], tested[:4])


def still_missing_of(results: Results) -> list[Run]:
    """What the same settings would still run."""
    spoken = settled(COMBINE, settings(Path("out"), seeds=1))
    done = {r.run.key for r in results}
    return [run for run in COMBINE.runs(spoken, results) if run.key not in done]


def test_the_tables_are_printed_from_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, _ = played()
    for one in results:
        add_run(tmp_path / "made", COMBINE, replace(results, found=()), one)
    assert main([str(tmp_path / "made")]) == 0
    assert capsys.readouterr().out == markdown(results)
    assert main([str(tmp_path)]) == 2
    assert "accepted is one folder with results of headway study combine" in capsys.readouterr().err


@pytest.fixture
def committed() -> Results:
    found = read_runs(COMMITTED, COMBINE)
    if found is None:
        pytest.skip("docs/results/combine holds no results")
    return found


def test_the_tables_in_the_docs_are_those_of_the_committed_results(committed: Results) -> None:
    begun = {result.run.arm for result in committed if result.run.options["stage"] == TEST}
    assert begun >= {PLAIN, CHOSEN}
    assert begun.isdisjoint(run.arm for run in still_missing(COMBINE, committed))
    assert markdown(committed) in (ROOT / "docs" / "combine.md").read_text(encoding="utf-8"), (
        "run: python -m headway.studies.combine_table docs/results/combine"
    )


def test_what_is_recommended_is_what_gets_there_soonest_in_committed_results(
    committed: Results,
) -> None:
    assert chosen_parts(committed) == CHOSEN_PARTS
    assert soonest(committed) == RECOMMENDED


def test_the_recommended_arm_is_the_recommended_configuration() -> None:
    shape = CONFIRMING["small"].shapes[0]
    ours = CONFIRMING["small"].config(ARMS[RECOMMENDED], 100, 0)
    theirs = HeadwayConfig.recommended(
        vocab_size=100, hidden_size=shape.width, num_attention_heads=shape.heads
    )
    assert ours.mechanism_list() == theirs.mechanism_list()
    assert ours.qk_norm == theirs.qk_norm
    assert SUBSETS[RECOMMENDED] == RECOMMENDED_PARTS
