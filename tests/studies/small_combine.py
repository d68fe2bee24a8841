"""Made-up results of the study `combine`, as the study asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from made_studies import result, settings

from headway.studies.claims import Result, Results, Run, Size
from headway.studies.combine.parts import (
    PARTS,
    SUBSETS,
)
from headway.studies.combine.study import COMBINE
from headway.studies.language_models.cost import COST, ROUNDS
from headway.studies.running import settled
from headway_settings import StudySettings

GAINS = dict.fromkeys(PARTS, 0.01) | {"stream": -0.14, "gate": -0.014}
"""What each part adds to the loss of made-up results."""
CONTEXT = {"shift": 0.01, "stream": 0.02, "gate": 0.03}
"""What each part adds to the in-context gain."""


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
        "in_context_gain": 0.1 + sum(CONTEXT.get(part, 0) for part in parts),
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
    while missing := still_to_run(spoken, results):
        for run in missing:
            if until(len(order), run):
                return results, order
            order.append(run)
            made: Result = result(run, **measured(run, gains, step))
            results = replace(results, found=(*results.found, made))
    return results, order


def timed_again(results: Results, processes: int = 3) -> Results:
    """Each process but the first times steps anew, as docs/combine.md says."""
    for seed in range(1, processes):
        spoken = settled(COMBINE, settings(Path("out"), size="paper", seed=seed, seeds=1))
        while wanted := still_to_run(spoken, results):
            assert {run.options["stage"] for run in wanted} == {COST}
            made = tuple(result(run, **measured(run, GAINS, 1.0)) for run in wanted)
            results = replace(results, found=(*results.found, *made))
    return results


def still_to_run(spoken: StudySettings, results: Results) -> list[Run]:
    """What the settings ask for that is not there."""
    there = {one.run.key for one in results}
    return [run for run in COMBINE.runs(spoken, results) if run.key not in there]
