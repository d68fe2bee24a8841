"""The folder of a study of growing sinks: one JSON file an arm, whole or absent."""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from headway.corpora.tokens import TokenCorpus
from headway.errors import HeadwayError
from headway.files import write_atomically
from headway.studies.sinks.arms import ARMS

ENDED = ("done", "diverged")
"""Outcomes that a rerun keeps; an arm that ran out of time is run again."""


def read_results(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Results by arm, in the order of the arms.

    Args:
        paths: files of results, or folders of them; other JSON files in a folder are left alone.

    Raises:
        HeadwayError: a file of another kind, two of one arm, or results of different settings.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in _files(paths):
        result = _read(path)
        arm = result["arm"]
        if arm in found:
            raise HeadwayError(f"results: {path} is a second one of the arm {arm!r}; give one each")
        found[arm] = result
    for other in list(found.values())[1:]:
        first = next(iter(found.values()))
        if told := differences(first["shared"], other["shared"]):
            raise HeadwayError(
                f"results: the arms {first['arm']!r} and {other['arm']!r} were made with different "
                f"settings ({told}); accepted are results of the same settings"
            )
    return {arm: found[arm] for arm in ARMS if arm in found}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings of `now` that were others before, in words; empty where none was."""
    return "; ".join(
        f"{name} was {before.get(name)!r} and is {value!r}"
        for name, value in now.items()
        if before.get(name) != value
    )


def write_result(folder: Path, result: Mapping[str, Any]) -> Path:
    """Write the file of an arm in one step; a number that has no value, as an effect on a layer
    without a sink, is null."""
    text = json.dumps(_plain(result), indent=1, allow_nan=False) + "\n"
    return write_atomically(folder / f"{result['arm']}.json", text)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shared_corpus(folder: Path, build: Callable[[], TokenCorpus]) -> TokenCorpus:
    """The corpus in `folder`, built there by whoever comes first; others wait for it."""
    make_once(folder, lambda: build().save(folder))
    return TokenCorpus.load(folder)


def make_once(path: Path, make: Callable[[], object]) -> None:
    """Have a path of the corpus made by whoever comes first; others wait for it.

    Args:
        path: a file or a folder, whole where it is there.
        make: makes it in one step.

    Raises:
        HeadwayError: it cannot be written where it belongs.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = (path.parent / f".{path.name}.lock").open("w")
    except OSError as error:
        raise HeadwayError(
            f"corpus: {path} cannot be written ({error.strerror}); accepted is a folder that can"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            make()


def _files(paths: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += [path / f"{arm}.json" for arm in ARMS if (path / f"{arm}.json").exists()]
        else:
            files.append(path)
    return files


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HeadwayError(
            f"results: {path} cannot be read ({error}); accepted is a file of headway study sinks"
        ) from error
    if not isinstance(result, dict) or result.get("study") != "sinks":
        raise HeadwayError(
            f"results: {path} is of another kind; accepted is one of the study sinks"
        )
    return result
