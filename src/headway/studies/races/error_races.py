"""Small models that are trained equally long and compared by their errors, arms side by side.

Where an answer is drawn at random or is a vector, no share of right answers tells how good a model
is. The learning rate that leaves the least error in the races is taken.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from headway.report.curves import bands
from headway.report.figures import CurveText, Figure, curve_figure
from headway.studies.claims import Measures, Results, Run, Size, Study
from headway.studies.criteria import Estimate
from headway.studies.estimates import median_ratio
from headway.studies.races.courses import Course, follow, seed_of, task_batches
from headway.studies.races.speed import signed_rank_p
from headway.studies.races.tuning import (
    TEST,
    Points,
    Tuning,
    chosen_rate,
    compared_runs,
    measures_of,
)
from headway.tasks.base import Sample, Task
from headway.training.ensemble import Call, Ensemble
from headway.training.update_rules import AdamW
from headway_settings import StudySettings

RATE = 1e-4
"""Published for all toys of arXiv 2411.12892."""
SIGNIFICANT = 5
"""Digits of an error that are kept."""
LEAST, MOST = 1e-12, 1e12
"""Errors that rounding makes smaller, or that a diverged model makes larger, count as these."""


@dataclass(frozen=True, kw_only=True)
class ErrorArm:
    """A model that is compared.

    Attributes:
        about: what it is.
        task: of its rows.
        learned: parameters that it learns and that other arms hold as they start.
        switched: buffers that are one in it and zero in other arms.
    """

    about: str
    task: Task
    learned: frozenset[str] = frozenset()
    switched: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class ErrorRace(ABC):
    """Models and training of a size; all arms are copies of one program.

    Attributes:
        arms: by name.
        batch: rows a step.
        course: how long; its target is never reached.
        tuning: of the learning rate, which is constant.
        copies: most that are trained in one program.
    """

    arms: Mapping[str, ErrorArm]
    batch: int
    course: Course
    tuning: Tuning
    copies: int

    @abstractmethod
    def drawn(self, task: Task, seed: int) -> nn.Module:
        """The model of a seed, the same for all arms, its buffers zero."""

    @abstractmethod
    def outputs(self, call: Call, batch: Mapping[str, Tensor]) -> Tensor:
        """What one copy says of rows, `(B, ...)`."""

    @abstractmethod
    def loss(self, call: Call, batch: Mapping[str, Tensor]) -> Tensor:
        """Of one copy, a scalar."""

    @abstractmethod
    def tests(self, task: Task, seed: int) -> Sample:
        """The test set of a seed, the same for all arms, on the CPU."""

    @abstractmethod
    def errors(self, task: Task, outputs: Tensor, sample: Sample) -> Mapping[str, Tensor]:
        """Scalars by name of what a copy says of its test set; the first one is raced."""

    def references(self, task: Task, sample: Sample) -> Mapping[str, float]:
        """Errors by name on a test set of what is no model."""
        return {}

    def told(self, model: nn.Module) -> Measures:
        """What a trained model that has not diverged is measured by besides its errors."""
        return {}

    def held(self, arm: str) -> frozenset[str]:
        """Parameters that an arm does not learn."""
        optional = frozenset[str]().union(*(other.learned for other in self.arms.values()))
        return optional - self.arms[arm].learned

    def model(self, run: Run) -> nn.Module:
        """The model of a run before training; arms of a seed start from the same numbers."""
        arm = self.arms[run.arm]
        made = self.drawn(arm.task, seed_of("weights", run.seed))
        for name in arm.switched:
            made.get_buffer(name).fill_(1.0)
        return made

    def perform(
        self, runs: Sequence[Run], settings: StudySettings
    ) -> Iterator[tuple[Run, Measures]]:
        """`Study.perform`."""
        for bundle in self.tuning.bundles(runs, self.copies, lambda run: self.arms[run.arm].task):
            yield from self._train(bundle, settings)

    def _train(
        self, runs: Sequence[Run], settings: StudySettings
    ) -> Iterator[tuple[Run, Measures]]:
        task, device = self.arms[runs[0].arm].task, settings.device
        models = [self.model(run).to(device) for run in runs]
        ensemble = self.together(runs, models, settings.compile)
        tests = {seed: self.tests(task, seed) for seed in dict.fromkeys(run.seed for run in runs)}
        judged = [_on(tests[run.seed], device) for run in runs]
        looks: list[list[dict[str, float]]] = []

        def look() -> Tensor:
            looks.append(self.scores(task, ensemble, judged))
            return torch.tensor([_score(next(iter(of.values()))) for of in looks[-1]])

        copies = follow(
            ensemble,
            task_batches(task, self.batch, [run.seed for run in runs], device),
            lambda step: 1.0,
            look,
            self.course,
        )
        last = looks[-1]
        beside = {seed: self.references(task, sample) for seed, sample in tests.items()}
        for number, (run, copy) in enumerate(zip(runs, copies, strict=True)):
            trained = ensemble.fill(number, models[number])
            measures = {
                **measures_of(run, copy, {}, self._count(run, trained)),
                "last": _kept(last[number]),
            }
            if run.options["stage"] == TEST:
                curves = [of[number] for of in looks[: len(copy.curve)]]
                measures |= {
                    "curve": {name: [_short(of[name]) for of in curves] for name in last[number]},
                    "beside": _kept(beside[run.seed]),
                    **({} if copy.diverged else self.told(trained)),
                }
            yield run, measures

    def _count(self, run: Run, model: nn.Module) -> int:
        held = self.held(run.arm)
        return sum(p.numel() for name, p in model.named_parameters() if name not in held)

    def together(
        self, runs: Sequence[Run], models: Sequence[nn.Module], compiled: bool = False
    ) -> Ensemble:
        """The models of runs as copies under Adam, each at its own rate and without what its arm
        holds."""
        return Ensemble.of(
            models,
            self.loss,
            AdamW(betas=(0.9, 0.999)),
            rates=[run.options["rate"] for run in runs],
            fixed=[self.held(run.arm) for run in runs],
            compiled=compiled,
        )

    def scores(
        self, task: Task, ensemble: Ensemble, tests: Sequence[Sample]
    ) -> list[dict[str, float]]:
        """The errors of each copy on its test set, from `LEAST` to `MOST`."""
        judge = replace(ensemble, loss=self.outputs)
        found = judge.losses({"inputs": torch.stack([sample.inputs for sample in tests])})
        errors = [self.errors(task, own, sample) for own, sample in zip(found, tests, strict=True)]
        names = list(errors[0])
        # One transfer for all copies, where each number on its own would wait for a GPU.
        values = torch.stack([torch.stack([of[name] for name in names]) for of in errors])
        rows = values.nan_to_num(nan=MOST).clamp(LEAST, MOST).tolist()
        return [dict(zip(names, row, strict=True)) for row in rows]


def _on(sample: Sample, device: str) -> Sample:
    return Sample(inputs=sample.inputs.to(device), targets=sample.targets.to(device))


def _score(error: float) -> float:
    """What is raced: the larger, the smaller the error."""
    return -math.log10(error)


def _short(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT}g}")


def _kept(errors: Mapping[str, float]) -> dict[str, float]:
    return {name: _short(max(value, LEAST)) for name, value in errors.items()}


Curves = Mapping[int, Sequence[float]]
"""An error at each look, by seed."""


def error_curves(results: Results, arm: str, name: str, rate: float | None = None) -> Curves:
    """An error over training by seed; arguments as in `compared_runs`, and the error's name."""
    return {r.run.seed: r.measures["curve"][name] for r in compared_runs(results, arm, rate)}


