"""In-context classification: the arms are what they say, pairs are pairs, and how it is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from headway.mechanisms.residual_stream import ResidualStream, ResidualStreamModule
from headway.report.page import REPORT_NAME
from headway.studies import estimates
from headway.studies.claim_page import write_claim_page
from headway.studies.claims import Run, findings
from headway.studies.criteria import Verdict
from headway.studies.races.courses import Course, generator_of
from headway.studies.races.tuning import FIRST_TUNING_SEED, TEST, TUNING, Tuning
from headway.studies.residual_streams import icl_classification, icl_training
from headway.studies.residual_streams.icl_classification import CLAIMS, ICL_CLASSIFICATION
from headway.studies.residual_streams.icl_training import (
    ARMS,
    EXTENTS,
    SETS,
    Extent,
    drawn_model,
    learned_numbers,
    together,
    train,
    training_batches,
    world_of,
)
from headway.studies.residual_streams.toy_classifier import StreamClassifier
from headway.studies.running import run_study
from headway.tasks.classification import Classification
from headway.training.ensemble import Ensemble
from headway.training.update_rules import SGD
from headway_settings import StudySettings

PAPER = EXTENTS["paper"]
TASK = Classification(pairs=2, slots=5, labels=4, classes=8, width=6, novel_classes=8, burstiness=1)
TINY = Extent(
    task=TASK,
    batch=4,
    rows=40,
    course=Course(limit=4, every=2, together=2, target=0.2),
    published=Course(limit=8, every=4, together=2, target=0.2),
    tuning=Tuning(rates=(0.1, 0.2), seeds=1, published=0.1),
    copies=20,
)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "RESAMPLES", 199)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Extent:
    for module in (icl_classification, icl_training):
        monkeypatch.setattr(module, "EXTENTS", {"small": TINY, "paper": TINY})
    return TINY


def run_of(arm: str, seed: int = 0, rate: float = 0.1, stage: str = TEST) -> Run:
    return Run(arm, seed, {"stage": stage, "rate": rate})


def model_of(arm: str, seed: int = 0, task: Classification = TASK) -> StreamClassifier:
    return drawn_model(task, run_of(arm, seed))


STREAMED = {
    "value": ResidualStream(),
    "key": ResidualStream(stream="key"),
    "query": ResidualStream(stream="query"),
    "value-scaled": ResidualStream(scale=0.5**0.5),
    "first-layer": ResidualStream(source="first", scale=0.5),
}


def plainly(model: StreamClassifier, x: Tensor, mechanism: ResidualStream | None) -> Tensor:
    """The same pass, all tokens and every projection written out, with the mechanism's own sum."""
    start = x

    def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        hidden = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        scores = (q @ k.transpose(1, 2)).masked_fill(hidden, float("-inf"))
        return scores.softmax(-1) @ v

    first = [x @ w.T for w in model.first.chunk(3)]
    x = x + attended(*first)
    second = [x @ w.T for w in model.second.chunk(3)]
    if mechanism is not None:
        module = ResidualStreamModule(mechanism, None)  # type: ignore[arg-type]
        place = ("query", "key", "value").index(mechanism.stream)
        second[place] = module.mixed(second[place], first[place])
    second[2] = second[2] + start @ model.extra.T
    y = (x + attended(*second))[:, -1]
    for matrix, bias in zip(model.layers, model.biases, strict=True):
        y = (y @ matrix.T + bias).relu()
    return y @ model.readout.T


