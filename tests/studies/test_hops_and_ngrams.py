"""The studies of n-grams and of many hops: their models, and what is claimed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_studies import result

from headway.mechanisms import KVShift
from headway.report import statistics
from headway.studies import estimates
from headway.studies.claim_page import render
from headway.studies.claims import Results, Run, Study, findings
from headway.studies.criteria import Verdict
from headway.studies.kv_shift import hops as hops_study
from headway.studies.kv_shift import ngram as ngram_study
from headway.studies.kv_shift.hops import HOPS
from headway.studies.kv_shift.ngram import NGRAM
from headway.studies.races.courses import Course
from headway.studies.races.tuning import FIRST_TUNING_SEED, TEST, TUNING, Tuning
from headway.studies.running import run_study
from headway.tasks.hops import Hops
from headway.tasks.ngram import NGram
from headway_settings import StudySettings

SEEDS = 12


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "RESAMPLES", 199)


def made(arms: dict[str, dict[str, Any]]) -> Results:
    """Results of arms: `steps` and `last`, a little different for every seed."""
    found = []
    for arm, told in arms.items():
        for seed in [FIRST_TUNING_SEED, *range(SEEDS)]:
            stage = TUNING if seed == FIRST_TUNING_SEED else TEST
            steps = told.get("steps")
            measures = {
                "steps": steps and steps + seed % 5 * 10,
                "last": {k: v + seed % 3 / 500 for k, v in told.get("last", {}).items()},
                "score": 0.9, "trained": told.get("trained", 1_000), "diverged": False,
                "curve": [[10, 0.5], [20, 0.9]],
            }  # fmt: skip
            run = Run(arm, seed, {"stage": stage, "rate": told.get("rate", 0.001)})
            found.append(result(run, **measures))
    return Results("paper", {}, tuple(found))


def verdicts(study: Study, results: Results) -> list[Verdict | None]:
    return [f.verdict for f in findings(study.claims, results)]


def test_n_grams_are_neither_better_nor_worse_within_bounds() -> None:
    plain = {"plain-1": {"steps": 1000}, "plain-2": {"steps": 500}}
    same = made(plain | {"kv-shift-1": {"steps": 1005}, "kv-shift-2": {"steps": 495}})
    assert verdicts(NGRAM, same) == [Verdict.REPRODUCED] * 4
    assert verdicts(NGRAM, replace(same, size="small")) == [Verdict.NOT_TESTABLE] * 4
    faster = made(plain | {"kv-shift-1": {"steps": 600}, "kv-shift-2": {"steps": 495}})
    assert verdicts(NGRAM, faster) == [Verdict.NOT_REPRODUCED, *[Verdict.REPRODUCED] * 3]
    never = made({"plain-1": {}, "kv-shift-1": {}})
    assert verdicts(NGRAM, never) == [Verdict.NOT_TESTABLE, None] * 2


def test_n_grams_that_were_never_learned_do_not_say_that_arms_are_alike() -> None:
    late = {"plain-1": {}, "kv-shift-1": {"steps": 3_900}}
    assert verdicts(NGRAM, made(late))[0] is Verdict.NOT_TESTABLE
    early = {"plain-1": {}, "kv-shift-1": {"steps": 1_000}}
    assert verdicts(NGRAM, made(early))[0] is Verdict.NOT_REPRODUCED


@pytest.mark.parametrize("shorter", ["plain-1", "kv-shift-1"])
def test_n_grams_that_one_arm_learns_alone_are_a_difference(shorter: str) -> None:
    """One seed of an arm does not get there; in another one neither does, which counts for none."""
    all_ = made({"plain-1": {"steps": 1_000}, "kv-shift-1": {"steps": 1_000}})
    never = {(shorter, 0), ("plain-1", 1), ("kv-shift-1", 1)}
    lost = [
        replace(r, measures={**r.measures, "steps": None})
        if (r.run.arm, r.run.seed) in never
        else r
        for r in all_
    ]
    found = findings(NGRAM.claims, results := replace(all_, found=tuple(lost)))[2]
    assert found.ours is not None
    assert (found.our_text, found.ours.seeds) == ("90.9% [58.7%, 99.8%]", SEEDS - 1)
    assert found.verdict is Verdict.NOT_REPRODUCED
    assert found.claim.caveat(results, found.ours).startswith("Got there: kv-shift-1 in 1")
    assert [bool(claim.asked) for claim in NGRAM.claims] == [False, False, True, True]


def test_n_grams_are_told_as_the_paper_tells_them() -> None:
    for told in NGRAM.differs.values():
        assert "0.8K in one layer, 0.4M in two and 50M in four, which are not run" in told


def test_ratios_of_n_grams_tell_who_got_there_before_the_learning_rate_had_risen() -> None:
    results = made({"plain-1": {"steps": 1000}, "kv-shift-1": {"steps": 80}})
    found = findings(NGRAM.claims, results)[0]
    assert found.claim.caveat(results, found.ours).startswith(
        "Within the 100 steps in which the learning rate rises: kv-shift-1 in 8 of 12 seeds."
    )


FAR = {"plain": {"hops_8": 0.95, "hops_16": 0.6}, "kv-shift": {"hops_8": 0.99, "hops_16": 0.97}}


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({}, [Verdict.REPRODUCED] * 4),
        ({"plain": {"hops_8": 0.95, "hops_16": 0.93}},
         [Verdict.NOT_REPRODUCED, Verdict.REPRODUCED, *[Verdict.NOT_REPRODUCED] * 2]),
        ({"kv-shift": {"hops_8": 0.9, "hops_16": 0.5}},
         [Verdict.REPRODUCED, *[Verdict.NOT_REPRODUCED] * 3]),
        ({"kv-shift": {"hops_8": 0.9, "hops_16": 0.8}},
         [Verdict.REPRODUCED, Verdict.NOT_REPRODUCED, *[Verdict.REPRODUCED] * 2]),
        # Better at 16 hops, and no less is lost from 8 on.
        ({"plain": {"hops_8": 0.6, "hops_16": 0.5}, "kv-shift": {"hops_8": 1.0, "hops_16": 0.9}},
         [*[Verdict.REPRODUCED] * 3, Verdict.NOT_REPRODUCED]),
    ],
)  # fmt: skip
def test_many_hops_are_judged_at_eight_and_sixteen(
    changed: dict[str, dict[str, float]], wanted: list[Verdict]
) -> None:
    arms = {arm: {"last": last} for arm, last in (FAR | changed).items()}
    assert verdicts(HOPS, made(arms)) == [*wanted, Verdict.NOT_TESTABLE]


@pytest.mark.parametrize(
    ("trained", "wanted"),
    [(20_000, [Verdict.REPRODUCED] * 5),
     (9_000, [Verdict.NOT_TESTABLE] * 4 + [Verdict.REPRODUCED])],
)  # fmt: skip
def test_accuracies_at_the_end_are_of_runs_that_were_trained_to_the_end(
    trained: int, wanted: list[Verdict]
) -> None:
    steps = {"plain": 9_000, "kv-shift": 4_000}
    told = {a: {"last": FAR[a], "steps": n, "trained": trained} for a, n in steps.items()}
    found = findings(HOPS.claims, results := made(told))
    assert [f.verdict for f in found] == wanted
    caveat = found[2].claim.caveat(results, found[2].ours)
    told = "No figure: 12 runs of kv-shift and 12 runs of plain ended when they got to 99%"
    assert caveat.startswith(told) if trained < 20_000 else not caveat
    first = found[0].claim.caveat(results, found[0].ours)
    assert first.startswith("The same of kv-shift" if trained == 20_000 else "No figure: 12 runs")
    never = made({"plain": {"last": FAR["plain"]}, "kv-shift": {"steps": 4_000}})
    assert verdicts(HOPS, never)[4] is Verdict.REPRODUCED


def test_what_is_lost_is_paired_by_seed_and_compared_between_arms() -> None:
    results = made({arm: {"last": last} for arm, last in FAR.items()})
    shifted = {seed: seed / 100 for seed in range(SEEDS)}  # both arms of a seed lose as much more
    moved = [
        replace(r, measures={**r.measures, "last": {**r.measures["last"], "hops_16":
                r.measures["last"]["hops_16"] - shifted[r.run.seed]}})
        if r.run.seed in shifted
        else r
        for r in results
    ]  # fmt: skip
    found = findings(HOPS.claims, replace(results, found=tuple(moved)))[3]
    assert found.ours is not None
    assert found.ours.value == pytest.approx((0.6 - 0.95) - (0.97 - 0.99))
    assert found.ours.high - found.ours.low < 1e-6
    assert found.claim.asked


def test_accuracies_of_arms_at_different_rates_say_so() -> None:
    apart = {"plain": 0.001, "kv-shift": 0.0003}
    results = made({arm: {"last": FAR[arm], "rate": rate} for arm, rate in apart.items()})
    told = [f.claim.caveat(results, f.ours) for f in findings(HOPS.claims, results)]
    assert "Learning rates differ" in told[0]  # it tells of the other arm, too
    assert told[1] == ""
    assert told[2] == (
        "Learning rates differ: kv-shift at 0.0003, tuned on 1 seed; plain at 0.001, tuned on 1 "
        "seed."
    )
    assert all("Learning rates differ" in words for words in told[2:])


def test_what_the_other_arm_loses_is_told_where_plain_attention_is_judged() -> None:
    results = made({arm: {"last": last} for arm, last in FAR.items()})
    told = [f.claim.caveat(results, f.ours) for f in findings(HOPS.claims, results)]
    assert told[:4] == ["The same of kv-shift: -2.0% [-2.0%, -2.0%].", "", "", ""]
    alone = made({"plain": {"last": FAR["plain"]}})
    found = findings(HOPS.claims, alone)[0]
    assert found.verdict is Verdict.REPRODUCED
    assert found.claim.caveat(alone, found.ours) == ""
    ended = {"last": FAR["kv-shift"], "steps": 4_000, "trained": 9_000}
    cut = made({"plain": {"last": FAR["plain"]}, "kv-shift": ended})
    assert found.claim.caveat(cut, found.ours) == ""


def test_the_headline_says_no_more_than_the_claims() -> None:
    sentences = [claim.claim for claim in HOPS.claims]
    assert "degrades beyond 8 hops" in HOPS.claim
    assert any("degrades beyond 8 hops" in sentence for sentence in sentences)
    assert "less so" in HOPS.claim
    assert any("loses more than KV shifting does" in sentence for sentence in sentences)


def test_intervals_of_accuracies_end_at_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "t_interval", lambda _: (-9.0, 9.0, 0.5))
    monkeypatch.setattr(statistics, "t_interval", lambda _: (-9.0, 9.0, 0.5))
    found = findings(HOPS.claims, made({arm: {"last": last} for arm, last in FAR.items()}))
    ends = [(f.ours.low, f.ours.high) for f in found if f.ours is not None]
    assert ends == [(-1, 1), (0, 1), (-1, 1), (-2, 2)]


def test_a_small_run_that_asks_for_few_hops_tests_nothing() -> None:
    last = {f"hops_{k}": 0.9 for k in range(5)}
    small = replace(made({arm: {"last": last} for arm in FAR}), size="small")
    assert verdicts(HOPS, small) == [Verdict.NOT_TESTABLE] * 5


def test_hops_are_those_of_the_code() -> None:
    race = hops_study.RACES["paper"]
    assert race.task == Hops()
    assert race.batch == 32
    plain, shifted = (race.arms[arm].config for arm in ("plain", "kv-shift"))
    assert (plain.num_hidden_layers, plain.hidden_size, plain.num_attention_heads) == (5, 128, 4)
    assert (plain.position, plain.norm, plain.hidden_act) == ("learned", "layer", "gelu")
    assert shifted.mechanism_list() == [KVShift()]
    assert not plain.mechanism_list()
    assert {"hops_8", "hops_16"} <= set(race.scores)


def test_n_grams_are_two_hundred_and_arms_differ_in_the_shift_alone() -> None:
    race = ngram_study.RACES["paper"]
    assert isinstance(race.task, NGram)
    assert race.task.contexts == 200
    for layers in (1, 2):
        plain, shifted = (race.arms[f"{a}-{layers}"].config for a in ("plain", "kv-shift"))
        assert plain.num_hidden_layers == shifted.num_hidden_layers == layers
        assert shifted.mechanism_list() == [KVShift()]
        assert plain.to_dict() | {"mechanisms": 0} == shifted.to_dict() | {"mechanisms": 0}


@pytest.mark.parametrize("module", [hops_study, ngram_study])
def test_the_studies_run_and_draw(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(
        module.RACES["small"],
        rows=32,
        batch=4,
        course=Course(limit=4, every=2, together=2, target=0.99),
        tuning=Tuning(rates=(0.01,), seeds=1),
    )
    monkeypatch.setitem(module.RACES, "small", small)
    study = HOPS if module is hops_study else NGRAM
    asked = StudySettings(name=(study.name,), out=tmp_path, device="cpu", seeds=2)
    results = run_study(study, asked, "typed")
    assert {r.run.arm for r in results} == set(study.arms)
    assert set(verdicts(study, results)) == {Verdict.NOT_TESTABLE}
    page = render(study, results)
    assert ("over the number of hops" in page) == (study is HOPS)
    assert ("third tokens" in page) == (study is NGRAM)