def last_errors(
    results: Results, arm: str, name: str, rate: float | None = None, part: str = "last"
) -> dict[int, float]:
    """An error at the end of training by seed.

    Args:
        results, arm, rate: as in `compared_runs`.
        name: of the error.
        part: `last`: of the model; `beside`: of what is no model, on the same rows.
    """
    return {r.run.seed: r.measures[part][name] for r in compared_runs(results, arm, rate)}


def error_ratio(arm: Mapping[int, float], base: Mapping[int, float]) -> Estimate | None:
    """Median of arm / base over seeds with its bootstrap interval, and the p-value of the signed
    ranks of their logarithms.

    Args:
        arm, base: errors by seed, above zero; infinite where a model diverged.
    """
    found = median_ratio(arm, base)
    if found is None:
        return None
    shared = sorted(arm.keys() & base.keys())
    differences = [math.log(arm[s]) - math.log(base[s]) for s in shared if arm[s] != base[s]]
    return replace(found, p=signed_rank_p(differences))


def error_points(
    race: ErrorRace, results: Results, arm: str, name: str, rate: float | None = None
) -> Points:
    """An error over steps as points of a figure; arguments as in `error_curves`."""
    return [
        (race.course.every * (look + 1), error)
        for curve in error_curves(results, arm, name, rate).values()
        for look, error in enumerate(curve)
    ]


def error_figure(
    text: CurveText, points: Mapping[str, Points], arms: Sequence[str]
) -> list[Figure]:
    """Errors on a logarithmic axis; nothing where there are none."""
    if not (shown := bands(points)):
        return []
    figure = curve_figure(text, shown, arms)
    look: dict[str, Any] = figure.plot["layout"]
    axis = look["yaxis"] | {"type": "log"}
    return [replace(figure, plot={**figure.plot, "layout": look | {"yaxis": axis}})]


def error_study(races: Mapping[Size, ErrorRace], **told: Any) -> Study:
    """A study whose runs are these races; other fields of `Study` are told."""
    return Study(
        arms={name: arm.about for race in races.values() for name, arm in race.arms.items()},
        seeds={"small": 3, "paper": 16},
        heeds=("compile",),
        runs=lambda settings, results: races[settings.size].tuning.runs(
            tuple(races[settings.size].arms), settings, results
        ),
        perform=lambda runs, settings: races[settings.size].perform(runs, settings),
        rate=chosen_rate,
        **told,
    )


def told_training(race: ErrorRace) -> str:
    """How long and at which rates models are trained, for what a study says of where it differs."""
    published = f"{race.tuning.published:g}"
    stands = f", for which {published} stands here," if race.tuning.published != RATE else ""
    return (
        f"{race.course.limit:,} steps of Adam on {race.batch} rows, errors looked at every "
        f"{race.course.every}; the learning rate is constant, at the published {RATE:g}{stands} "
        f"and at the one of {race.tuning.told} that leaves the least error on "
        f"{race.tuning.seeds} other seeds"
    )
