"""A study made up for tests: its runs take no time and say what they are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from headway.studies.claims import Claim, Result, Results, Run, Study, one_by_one
from headway.studies.criteria import Criterion, Estimate, Verdict, within
from headway.studies.estimates import mean_of, paired
from headway.studies.run_files import add_run
from headway.studies.running import arms_by_seeds
from headway_settings import StudySettings

ARMS = {"base": "nothing", "arm": "something"}


def claim(sentence: str = "the arm is better", **fields: Any) -> Claim:
    """A claim on the difference of the measure `loss`, -1 in the paper."""
    given: dict[str, Any] = {
        "source": "arXiv 1234.56789, Table 1",
        "published": -1.0,
        "criterion": within(-1.0, 0.1, 0.2),
        "arms": ("base", "arm"),
        "estimate": lambda r: paired(r.measure("arm", "loss"), r.measure("base", "loss")),
        "seeds": 3,
    }
    return Claim(claim=sentence, **given | fields)


def study(*claims: Claim, **fields: Any) -> Study:
    """A study of these claims whose runs measure their seed."""
    given: dict[str, Any] = {
        "name": "made",
        "claim": "Something helps.",
        "source": "arXiv 1234.56789",
        "published": "-1 nats",
        "arms": ARMS,
        "measure": "Loss in nats.",
        "claims": claims or (claim(),),
        "seeds": {"small": 3, "paper": 5},
        "differs": {"small": "Less of it.", "paper": "The same."},
        "runs": lambda settings, _: arms_by_seeds(tuple(ARMS), settings),
        "perform": one_by_one(lambda run, _: {"loss": 1.0 * run.seed}),
        "figures": lambda _: (),
    }
    return Study(**given | fields)


def settings(out: Path, **fields: Any) -> StudySettings:
    return StudySettings(name=("made",), out=out, device="cpu", **fields)


def result(run: Run, **measures: Any) -> Result:
    return Result(run, measures, "headway study made", "cpu: x86_64", {"torch": "2.13"},
                  "2026-01-02T03:04:05+00:00", 0.5)  # fmt: skip


def results(losses: Mapping[str, Mapping[int, float]], size: Any = "paper") -> Results:
    """Results of some losses by arm and seed."""
    made = [
        result(Run(arm, seed), loss=loss)
        for arm, by_seed in losses.items()
        for seed, loss in by_seed.items()
    ]
    return Results(size, {}, tuple(made))


def written(folder: Path, of: Study, found: Results) -> Path:
    """The results as files, in a folder of the study's name."""
    for each in found:
        add_run(folder / of.name, of, replace(found, found=()), each)
    return folder


def fixed(value: float, low: float, high: float, seeds: int = 10) -> Callable[[Results], Estimate]:
    """An estimate that needs no results."""
    return lambda _: Estimate(value, low, high, seeds)


ALWAYS = Criterion("always", lambda _: Verdict.REPRODUCED)
MEAN = {"arms": ("arm",), "estimate": lambda r: mean_of(r.measure("arm", "loss"))}