@pytest.mark.parametrize("arm", list(ARMS))
def test_each_arm_is_the_pass_that_it_says(arm: str) -> None:
    model = model_of(arm).double()
    x = torch.randn(3, 5, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = plainly(model, x, STREAMED.get(arm))
    torch.testing.assert_close(model(x), wanted, rtol=1e-6, atol=1e-6)
    if arm in STREAMED or arm == "own-matrix":
        assert not torch.allclose(model(x), plainly(model_of("plain").double(), x, None))


def test_the_paper_size_is_the_published_model_and_task() -> None:
    assert PAPER.task == Classification()
    assert (PAPER.batch, PAPER.rows) == (128, 10_000)
    assert PAPER.tuning.published == 0.01
    course = PAPER.course_of(run_of("plain", rate=0.01))
    assert (course.limit, course.every, course.target) == (75_000, 500, 0.95)
    assert PAPER.course_of(run_of("plain", rate=0.1)) == PAPER.course
    assert PAPER.course_of(run_of("plain", rate=0.01, stage=TUNING)) == PAPER.course
    counts = {arm: learned_numbers(run_of(arm), model_of(arm, task=PAPER.task)) for arm in ARMS}
    assert counts.pop("own-matrix") == 207_303 + 150 * 150
    assert set(counts.values()) == {207_303}


def test_initial_weights_have_the_published_deviations() -> None:
    model = model_of("own-matrix", task=PAPER.task)
    for tensor in (model.first, model.second, model.extra):
        assert tensor.std().item() == pytest.approx(85**-0.5, rel=0.02)
    for tensor in model.layers:
        assert tensor.std().item() == pytest.approx((2 / 150) ** 0.5, rel=0.02)
    assert model.readout.std().item() == pytest.approx(150**-0.5, rel=0.05)


def test_only_the_values_start_larger() -> None:
    plain, larger = (model_of(arm).second.chunk(3) for arm in ("plain", "larger-values"))
    assert torch.equal(plain[0], larger[0])
    assert torch.equal(plain[1], larger[1])
    torch.testing.assert_close(plain[2] * 2**0.5, larger[2])


def test_copies_learn_at_their_rate_what_their_arm_has() -> None:
    runs = [run_of("value", 0, 0.1), run_of("value", 0, 0.2), run_of("own-matrix", 0, 0.1)]
    models = [drawn_model(TASK, run) for run in runs]
    ensemble = together(runs, models)
    batch = training_batches(TINY, [0, 0, 0], "cpu")(0, 1)
    before = ensemble.rows.clone()
    ensemble.step({name: t[0] for name, t in batch.items()}, 1.0)
    moved = ensemble.rows - before
    torch.testing.assert_close(moved[1], 2 * moved[0], rtol=1e-3, atol=1e-6)
    extra = ensemble.layout.views(moved)["extra"]
    assert not ensemble.parameters["extra"][:2].any()
    assert extra[2].abs().max() > 0
    assert torch.equal(ensemble.buffers["weights"][0], torch.tensor([[1.0, 0], [1, 0], [1, 1]]))


def values_of(model: StreamClassifier) -> Tensor:
    """The values that the second layer weighs, of random unit tokens in both layers."""
    own, source = (float(w) for w in model.weights[2])
    x = torch.randn(2, 4_000, 150, generator=torch.Generator().manual_seed(2))
    first, second = (w.chunk(3)[2] for w in (model.first, model.second))
    return own * x[1] @ second.T + source * x[0] @ first.T


def test_a_scaled_stream_and_larger_weights_match_what_they_control_for() -> None:
    variance = {arm: values_of(model_of(arm, task=PAPER.task)).var().item() for arm in ARMS}
    plain = variance["plain"]
    assert variance["value"] == pytest.approx(2 * plain, rel=0.03)
    assert variance["value-scaled"] == pytest.approx(plain, rel=0.03)
    assert variance["larger-values"] == pytest.approx(2 * plain, rel=0.03)
    assert variance["first-layer"] == pytest.approx(plain / 2, rel=0.03)


def test_arms_of_a_seed_share_weights_data_and_tests() -> None:
    plain = dict(model_of("plain").named_parameters())
    for arm in ARMS:
        for name, p in model_of(arm).named_parameters():
            if name != "extra" and (arm, name) != ("larger-values", "second"):
                assert torch.equal(p, plain[name]), (arm, name)
    assert not torch.equal(model_of("plain", 1).first, plain["first"])
    batch = training_batches(TINY, [0, 0, 1], "cpu")(0, 3)
    assert batch["inputs"].shape == (3, 3, 4, 5, 11)
    assert torch.equal(batch["inputs"][:, 0], batch["inputs"][:, 1])
    assert not torch.equal(batch["inputs"][:, 0], batch["inputs"][:, 2])
    assert not torch.equal(batch["targets"][:, 0], batch["targets"][:, 2])


def test_what_is_drawn_for_weights_is_not_drawn_for_the_world() -> None:
    """From one seed the class means would be the first weights, number by number."""
    first = model_of("plain", 0, PAPER.task).first.detach().flatten()
    means = world_of(PAPER.task, 0).means()
    drawn = torch.cat([means.labels, means.classes]).flatten()
    assert abs(torch.corrcoef(torch.stack([first[: len(drawn)], drawn]))[0, 1]) < 0.02
    assert not torch.equal(means.labels, world_of(PAPER.task, 1).means().labels)


def test_novel_classes_are_new_at_every_step() -> None:
    """The bursty items of one step share means with each other, not with those of the next."""
    novel = replace(TINY, task=replace(TASK, p_novel=1.0, deviation=0.0), batch=200)
    steps = training_batches(novel, [0], "cpu")(0, 2)["inputs"][:, 0, :, 0, 5:]
    kinds = [{tuple(row.tolist()) for row in step} for step in steps]
    assert all(len(step) <= 8 for step in kinds)
    assert not kinds[0] & kinds[1]


def test_tests_score_each_copy_on_the_four_sets_of_its_seed() -> None:
    runs = [run_of("plain", 0), run_of("value", 0), run_of("plain", 1)]
    models = [drawn_model(TASK, run) for run in runs]
    ensemble = Ensemble.of(models, icl_training._loss, SGD())
    found = icl_training.tests(ensemble, TINY, [0, 0, 1], "cpu")(SETS)
    assert tuple(found) == SETS
    for number, (run, model) in enumerate(zip(runs, models, strict=True)):
        generator = generator_of("tests", run.seed, "cpu")
        for name, task in world_of(TASK, run.seed).test_sets().items():
            sample = task.sample(TINY.rows, generator)
            share = (model(sample.inputs).argmax(-1) == sample.targets).float().mean()
            assert found[name][number].item() == pytest.approx(share.item())


def test_a_copy_in_company_is_trained_as_alone() -> None:
    runs = [run_of(arm, seed, rate) for arm in ("plain", "value") for seed in (0, 1)
            for rate in (0.2, 0.3)]  # fmt: skip
    extent = replace(TINY, course=replace(TINY.course, target=2.0))
    company = dict(zip([r.key for r in runs], train(runs, extent, "cpu", False), strict=True))
    for run in runs[::3]:
        ((_, alone),) = train([run], extent, "cpu", False)
        assert company[run.key][1] == alone
    assert len({str(measures["curve"]) for _, measures in company.values()}) > 1


def test_a_study_is_tuned_on_its_own_seeds_resumed_and_drawn(tmp_path: Path, tiny: Extent) -> None:
    asked = StudySettings(name=("icl-classification",), out=tmp_path, device="cpu", seeds=2)
    run_study(ICL_CLASSIFICATION, replace(asked, arms=("plain",), seeds=1), "typed")
    results = run_study(ICL_CLASSIFICATION, asked, "typed")
    stages = {
        stage: {r.run.seed for r in results if r.run.options["stage"] == stage}
        for stage in (TUNING, TEST)
    }
    assert stages == {TUNING: {FIRST_TUNING_SEED}, TEST: {0, 1}}
    for arm in ARMS:
        rates = {r.run.options["rate"] for r in results.of([arm], stage=TEST)}
        assert {0.1} <= rates <= {0.1, 0.2}
    last = results.of(["value"], stage=TEST)[0].measures["last"]
    assert tuple(last) == SETS
    verdicts = {f.claim.claim: f.verdict for f in findings(CLAIMS, results)}
    assert set(list(verdicts.values())[:-1]) == {Verdict.NOT_TESTABLE}
    assert list(verdicts.values())[-1] == Verdict.REPRODUCED
    page = write_claim_page(tmp_path, ICL_CLASSIFICATION, results)
    assert page.name == REPORT_NAME
    assert "the learning rate" in page.read_text(encoding="utf-8")


def test_the_key_that_the_released_code_shares_is_told_and_not_shared_here() -> None:
    model = model_of("plain", task=PAPER.task)
    matrix, readout = (p.detach().flatten() for p in (model.layers[2], model.readout))
    both = torch.stack([matrix[: len(readout)], readout])
    assert abs(torch.corrcoef(both)[0, 1]) < 0.05
    assert model.biases[1] != model.biases[2]
    assert all("from one random key" in told for told in ICL_CLASSIFICATION.differs.values())
