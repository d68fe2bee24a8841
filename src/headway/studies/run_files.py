"""The folder of a study's results: one JSON file an arm, whole at any time, with a line a run.

Processes that share a folder add to it in turns, so that a study can be spread over machines.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headway.errors import HeadwayError
from headway.files import write_atomically, writing_to
from headway.studies.claims import Result, Results, Run, Study

HEAD = ("study", "size", "settings", "arm")
"""Entries of a file before those who made it and its runs."""


def read_runs(folder: Path, study: Study) -> Results | None:
    """What a folder holds of a study; None where there is nothing of it.

    Raises:
        HeadwayError: a file that cannot be read, files of different sizes or settings, or results
            of another study beside them.
    """
    files = {arm: folder / f"{arm}.json" for arm in study.arms}
    loaded = {arm: _load(path, study) for arm, path in files.items() if path.exists()}
    for path in sorted(set(folder.glob("*.json")) - set(files.values())):
        _refuse_strangers(path, study)
    if not loaded:
        return None
    first = next(iter(loaded.values()))
    for arm, other in loaded.items():
        for name in ("size", "settings"):
            if other[name] != first[name]:
                raise HeadwayError(
                    f"results: {files[arm]} was made with {name} {other[name]!r}, another there "
                    f"with {first[name]!r}; accepted are results of the same {name}"
                )
    found = [result for arm, content in loaded.items() for result in _results(content, files[arm])]
    return Results(first["size"], first["settings"], tuple(found))


def add_run(folder: Path, study: Study, before: Results, result: Result) -> None:
    """Add one run to the file of its arm, in one step; a run that is there stays as it is."""
    path = folder / f"{result.run.arm}.json"
    with _in_turn(folder):
        there = _results(_load(path, study), path) if path.exists() else []
        if result.run.key not in {r.run.key for r in there}:
            head = (study.name, before.size, dict(before.settings), result.run.arm)
            both = sorted([*there, result], key=lambda r: (r.run.seed, r.run.key))
            write_atomically(path, _text(dict(zip(HEAD, head, strict=True)), both))


@contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """The folder itself is locked, so that no file of a lock stays in it."""
    with writing_to(folder):
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _text(head: Mapping[str, Any], results: list[Result]) -> str:
    """A file: who made its runs is told once, and a run takes one line."""
    made: list[dict[str, Any]] = []
    lines = []
    for r in results:
        by = {"command": r.command, "device": r.device, "versions": dict(r.versions)}
        if by not in made:
            made.append(by)
        lines.append(
            json.dumps(
                {
                    "seed": r.run.seed,
                    "options": r.run.options,
                    "measures": r.measures,
                    "ended": r.ended,
                    "seconds": round(r.seconds, 3),
                    "made": made.index(by),
                },
                allow_nan=False,
            )
        )
    start = json.dumps({**head, "made": made}, indent=1).removesuffix("\n}")
    return start + ',\n "runs": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"


def _load(path: Path, study: Study) -> dict[str, Any]:
    accepted = " or ".join(f"headway study {name}" for name in (study.name, *study.takes))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HeadwayError(
            f"results: {path} cannot be read ({error}); accepted is a file of {accepted}"
        ) from error
    whole = isinstance(content, dict) and {*HEAD, "made", "runs"} <= content.keys()
    ours = whole and content["study"] in (study.name, *study.takes)
    if not ours or content["arm"] != path.stem:
        raise HeadwayError(f"results: {path} is of another kind; accepted is a file of {accepted}")
    return dict(content)


def _refuse_strangers(path: Path, study: Study) -> None:
    """Of a file that is no arm's: results of another study, whose page would be lost."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(content, dict) and HEAD[:2] == tuple(content)[:2]:
        made_by = content["study"]
        if made_by not in (study.name, *study.takes):
            raise HeadwayError(
                f"out: {path.parent} holds results of headway study {made_by}; accepted is another "
                "folder"
            )


def _results(content: Mapping[str, Any], path: Path) -> list[Result]:
    try:
        return [
            Result(
                Run(content["arm"], run["seed"], run["options"]),
                run["measures"],
                ended=run["ended"],
                seconds=run["seconds"],
                **content["made"][run["made"]],
            )
            for run in content["runs"]
        ]
    except (KeyError, TypeError, IndexError) as error:
        raise HeadwayError(
            f"results: {path} is damaged ({error!r}); accepted is a file as headway study wrote it"
        ) from error
