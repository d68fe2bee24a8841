"""Running a study: what is missing is done, and each run is on the disk when it has ended."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from headway.errors import HeadwayError
from headway.mechanisms.fields import nearest
from headway.studies.claims import Result, Results, Run, Study
from headway.studies.provenance import device_of, header
from headway.studies.run_files import add_run, read_runs
from headway_settings import StudySettings

COMMON = frozenset(
    {"name", "list", "draw", "size", "arms", "seed", "seeds", "out", "device", "page", "json"}
    | {"executor", "executor_options", "job"}
)
"""Settings that every study takes."""
BESIDE_DRAW = ("size", "out", "page", "json")
"""Settings that can stand beside draw."""
ABOUT_PLACE = frozenset({"corpus", "compile", "save", "seconds", "tuning_seeds"})
"""Settings that change where, how fast, how long and how often, not what results mean."""


def run_study(study: Study, settings: StudySettings, command: str) -> Results:
    """Do the runs that a folder lacks.

    Args:
        study: what to run.
        settings: how; the folder is set.
        command: the words that asked for it, for the record.

    Returns:
        All results of the folder.

    Raises:
        HeadwayError: a wrong setting, or a folder with results of other settings.
    """
    asked = settled(study, settings)
    here = asked.executor == "local"
    folder, results = _folder(asked), _there(study, asked)
    undone = _undone(study, asked, results)
    arms = asked.arms or study.arms
    while missing := [run for run in undone if run.arm in arms]:
        before = len(results.found)
        found = (results_of if here else _spread)(study, missing, asked, command)
        for done, result in enumerate(found, start=1):
            add_run(folder, study, results, result)
            took = f"{result.seconds:.1f} s, {done} of {len(missing)}"
            _say(f"{study.name}: {_told(result.run)} done in {took}")
        results = _there(study, asked)
        if len(results.found) == before:
            raise RuntimeError(f"the study {study.name} did none of the runs that it asked for")
        undone = _undone(study, asked, results)
    if others := Counter(run.arm for run in undone):
        lacking = ", ".join(f"{arm} ({number})" for arm, number in others.items())
        _say(f"{study.name}: runs of other arms are missing: {lacking}; what hangs on them waits")
    return results


def held_results(study: Study, settings: StudySettings) -> Results:
    """What a folder holds of a study; nothing is run and nothing is written.

    Args:
        study: of the results.
        settings: the folder, which is set, and the size of its results.

    Raises:
        HeadwayError: nothing of the study is there, or results of another size.
    """
    folder = _folder(settings)
    if (found := read_runs(folder, study)) is None:
        raise nothing_held(study.name, folder)
    refuse_other_size(found.size, settings)
    return found


def nothing_held(name: str, folder: Path) -> HeadwayError:
    """The refusal of a folder without results of the study of that name."""
    return HeadwayError(
        f"out: {folder} holds no results of the study {name}; accepted is a folder that `headway "
        f"study {name} --out` wrote"
    )


def refuse_other_size(held: str, settings: StudySettings) -> None:
    """HeadwayError where the results of a folder are not of the size that was asked for."""
    if held != settings.size:
        raise HeadwayError(
            f"size: {settings.size!r} is not accepted for {settings.out}, whose results are of "
            f"size {held}; accepted is --size {held}"
        )


def only_drawing(settings: StudySettings) -> None:
    """HeadwayError where something is set beside draw that tells what to run, where or how."""
    for field in fields(settings):
        if field.name in ("name", "draw", *BESIDE_DRAW):
            continue
        if (value := getattr(settings, field.name)) != field.default:
            raise HeadwayError(
                f"{field.name}: {value!r} is not accepted beside draw, which runs nothing and "
                f"shows all that is there; accepted are {_flags(BESIDE_DRAW)}"
            )


def results_of(
    study: Study, runs: Sequence[Run], settings: StudySettings, command: str
) -> Iterator[Result]:
    """Do runs here, on the device that the settings ask for; each with how long it took.

    Args:
        study: of the runs.
        runs: to do.
        settings: as they were asked for, settled.
        command: that asked for them, for the record.

    Raises:
        HeadwayError: a wrong setting.
    """
    device = device_of(settings.device)
    asked = replace(settings, device="cuda" if device.type == "cuda" else "cpu")
    started = time.perf_counter()
    for run, measures in study.perform(runs, asked):
        now = time.perf_counter()
        about = header(asked, command, device, {})
        yield Result(
            run,
            measures,
            command,
            device=about["device"],
            versions=about["versions"],
            ended=about["started"],
            seconds=now - started,
        )
        started = now


def _spread(
    study: Study, runs: Sequence[Run], settings: StudySettings, command: str
) -> Iterator[Result]:
    from headway.studies.spread import spread_runs

    return spread_runs(study.name, runs, settings, command)


def settled(study: Study, settings: StudySettings) -> StudySettings:
    """The settings with the number of seeds.

    Raises:
        HeadwayError: one that the study does not take, or a value that is not accepted.
    """
    for field in fields(settings):
        if field.name in COMMON or field.name in study.heeds:
            continue
        if (value := getattr(settings, field.name)) != field.default:
            raise HeadwayError(
                f"{field.name}: {value!r} is not accepted; the study {study.name} takes "
                f"{_flags(sorted({*COMMON - {'name', 'list'}, *study.heeds}))}"
            )
    for arm in settings.arms:
        if arm not in study.arms:
            raise HeadwayError(
                f"arms: {arm!r} is unknown{nearest(arm, study.arms)}; accepted are "
                f"{', '.join(study.arms)}"
            )
    if settings.executor == "local":
        for name, default in (("executor_options", ()), ("job", "arm")):
            if (value := getattr(settings, name)) != default:
                raise HeadwayError(
                    f"{name}: {value!r} is not accepted without executor; accepted is --executor "
                    "ray or slurm beside it"
                )
    if settings.seed < 0:
        raise HeadwayError(f"seed: {settings.seed} is not accepted; accepted are 0 and more")
    seeds = study.seeds[settings.size] if settings.seeds is None else settings.seeds
    for name, number in (("seeds", seeds), ("tuning_seeds", settings.tuning_seeds)):
        if number is not None and number < 1:
            raise HeadwayError(f"{name}: {number} is not accepted; accepted are 1 and more")
    return replace(settings, seeds=seeds)


def seeds_of(settings: StudySettings) -> range:
    """The seeds of settled settings."""
    assert settings.seeds is not None
    return range(settings.seed, settings.seed + settings.seeds)


def arms_by_seeds(study_arms: Sequence[str], settings: StudySettings) -> list[Run]:
    """A run for each arm and seed, all arms of a seed together: a run that is cut leaves pairs."""
    return [Run(arm, seed) for seed in seeds_of(settings) for arm in study_arms]


def still_missing(study: Study, results: Results) -> list[Run]:
    """What the same command would still run, with as many seeds as the size has."""
    asked = StudySettings(name=(study.name,), size=results.size, **results.settings)
    undone = _undone(study, settled(study, asked), results)
    return [run for run in undone if run.arm in study.arms]


def _undone(study: Study, asked: StudySettings, results: Results) -> list[Run]:
    """What is listed so far and lacks a result, of arms that were not asked for too."""
    done = {result.run.key for result in results}
    return [run for run in study.runs(asked, results) if run.key not in done]


def _there(study: Study, asked: StudySettings) -> Results:
    """The results of the folder; HeadwayError where they are of another size or setting."""
    chosen = meaning(study, asked)
    found = read_runs(_folder(asked), study)
    if found is None:
        return Results(asked.size, chosen)
    if (found.size, found.settings) != (asked.size, chosen):
        raise HeadwayError(
            f"out: {asked.out} holds results of size {found.size} with {_words(found.settings)}, "
            f"not of size {asked.size} with {_words(chosen)}; give another --out, or the settings "
            "as they were"
        )
    return found


def _folder(asked: StudySettings) -> Path:
    assert asked.out is not None
    return asked.out


def meaning(study: Study, settings: StudySettings) -> dict[str, Any]:
    """The settings of a study's own that were set and change what its results mean."""
    defaults = {field.name: field.default for field in fields(settings)}
    chosen = {name: getattr(settings, name) for name in study.heeds if name not in ABOUT_PLACE}
    return {
        name: [list(v) if isinstance(v, tuple) else v for v in value]
        if isinstance(value, tuple)
        else value
        for name, value in chosen.items()
        if value != defaults[name]
    }


def _flags(names: Iterable[str]) -> str:
    """Settings as they are typed; a switch that is on has a flag that turns it off alone."""
    on = {field.name for field in fields(StudySettings) if field.default is True}
    typed = (f"no-{name}" if name in on else name for name in names)
    return ", ".join(f"--{name.replace('_', '-')}" for name in typed)


def _words(settings: Any) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in settings.items()) or "its own settings"


def _told(run: Run) -> str:
    options = "".join(f" {name} {value}" for name, value in run.options.items())
    return f"{run.arm} seed {run.seed}{options}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
