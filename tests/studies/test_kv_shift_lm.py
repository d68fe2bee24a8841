"""The study `kv-shift-lm`: training, resuming, taps, and its page."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_studies import result
from small_language_models import asked, compared_run, make_tiny, raced

from headway.errors import HeadwayError
from headway.mechanisms.kv_shift import KVShiftModule
from headway.studies.claims import Result, Results, Run, findings
from headway.studies.criteria import Verdict
from headway.studies.kv_shift import kv_shift_lm
from headway.studies.kv_shift.kv_shift_lm import (
    ARMS,
    CLAIMS,
    EXTENTS,
    HIGH,
    HIGHER,
    KV_SHIFT_LM,
    QUADRANTS,
    look,
    quadrants,
)
from headway.studies.language_models.course import Course, Extent
from headway.studies.language_models.rates import best_rate
from headway.studies.races.tuning import TEST, TUNING
from headway.studies.running import run_study


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Extent:
    return make_tiny(monkeypatch, kv_shift_lm)


def course_of(tiny: Extent, text: Path, folder: Path, **fields: object) -> Course:
    return Course(ARMS, tiny, asked(text, folder, **fields))


def run_of(arm: str, seed: int = 0, rate: float = 0.01, stage: str = TEST) -> Run:
    return Run(arm, seed, {"stage": stage, "rate": rate})


def test_a_study_runs_resumes_and_says_what_small_cannot_test(
    tiny: Extent, text: Path, tmp_path: Path
) -> None:
    settings = asked(text, tmp_path, arms=("plain", "kv-shift"))
    results = run_study(KV_SHIFT_LM, settings, "headway study kv-shift-lm")
    assert len(results.found) == 2 * (2 + 1)
    for r in results:
        assert 0 < r.measures["loss"] < math.log(300) + 1
        assert r.measures["tokens"] == tiny.tokens
        assert r.measures["held_tokens"] <= tiny.held_tokens
        assert ("curve" in r.measures) == (r.run.options["stage"] == TEST)
    [kept] = results.of(["kv-shift"], stage=TEST)
    assert kept.run.options["rate"] == best_rate(results, "kv-shift")
    assert sum(kept.measures["quadrants"].values()) == kept.measures["heads"] == 2
    [plain] = results.of(["plain"], stage=TEST)
    assert kept.measures["parameters"] - plain.measures["parameters"] == 4 * 2
    verdicts = {f.claim.claim: f.verdict for f in findings(CLAIMS, results)}
    assert verdicts[CLAIMS[0].claim] == Verdict.NOT_TESTABLE
    assert verdicts[CLAIMS[-1].claim] == Verdict.REPRODUCED
    again = run_study(KV_SHIFT_LM, replace(settings, seeds=2), "headway study kv-shift-lm")
    assert all(r in again.found for r in results.found)
    assert len(again.found) == len(results.found) + 2
    assert KV_SHIFT_LM.figures(again)


def test_a_run_is_the_same_whenever_it_is_made(tiny: Extent, text: Path, tmp_path: Path) -> None:
    first, second = (
        course_of(tiny, text, tmp_path).trained(run_of("kv-shift"))[1]["loss"] for _ in range(2)
    )
    other = course_of(tiny, text, tmp_path).trained(run_of("kv-shift", seed=1))[1]["loss"]
    assert first == second != other


def test_arms_of_a_seed_share_weights_and_are_judged_on_other_text_than_rates(
    tiny: Extent, text: Path, tmp_path: Path
) -> None:
    course = course_of(tiny, text, tmp_path)
    plain, shifted = (course.drawn(run_of(arm)).state_dict() for arm in ("plain", "kv-shift"))
    assert all(torch.equal(plain[name], shifted[name]) for name in plain)
    assert len(shifted) > len(plain)
    other = course.drawn(run_of("plain", seed=1)).state_dict()
    assert not torch.equal(plain["lm_head.weight"], other["lm_head.weight"])
    first, second = run_of("plain"), run_of("plain", seed=1)
    assert torch.equal(course.data(first).batch(3), course.data(run_of("kv-shift")).batch(3))
    assert not torch.equal(course.data(first).batch(3), course.data(second).batch(3))
    held, raced_on = (course.held(run_of("plain", stage=stage)) for stage in (TEST, TUNING))
    assert not torch.equal(held[:4], raced_on[:4])


def test_the_identity_arm_starts_as_the_plain_one(tiny: Extent, text: Path, tmp_path: Path) -> None:
    course = course_of(tiny, text, tmp_path)
    ids = course.held(run_of("plain"))[:2]
    plain, identity, shifted = (
        course.drawn(run_of(arm))(ids).logits for arm in ("plain", "kv-shift-identity", "kv-shift")
    )
    torch.testing.assert_close(plain, identity)
    assert not torch.allclose(plain, shifted)


def test_what_knows_no_more_than_frequencies_has_diverged(
    tiny: Extent, text: Path, tmp_path: Path
) -> None:
    course = course_of(tiny, text, tmp_path)
    _, measures = course.trained(run_of("plain", rate=1e-12))
    assert measures["diverged"]
    assert measures["loss"] > measures["unigram"]
    _, far = course.trained(run_of("plain", rate=1e30))
    assert far["diverged"]
    assert not far["finished"]
    assert math.isfinite(far["loss"])


def test_a_run_that_is_stopped_leaves_no_result(tiny: Extent, text: Path, tmp_path: Path) -> None:
    settings = asked(text, tmp_path, arms=("plain",), seconds=1e-9)
    with pytest.raises(HeadwayError, match="seconds: 1e-09 were over at step 1 of 12 of plain"):
        run_study(KV_SHIFT_LM, settings, "headway study kv-shift-lm")
    assert not (tmp_path / "out" / "plain.json").exists()
    run_study(KV_SHIFT_LM, replace(settings, seconds=None), "headway study kv-shift-lm")


def test_tokens_of_another_text_and_settings_without_meaning_are_refused(
    tiny: Extent, text: Path, tmp_path: Path
) -> None:
    assert course_of(tiny, text, tmp_path).corpus.vocab_size == tiny.vocab_size
    other = course_of(tiny, tmp_path / "other.txt", tmp_path)
    with pytest.raises(HeadwayError, match=r"corpus: .* holds tokens of"):
        _ = other.corpus
    with pytest.raises(HeadwayError, match="steps: 0 is not accepted"):
        run_study(KV_SHIFT_LM, asked(text, tmp_path, steps=0), "headway study kv-shift-lm")


def test_quadrants_are_named_after_the_larger_taps() -> None:
    key = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.1, 0.9], [0.2, 0.8]])
    value = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1]])
    assert list(quadrants(key, value).values()) == [1, 2, 1, 1]
    assert tuple(quadrants(key, value)) == QUADRANTS


def test_the_page_draws_the_taps_of_the_models_that_are_compared() -> None:
    taps = [[0.25, 0.5, 1.0, -0.25], [1.0, 0.0, 0.5, 0.75]]
    runs = [compared_run("kv-shift", 1.0, seed, taps=taps) for seed in (0, 1)]
    plain = compared_run("plain", 1.0, 0)
    races = [*raced("kv-shift", {1.0: 3}), *raced("plain", {1.0: 3})]
    drawn = {
        f.id: f.plot for f in KV_SHIFT_LM.figures(Results("small", {}, (*races, *runs, plain)))
    }
    (trace,) = drawn["taps"]["data"]
    assert list(trace["x"]) == [-0.25, 1.0] * 2
    assert list(trace["y"]) == [1.25, -0.25] * 2
    assert trace["customdata"][0] == "keys 0.25 and 0.50, values 1.00 and -0.25"
    without = {f.id for f in KV_SHIFT_LM.figures(Results("small", {}, (*races, plain)))}
    assert without == drawn.keys() - {"taps"}


def test_taps_are_read_from_the_model(tiny: Extent, text: Path, tmp_path: Path) -> None:
    course = course_of(tiny, text, tmp_path)
    model = course.drawn(run_of("kv-shift"))
    for module in model.modules():
        if isinstance(module, KVShiftModule):
            with torch.no_grad():
                module.key.copy_(torch.tensor([[0.25, 0.5]]))
                module.value.copy_(torch.tensor([[1.0, -0.25]]))
    found = look(course, model, run_of("kv-shift"))
    assert found["quadrants"] == {
        "keep both": 0,
        "induction": 2,
        "shift values": 0,
        "shift both": 0,
    }
    assert found["taps"] == [[0.25, 0.5, 1.0, -0.25]] * 2
    assert found["sum_off_one"] == pytest.approx(0.25)
    assert found["negative"] == pytest.approx(0.25)
    assert look(course, course.drawn(run_of("plain")), run_of("plain")) == {}


def test_the_paper_size_is_what_its_claims_ask_for() -> None:
    paper = EXTENTS["paper"]
    assert paper.fields == {"qk_norm": True}
    large = paper.shapes[1]
    assert (large.layers, large.width, large.heads, large.kv_heads) == (12, 768, 12, 4)
    assert ARMS["plain-bare"].at == ARMS["kv-shift-bare"].at == (HIGH, HIGHER)


def test_the_page_tells_what_the_taps_of_each_arm_learned() -> None:
    def learned(arm: str, rate: float, seed: int, induction: int, sums: float) -> Result:
        counts = dict.fromkeys(QUADRANTS, 1) | {"induction": induction, "shift both": 7 - induction}
        return compared_run(
            arm, rate, seed, heads=9, quadrants=counts, sum_off_one=sums, negative=0.25
        )

    runs = [
        *raced("kv-shift", {1e-3: 3, 2e-3: 2}), *raced("plain", {1e-3: 3}),
        learned("kv-shift", 2e-3, 0, 1, 0.5), learned("kv-shift", 2e-3, 1, 2, 1.0),
        learned("kv-shift", 1e-3, 0, 7, 9.0), learned("kv-shift-bare", HIGHER, 0, 7, 2.0),
        compared_run("kv-shift-bare", HIGHER, 1, diverged=True), compared_run("plain", 1e-3, 0),
    ]  # fmt: skip
    (table,) = KV_SHIFT_LM.tables(Results("paper", {}, tuple(runs)))
    assert table.columns[4:8] == QUADRANTS
    assert table.rows == (
        ("kv-shift", "0.002", "2", "9", "11.1%", "16.7%", "11.1%", "61.1%", "0.750", "25.0%"),
        ("kv-shift-bare", "0.04", "1", "9", "11.1%", "77.8%", "11.1%", "0.0%", "2.000", "25.0%"),
    )
    assert not KV_SHIFT_LM.tables(Results("paper", {}, tuple(runs[-1:])))


def test_a_folder_of_two_texts_is_refused(tiny: Extent, text: Path, tmp_path: Path) -> None:
    two = (result(run_of("plain"), corpus="a"), result(run_of("plain", 1), corpus="b"))
    with pytest.raises(HeadwayError, match="different texts"):
        KV_SHIFT_LM.runs(asked(text, tmp_path), Results("small", {}, two))
