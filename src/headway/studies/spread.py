"""Runs of a study on other machines: jobs of ray or Slurm, whose results come home."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from headway.corpora.optional import optional_package
from headway.errors import HeadwayError
from headway.studies.claims import Result, Run
from headway_settings import StudySettings


class Done(NamedTuple):
    """What a job brings home: the results of what ended, and why it refused to go on."""

    results: list[Any]
    refusal: str | None


T = TypeVar("T")
Job = Callable[[], Done]

HIDDEN = ".jobs"
"""Folder of what submitit hands over and logs, inside that of the results."""


def spread(calls: Sequence[Callable[[], Iterable[T]]], settings: StudySettings) -> Iterator[T]:
    """What calls give that are independent of each other, each a job, as they end.

    What a job has is given before the error of one that broke or refused is raised; jobs that still
    wait are cancelled where the caller stops.

    Args:
        calls: that can be pickled; each is made in the folder of this process.
        settings: name the executor; its options go to `submitit.AutoExecutor.update_parameters` or
            to `ray.remote`.

    Raises:
        HeadwayError: the package is missing, options are not accepted, or a job refused.
    """
    home = Path.cwd()
    jobs = [partial(there, call, home) for call in calls]
    options = {name: _number(value) for name, value in settings.executor_options}
    perform = _by_ray if settings.executor == "ray" else _by_submitit
    refusals = []
    for done in perform(jobs, options, settings):
        yield from done.results
        refusals += [done.refusal] if done.refusal else []
    if refusals:
        raise HeadwayError(refusals[0])


def spread_runs(
    study: str, runs: Sequence[Run], settings: StudySettings, command: str
) -> Iterator[Result]:
    """Results of runs of a study of the catalogue; a job is an arm with its runs, or one run."""
    parts = [[run] for run in runs]
    if settings.job == "arm":
        arms = dict.fromkeys(run.arm for run in runs)
        parts = [[run for run in runs if run.arm == arm] for arm in arms]
    return spread([partial(runs_of, study, part, settings, command) for part in parts], settings)


def runs_of(
    study: str, runs: Sequence[Run], settings: StudySettings, command: str
) -> Iterator[Result]:
    """Do runs of a study of the catalogue where this is called; no results are written."""
    from headway.studies.catalogue import CLAIM_STUDIES  # which knows how studies are run
    from headway.studies.running import results_of

    (found,) = [known for known in CLAIM_STUDIES if known.name == study]
    return results_of(found, runs, settings, command)


def there(call: Callable[[], Iterable[Any]], home: Path) -> Done:
    """What a call gives, made in the folder `home`, from which paths of the settings are told."""
    if not home.is_dir():
        return Done([], f"executor: the folder {home} is not there on every machine; it has to be")
    results: list[Any] = []
    try:
        with chdir(home):
            for result in call():
                results.append(result)
    except HeadwayError as refusal:
        return Done(results, str(refusal))
    return Done(results, None)


def _by_submitit(
    jobs: Sequence[Job], options: Mapping[str, Any], settings: StudySettings
) -> Iterator[Done]:
    """Slurm's jobs; the option `cluster` may be 'local' (processes here) or 'debug'."""
    submitit = optional_package("submitit", "executor: 'slurm'")
    from submitit.helpers import as_completed

    assert settings.out is not None
    options = dict(options)
    folder = settings.out / HIDDEN
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=options.pop("cluster", "slurm"))
    except RuntimeError as error:  # the machine has none of that cluster's programs
        raise HeadwayError(
            f"executor: 'slurm' cannot be had here ({str(error).strip()}); accepted besides are "
            "local and ray, and slurm with --executor-options cluster local"
        ) from error
    except ValueError as error:
        raise _not_accepted("slurm", error) from error
    try:
        executor.update_parameters(**options)
    except (RuntimeError, NameError, TypeError, ValueError) as error:
        raise _not_accepted("slurm", error) from error
    submitted = [executor.submit(job) for job in jobs]
    ended = set()
    try:
        failed: list[Exception] = []
        for job in as_completed(submitted, poll_frequency=1):
            ended.add(job)
            reason = job.exception()
            if reason is None:
                yield job.result()
            else:
                failed.append(reason)
        _raise_first(failed, f"{folder} has its log")
    finally:
        for job in submitted:
            if job not in ended:
                job.cancel()
    shutil.rmtree(folder, ignore_errors=True)


def _by_ray(
    jobs: Sequence[Job], options: Mapping[str, Any], settings: StudySettings
) -> Iterator[Done]:
    """Tasks of the cluster that `RAY_ADDRESS` names, else of one that is started here."""
    ray = optional_package("ray", "executor: 'ray'")
    own = not ray.is_initialized()
    if own:
        ray.init(include_dashboard=False, log_to_driver=True)
    try:
        try:
            remote = ray.remote(**options)(_call) if options else ray.remote(_call)
        except (TypeError, ValueError) as error:
            raise _not_accepted("ray", error) from error
        waiting = [remote.remote(job) for job in jobs]
        failed: list[Exception] = []
        while waiting:
            (ended, *_), waiting = ray.wait(waiting)
            try:
                done = ray.get(ended)
            except ray.exceptions.RayError as error:
                failed.append(error)
            else:
                yield done
        _raise_first(failed, "ray's logs have it")
    finally:
        if own:
            ray.shutdown()


def _call(job: Job) -> Done:
    return job()


def _raise_first(failed: Sequence[Exception], where: str) -> None:
    """The error of the first job that broke."""
    if failed:
        raise RuntimeError(f"{len(failed)} jobs broke; {where}") from failed[0]


def _not_accepted(executor: str, error: Exception) -> HeadwayError:
    return HeadwayError(
        f"executor_options: not accepted by {executor} ({str(error).strip()}); accepted are NAME "
        "VALUE pairs of submitit's update_parameters, or of ray.remote"
    )


def _number(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
