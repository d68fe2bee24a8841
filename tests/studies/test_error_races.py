"""Races of errors: what arms share, what they hold, and how their errors are compared."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import pytest
import torch
from made_studies import result
from torch import Tensor, nn

from headway.report.figures import CurveText
from headway.studies import estimates
from headway.studies.claims import Results, Run
from headway.studies.races.courses import Course, task_batches
from headway.studies.races.error_races import (
    LEAST,
    MOST,
    ErrorArm,
    ErrorRace,
    error_figure,
    error_points,
    error_ratio,
    last_errors,
    told_training,
)
from headway.studies.races.tuning import FIRST_TUNING_SEED, TEST, TUNING, Tuning, chosen_rate
from headway.tasks.base import Sample, Task
from headway.tasks.denoise import Denoise
from headway.training.ensemble import Call
from headway_settings import StudySettings

TASK = Denoise(classes=3, length=4)


class Scaled(nn.Module):
    """The mean of a row, once or twice, times a factor and plus a bias."""

    twice: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        drawn = torch.Generator().manual_seed(seed)
        self.factor = nn.Parameter(torch.randn(3, generator=drawn))
        self.bias = nn.Parameter(torch.zeros(3))
        self.register_buffer("twice", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return (1 + self.twice) * x.mean(1) * self.factor + self.bias


@dataclass(frozen=True, kw_only=True)
class MeanRace(ErrorRace):
    def drawn(self, task: Task, seed: int) -> nn.Module:
        return Scaled(seed)

    def outputs(self, call: Call, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        found: Tensor = call(batch["inputs"])
        return found

    def loss(self, call: Call, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        return (self.outputs(call, batch) - 1).square().mean()

    def tests(self, task: Task, seed: int) -> Sample:
        return task.sample(5, torch.Generator().manual_seed(seed + 7))

    def errors(self, task: Task, outputs: Tensor, sample: Sample) -> dict[str, Tensor]:
        distance = outputs - sample.inputs.mean(1)
        return {"square": (outputs - 1).square().mean(), "largest": distance.abs().max()}

    def references(self, task: Task, sample: Sample) -> dict[str, float]:
        return {"rows": float(sample.inputs.sum())}

    def told(self, model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Scaled)
        return {"bias": float(model.bias.detach().abs().sum())}


RACE = MeanRace(
    arms={
        "plain": ErrorArm(about="plain", task=TASK),
        "bias": ErrorArm(about="with a bias", task=TASK, learned=frozenset({"bias"})),
        "twice": ErrorArm(about="twice", task=TASK, switched=frozenset({"twice"})),
        "other": ErrorArm(about="plain, other rows", task=replace(TASK, noise=0.5)),
    },
    batch=4,
    course=Course(limit=8, every=2, together=2, target=math.inf),
    tuning=Tuning(rates=(0.01, 0.1), seeds=2, published=0.01),
    copies=8,
)
SETTINGS = StudySettings(name=("made",), device="cpu")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "RESAMPLES", 199)


def run_of(arm: str, seed: int = 0, rate: float = 0.01, stage: str = TEST) -> Run:
    return Run(arm, seed, {"stage": stage, "rate": rate})


def test_arms_start_alike_and_hold_what_only_others_learn() -> None:
    assert {arm: set(RACE.held(arm)) for arm in RACE.arms} == {
        "plain": {"bias"}, "bias": set(), "twice": {"bias"}, "other": {"bias"},
    }  # fmt: skip
    models = {arm: RACE.model(run_of(arm)) for arm in RACE.arms}
    assert {arm: float(m.get_buffer("twice")) for arm, m in models.items()} == {
        "plain": 0, "bias": 0, "twice": 1, "other": 0,
    }  # fmt: skip
    start = models["plain"].get_parameter("factor")
    assert all(torch.equal(m.get_parameter("factor"), start) for m in models.values())
    assert not torch.equal(RACE.model(run_of("plain", 1)).get_parameter("factor"), start)


def test_copies_learn_at_their_rate_what_their_arm_has() -> None:
    """The first step of Adam is as long as its rate."""
    runs = [run_of(arm, 0, rate) for arm in ("plain", "bias") for rate in (0.01, 0.02)]
    ensemble = RACE.together(runs, [RACE.model(run) for run in runs])
    batch = task_batches(TASK, RACE.batch, [0] * 4, "cpu")(0, 1)
    before = ensemble.rows.clone()
    ensemble.step({name: t[0] for name, t in batch.items()}, 1.0)
    moved = {n: m.abs().amax(1) for n, m in ensemble.layout.views(ensemble.rows - before).items()}
    torch.testing.assert_close(moved["factor"], torch.tensor([0.01, 0.02] * 2), rtol=1e-3, atol=0)
    torch.testing.assert_close(moved["bias"], torch.tensor([0, 0, 0.01, 0.02]), rtol=1e-3, atol=0)


def test_copies_of_a_seed_see_the_same_rows() -> None:
    rows = task_batches(TASK, RACE.batch, [3, 4, 3], "cpu")(0, 2)
    assert rows["inputs"].shape == (2, 3, 4, 4, 3)
    assert torch.equal(rows["inputs"][:, 0], rows["inputs"][:, 2])
    assert not torch.equal(rows["inputs"][:, 0], rows["inputs"][:, 1])
    assert not torch.equal(rows["inputs"][0, 0], rows["inputs"][1, 0])


def test_a_copy_in_company_is_trained_as_alone_and_judged_as_its_model() -> None:
    runs = [run_of(arm, seed, rate) for seed in (0, 1) for arm in RACE.arms for rate in (0.01, 0.1)]
    together = {run.key: measures for run, measures in RACE.perform(runs, SETTINGS)}
    assert len(together) == len(runs) == 16
    for run in runs:
        ((_, alone),) = RACE.perform([run], SETTINGS)
        found = together[run.key]
        assert found["last"] == pytest.approx(alone["last"], rel=1e-4)
        assert found["beside"] == alone["beside"]
        assert found["bias"] == pytest.approx(alone["bias"])
        assert (found["bias"] > 0) == (run.arm == "bias")
        assert found["parameters"] == (6 if run.arm == "bias" else 3)
        assert {name: len(curve) for name, curve in found["curve"].items()} == {
            "square": 4, "largest": 4,
        }  # fmt: skip
        assert found["curve"]["square"][-1] == found["last"]["square"]
        assert found["score"] == pytest.approx(-math.log10(found["last"]["square"]), abs=1e-4)
        assert (found["steps"], found["trained"], found["diverged"]) == (None, 8, False)
        model = RACE.model(run)
        sample = RACE.tests(RACE.arms[run.arm].task, run.seed)
        before = float((model(sample.inputs) - 1).detach().square().mean())
        assert found["last"]["square"] < before
    own = [RACE.tests(TASK, seed) for seed in (0, 1)]
    ensemble = RACE.together(runs[:2], [RACE.model(run) for run in runs[:2]])
    for sample, scores in zip(own, RACE.scores(TASK, ensemble, own), strict=True):
        outputs = RACE.model(runs[0])(sample.inputs).detach()
        assert scores == pytest.approx(
            {n: float(e) for n, e in RACE.errors(TASK, outputs, sample).items()}
        )
    plain, other = (together[run_of(arm).key]["beside"] for arm in ("plain", "other"))
    assert plain != other


def test_a_race_keeps_no_curve_and_one_that_breaks_says_so() -> None:
    ((_, raced),) = RACE.perform([run_of("plain", stage=TUNING)], SETTINGS)
    assert raced["last"].keys() == {"square", "largest"}
    assert not {"curve", "beside", "bias"} & raced.keys()
    both = [run_of("plain", rate=1e38), run_of("plain")]
    (_, broken), (_, whole) = RACE.perform(both, SETTINGS)
    assert (broken["diverged"], whole["diverged"]) == (True, False)
    assert broken["trained"] < 8
    assert [len(run["curve"]["square"]) for run in (broken, whole)] == [0, 4]
    assert "bias" not in broken
    assert broken["last"] == {"square": MOST, "largest": MOST}
    assert "Infinity" not in json.dumps(broken)


def test_a_perfect_model_has_the_least_error_that_counts() -> None:
    perfect = RACE.model(run_of("plain"))
    with torch.no_grad():
        perfect.get_parameter("factor").zero_()
        perfect.get_parameter("bias").fill_(1.0)
    ensemble = RACE.together([run_of("plain")], [perfect])
    [scores] = RACE.scores(TASK, ensemble, [RACE.tests(TASK, 0)])
    assert scores["square"] == pytest.approx(LEAST, rel=1e-6, abs=0)


def made(errors: dict[float, float], diverged: frozenset[float] = frozenset()) -> Results:
    found = [
        result(
            run_of("plain", FIRST_TUNING_SEED + n, rate, TUNING),
            steps=None, trained=8, diverged=rate in diverged,
            score=-math.log10(error * (1 + n)), last={"square": error},
        )
        for rate, error in errors.items()
        for n in range(2)
    ]  # fmt: skip
    tests = [
        result(run_of("plain", seed, rate), last={"square": rate + seed},
               beside={"best": 0.5}, curve={"square": [2.0, 1.0 + seed]})
        for seed in range(2)
        for rate in errors
    ]  # fmt: skip
    return Results("paper", {}, (*found, *tests))


def test_the_rate_with_the_least_error_is_taken() -> None:
    assert chosen_rate(made({0.01: 0.2, 0.1: 0.03}), "plain") == 0.1
    assert chosen_rate(made({0.01: 0.02, 0.1: 0.03}), "plain") == 0.01
    assert chosen_rate(made({0.01: 0.2, 0.1: 0.03}, frozenset({0.1})), "plain") == 0.01
    results = made({0.01: 0.2, 0.1: 0.03})
    assert last_errors(results, "plain", "square") == {0: 0.1, 1: 1.1}
    assert last_errors(results, "plain", "square", 0.01) == {0: 0.01, 1: 1.01}
    assert last_errors(results, "plain", "best", part="beside") == {0: 0.5, 1: 0.5}
    points = error_points(RACE, results, "plain", "square")
    assert points == [(2, 2.0), (4, 1.0), (2, 2.0), (4, 2.0)]


def test_errors_are_compared_as_the_median_of_ratios() -> None:
    base = {seed: 1.0 + seed for seed in range(10)}
    found = error_ratio({seed: error / 2 for seed, error in base.items()}, base)
    assert found is not None
    assert (found.value, found.low, found.high, found.seeds) == (0.5, 0.5, 0.5, 10)
    assert found.p == pytest.approx(2 / 2**10)
    same = error_ratio(base, base)
    assert same is not None
    assert (same.value, same.p) == (1.0, 1.0)
    broken = error_ratio({0: 2.0, 1: 2.0, 2: math.inf, 3: math.inf},
                         {0: 1.0, 1: 1.0, 2: 1.0, 3: math.inf})  # fmt: skip
    assert broken is not None
    assert (broken.value, broken.seeds, broken.p) == (2.0, 3, pytest.approx(2 / 2**3))
    lost = error_ratio({0: math.inf, 1: 1.0, 2: math.inf}, {0: 1.0, 1: 1.0, 2: 1.0})
    assert lost is not None
    assert (lost.value, lost.low, lost.high, lost.seeds) == (math.inf, 1.0, math.inf, 3)


def test_errors_are_drawn_on_a_logarithmic_axis() -> None:
    text = CurveText("made", "Made", "", "steps", "error")
    (figure,) = error_figure(text, {"plain": [(1.0, 0.1), (2.0, 0.01)]}, ["plain"])
    assert figure.plot["layout"]["yaxis"]["type"] == "log"
    assert figure.plot["layout"]["yaxis"]["title"]
    assert figure.plot["layout"]["xaxis"].get("type") != "log"
    assert error_figure(text, {}, []) == []


def test_another_rate_than_the_published_one_is_told() -> None:
    assert "at the published 0.0001, for which 0.01 stands here, and" in told_training(RACE)
    published = replace(RACE, tuning=replace(RACE.tuning, published=1e-4))
    told = told_training(published)
    assert "at the published 0.0001 and at the one of 0.01, 0.1 that" in told
    assert told.startswith("8 steps of Adam on 4 rows, errors looked at every 2;")
