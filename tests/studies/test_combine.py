"""The study `combine`: its parts, its stages, and training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_studies import settings
from small_combine import GAINS, played, still_to_run
from small_language_models import TINY, asked

from headway.studies.claims import Results, Run
from headway.studies.combine import found as combine_found
from headway.studies.combine import runs as combine_runs
from headway.studies.combine import table as combine_table
from headway.studies.combine.found import (
    SCREENED,
    best_left,
    chosen_parts,
    effects_on,
    soonest,
)
from headway.studies.combine.parts import (
    ARMS,
    CHOSEN_PARTS,
    CONFIRMING,
    DESIGN,
    PARTS,
    PLAIN,
    SCREENED_SEEDS,
    SHARES,
    SUBSETS,
    name_of,
    without,
)
from headway.studies.combine.runs import operations, screening_runs
from headway.studies.combine.study import CHOSEN, COMBINE
from headway.studies.combine.table import (
    arm_table,
    conclusion,
    losses_and_effects,
    markdown,
)
from headway.studies.language_models import cost as lm_cost
from headway.studies.language_models.cost import COST
from headway.studies.language_models.course import Course
from headway.studies.language_models.rates import best_rate
from headway.studies.races.tuning import TEST, TUNING
from headway.studies.running import run_study, settled


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
    return still_to_run(settled(COMBINE, settings(Path("out"), seeds=1)), results)
