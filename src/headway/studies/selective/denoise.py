"""The study `denoise`: values that can be silenced keep noise out of what attention reads.

Section 3.4 of arXiv 2411.12892: one head finds the signal of the last token among signals and pure
noise, with values that pass a threshold, with learned temperatures, or plain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headway.report.cells import Table
from headway.report.curves import OVER_SEEDS
from headway.report.figures import CurveText, Figure
from headway.report.words import MISSING
from headway.studies.claims import NOT_TESTED, Claim, Results, Size
from headway.studies.criteria import Criterion, Estimate, within
from headway.studies.estimates import mean_of
from headway.studies.races.courses import Course, seed_of
from headway.studies.races.error_races import (
    RATE,
    ErrorArm,
    ErrorRace,
    error_figure,
    error_points,
    error_ratio,
    error_study,
    last_errors,
    told_training,
)
from headway.studies.races.speed import faster
from headway.studies.races.tuning import TEST, Tuning
from headway.tasks.base import Sample, Task
from headway.tasks.denoise import Denoise, squared_error
from headway.training.ensemble import Call

THRESHOLD = 0.5
"""Of the largest entry, from which on the paper's gate takes a token for a signal."""


class Denoiser(nn.Module):
    """One head of one layer whose output at the last token is the estimate.

    `sum_j softmax_j(tau_q(x_L) (x_L W_q) (x_j W_k)^T / sqrt(d)) g(x_j) tau_v(x_j) x_j W_v`, with
    `tau(x) = 1 + tanh(w . gelu(x W))` of the own projection, and `g(x)` one, or where the buffer
    `gate` is one `1[max_i x_i >= 1/2]`. No position encoding and no position part: the order of
    tokens says nothing.

    Args:
        width: d.
        seed: of the initial weights.
    """

    gate: Tensor

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def drawn() -> nn.Parameter:
            return nn.Parameter(torch.randn(width, width, generator=generator) * width**-0.5)

        self.query, self.key, self.value = drawn(), drawn(), drawn()
        self.of_query = nn.Parameter(torch.zeros(width))
        self.of_value = nn.Parameter(torch.zeros(width))
        self.register_buffer("gate", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Estimates `(B, d)` from tokens `(B, L, d)`."""
        asked, values = x[:, -1] @ self.query, x @ self.value
        asked = _temperature(asked, self.of_query) * asked * x.shape[-1] ** -0.5
        attention = ((x @ self.key) * asked[:, None]).sum(-1).softmax(-1)
        signal = (x.amax(-1, keepdim=True) >= THRESHOLD).to(x.dtype)
        values = (
            _temperature(values, self.of_value)
            * values
            * torch.lerp(torch.ones_like(signal), signal, self.gate)
        )
        estimate: Tensor = (attention[..., None] * values).sum(1)
        return estimate


def _temperature(projected: Tensor, weight: Tensor) -> Tensor:
    learned: Tensor = (F.gelu(projected) @ weight).tanh()
    return 1 + learned[..., None]


ERROR, BAYES, NAIVE = "error", "bayes", "naive"


@dataclass(frozen=True, kw_only=True)
class DenoiseRace(ErrorRace):
    """Rows of noisy vectors.

    Attributes:
        rows: of the test set.
    """

    rows: int

    def drawn(self, task: Task, seed: int) -> nn.Module:
        assert isinstance(task, Denoise)
        return Denoiser(task.classes, seed)

    def outputs(self, call: Call, batch: Mapping[str, Tensor]) -> Tensor:
        """Estimates, `(B, d)`."""
        found: Tensor = call(batch["inputs"])
        return found

    def loss(self, call: Call, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean squared error."""
        found = self.outputs(call, batch)
        # `one_hot` reads its values, which copies in one program cannot.
        unit = batch["targets"][:, None] == torch.arange(found.shape[-1], device=found.device)
        return (found - unit.to(found.dtype)).square().mean()

    def tests(self, task: Task, seed: int) -> Sample:
        """Rows that no model was trained on."""
        return task.sample(self.rows, torch.Generator().manual_seed(seed_of("tests", seed)))

    def errors(self, task: Task, outputs: Tensor, sample: Sample) -> Mapping[str, Tensor]:
        """Mean squared error."""
        return {ERROR: squared_error(outputs, sample)}

    def references(self, task: Task, sample: Sample) -> Mapping[str, float]:
        """Of the best estimate there is, and of the mean of all tokens times the best factor."""
        assert isinstance(task, Denoise)
        mean = sample.inputs.mean(1)
        unit = F.one_hot(sample.targets, task.classes).to(mean.dtype)
        factor = (mean * unit).sum() / mean.square().sum()
        return {
            BAYES: float(squared_error(task.bayes(sample.inputs), sample)),
            NAIVE: float(squared_error(factor * mean, sample)),
        }


TASK = Denoise(signals="asked")
ELSEWHERE = Denoise(signals="any")
OTHERS = {
    "quiet": (replace(TASK, noise=TASK.noise / 2), "half the noise"),
    "loud": (replace(TASK, noise=2 * TASK.noise), "twice the noise"),
    "short": (replace(TASK, length=TASK.length // 4), "rows a quarter as long"),
    "long": (replace(TASK, length=2 * TASK.length), "rows twice as long"),
}
"""Rows of other noise and length, neither of which the paper tells."""
ABOUT = {
    "plain": "no temperature",
    "gate": "values of tokens whose largest entry is below 1/2 are zero",
    "value": "a temperature 1 + tanh(f(value)) of values",
    "query": "a temperature 1 + tanh(f(query)) of the query",
    "both": "both temperatures",
}
GATED = ("plain", "gate")
"""Arms that are tried on other rows, too."""
LEARNED = {"value": {"of_value"}, "query": {"of_query"}, "both": {"of_value", "of_query"}}


def _arm(name: str, task: Denoise, where: str = "") -> ErrorArm:
    return ErrorArm(
        about=ABOUT[name] + where,
        task=task,
        learned=frozenset(LEARNED.get(name, ())),
        switched=frozenset({"gate"} if name == "gate" else ()),
    )


ARMS = {
    **{name: _arm(name, TASK) for name in ABOUT},
    **{f"{name}-any": _arm(name, ELSEWHERE, ", signals of any class") for name in GATED},
    **{
        f"{name}-{rows}": _arm(name, task, f"; {about}")
        for rows, (task, about) in OTHERS.items()
        for name in GATED
    },
}
RACES: dict[Size, DenoiseRace] = {
    "small": DenoiseRace(
        arms=ARMS,
        rows=500,
        batch=16,
        course=Course(limit=2_000, every=50, together=50, target=math.inf),
        tuning=Tuning(rates=(0.003, 0.01), seeds=2, published=0.001),
        copies=96,
    ),
    "paper": DenoiseRace(
        arms=ARMS,
        rows=4_000,
        batch=64,
        course=Course(limit=20_000, every=200, together=50, target=math.inf),
        tuning=Tuning(
            rates=(0.001, 0.003, 0.01, 0.03),
            further=(0.0001, 0.0003, 0.1, 0.3),
            seeds=3,
            published=RATE,
        ),
        copies=96,
    ),
}


def _share(arm: str, published_rate: bool, results: Results) -> Estimate | None:
    """How far a model is on the way from naive averaging (0) to Bayes (1)."""
    rate = RACES[results.size].tuning.published if published_rate else None
    ours = last_errors(results, arm, ERROR, rate)
    naive, bayes = (last_errors(results, arm, name, rate, part="beside") for name in (NAIVE, BAYES))
    return mean_of({s: (naive[s] - ours[s]) / (naive[s] - bayes[s]) for s in ours})


def _ratio(arm: str, base: str, published_rate: bool, results: Results) -> Estimate | None:
    rate = RACES[results.size].tuning.published if published_rate else None
    return error_ratio(*(last_errors(results, name, ERROR, rate) for name in (arm, base)))


TABLE = "arXiv 2411.12892, text on Table 2"


def _claim(
    sentence: str, estimate: Callable[..., Estimate | None], arms: tuple[str, ...],
    criterion: Criterion, told: str, published_rate: bool = False, asked: str = "",
) -> Claim:  # fmt: skip
    rate = "published rate" if published_rate else "best rates"
    return Claim(
        claim=f"{sentence} ({rate})",
        source=TABLE,
        published=None,
        told=told,
        shown=".2f",
        criterion=criterion,
        arms=arms,
        estimate=partial(estimate, *arms, published_rate),
        sizes=("paper",),
        seeds=10,
        differs="" if published_rate else "Rates are tuned, in the paper they are not.",
        asked=asked,
    )


ASKED = "2026-11-30"
AS_BAYES, AS_NAIVE = (within(there, 0.25) for there in (1.0, 0.0))
WAY = ": share of the way from naive averaging to Bayes"
RATIO = ": ratio of squared errors"
CLAIMS = (
    _claim("Gated values bring the estimate near to Bayes'" + WAY, _share, ("gate",), AS_BAYES,
           "1, about Bayes'", True),
    _claim("Plain attention is near to naive averaging" + WAY, _share, ("plain",), AS_NAIVE,
           "0, about naive averaging", True),
    _claim("Gated values are better than plain ones" + RATIO, _ratio, ("gate", "plain"),
           faster(1.0), "lower error", True),
    _claim("Gated values bring the estimate near to Bayes'" + WAY, _share, ("gate",), AS_BAYES,
           "1, about Bayes'"),
    _claim("Plain attention is near to naive averaging" + WAY, _share, ("plain",), AS_NAIVE,
           "0, about naive averaging"),
    _claim("Gated values are better than plain ones" + RATIO, _ratio, ("gate", "plain"),
           faster(1.0), "lower error"),
    _claim("Gated values are better than plain ones where signals are of any class" + RATIO,
           _ratio, ("gate-any", "plain-any"), faster(1.0), "lower error"),
    _claim("A learned temperature of values, as the layer has it, is better than none" + RATIO,
           _ratio, ("value", "plain"), faster(1.0), NOT_TESTED),
    _claim("A learned temperature of the query is better than none" + RATIO, _ratio,
           ("query", "plain"), faster(1.0), NOT_TESTED),
    _claim("Both learned temperatures are better than that of values alone" + RATIO, _ratio,
           ("both", "value"), faster(1.0), NOT_TESTED),
    *(
        _claim(f"Gated values are better than plain ones, {about}" + RATIO, _ratio,
               (f"gate-{rows}", f"plain-{rows}"), faster(1.0), "lower error", asked=ASKED)
        for rows, (_, about) in OTHERS.items()
    ),
)  # fmt: skip


def _row_table(results: Results) -> list[Table]:
    """What noise and length do to plain and gated values; none before other rows than the first
    were tried."""
    rows = []
    for arm in (f"{name}{end}" for end in ("", *(f"-{o}" for o in OTHERS)) for name in GATED):
        if results.of([arm], stage=TEST):
            task = RACES[results.size].arms[arm].task
            assert isinstance(task, Denoise)
            shares = [_told(_share(arm, published, results)) for published in (True, False)]
            rows.append((arm, f"{task.noise:g}", str(task.length), *shares))
    columns = ("arm", "noise", "tokens a row", "published rate", "best rate")
    title = (
        "Share of the way from naive averaging to Bayes, by rows (mean over seeds, 95 % interval)"
    )
    return [Table(title, columns, tuple(rows))] if len(rows) > len(GATED) else []


def _told(share: Estimate | None) -> str:
    return MISSING if share is None else share.told(".2f")


AT_PUBLISHED = CurveText(
    "published-rate", "Squared error at the published learning rate",
    OVER_SEEDS + " Beside the arms: naive averaging. Bayes' error is near zero.", "steps",
    "mean squared error",
)  # fmt: skip
AT_BEST = replace(
    AT_PUBLISHED, id="best-rate", title="The same, each arm at its best learning rate"
)


def _figures(results: Results) -> Sequence[Figure]:
    race = RACES[results.size]
    # Rows of other noise or length have another naive average.
    alike = (arm for arm in race.arms if arm.rpartition("-")[2] not in OTHERS)
    there = [arm for arm in alike if results.of([arm])]
    figures: list[Figure] = []
    for text, rate in ((AT_PUBLISHED, race.tuning.published), (AT_BEST, None)):
        points = {arm: error_points(race, results, arm, ERROR, rate) for arm in there}
        points[NAIVE] = [
            (float(step), error)
            for step in (race.course.every, race.course.limit)
            for error in last_errors(results, "plain", NAIVE, rate, part="beside").values()
        ]
        figures += error_figure(text, points, [*there, NAIVE])
    return figures


def _differs(size: Size) -> str:
    race = RACES[size]
    return (
        f"Rows of {TASK.length} tokens, noise of {TASK.noise:g}, noisy signals of the class that "
        "is asked for; in two arms of any class, in eight with other noise or length: the paper "
        "tells none of this. A value matrix; no residual. Naive averaging is the mean of all "
        "tokens times the best factor; Bayes knows how rows are made. "
        f"{told_training(race)}; {race.rows:,} rows are tested. The paper tells no number of steps."
    )


DENOISE = error_study(
    RACES,
    name="denoise",
    claim="Values that are turned down where a token is noise bring attention near to the best "
    "estimate, where plain attention averages noise in.",
    source="arXiv 2411.12892, section 3.4",
    published="value-selective attention about as good as Bayes, plain attention about as bad as "
    "naive averaging",
    measure="Mean squared error of the vector that is asked for: as a share of the way from naive "
    "averaging to the best estimate there is, and as the median of the ratios of paired seeds with "
    "a bootstrap interval.",
    claims=CLAIMS,
    differs={size: _differs(size) for size in RACES},
    figures=_figures,
    tables=_row_table,
)
