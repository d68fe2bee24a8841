"""The folder of a study's results: what was asked for, and what came, one JSON object a line."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from headway.errors import HeadwayError
from headway.files import write_atomically

NOT_COMPARED = ("out", "json")
"""Settings that change where results go, not what they are."""


class Journal:
    """`settings.json` and `metrics.jsonl` of one folder, open for one process.

    Lines of runs that never finished are dropped when the folder is opened again, as those runs
    start over; a line torn by a kill goes with them. Where an error comes before the first record
    of a new folder, all that was put into it is removed again.

    Args:
        folder: made if missing.
        header: what stands in `settings.json`; its "settings" must agree with the folder's.

    Raises:
        HeadwayError: the folder holds another run, something else, or is in use.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        self.folder = folder
        self._metrics = folder / "metrics.jsonl"
        self._settings = folder / "settings.json"
        self._found = _names(folder)
        self._records: list[dict[str, Any]] = []
        self._lock = _lock(folder)
        self._new = not self._settings.exists()
        with ExitStack() as undo:
            undo.push(lambda kind, error, trace: self._leave(error))
            self._open_settings(header)
            self._records = self._kept_records()
            body = "".join(json.dumps(r) + "\n" for r in self._records)
            write_atomically(self._metrics, body)
            self._file = self._metrics.open("a", encoding="utf-8")
            undo.pop_all()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
        finally:
            self._leave(error)

    def has(self, kind: str, **fields: object) -> bool:
        """Whether a record of that kind with those fields stands."""
        return any(
            r["kind"] == kind and all(r.get(k) == v for k, v in fields.items())
            for r in self._records
        )

    def write(self, kind: str, **fields: object) -> None:
        """Append one record; a finished run or cost is on the disk when this returns."""
        record = {"kind": kind, **fields}
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()
        if kind in ("finish", "cost"):
            os.fsync(self._file.fileno())
        self._records.append(record)

    def _leave(self, error: BaseException | None) -> None:
        """Unlock; after an error that came before any record, empty a folder that was new."""
        if self._new and not self._records and isinstance(error, Exception):
            for path in self.folder.iterdir():
                if path.name not in (self._found or ()):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if self._found is None:
                self.folder.rmdir()
        self._lock.close()

    def _open_settings(self, header: Mapping[str, Any]) -> None:
        if self._new:
            write_atomically(self._settings, json.dumps(header, indent=1) + "\n")
            return
        try:
            before = json.loads(self._settings.read_text(encoding="utf-8"))
            settings, arms = before["settings"], before["arms"]
        except (ValueError, KeyError, TypeError) as error:
            raise HeadwayError(f"out: {self._settings} is damaged ({error})") from error
        _refuse_changes(self.folder, settings, header["settings"])
        if arms != header["arms"]:
            changed = sorted(
                a for a in {*arms, *header["arms"]} if arms.get(a) != header["arms"].get(a)
            )
            raise HeadwayError(
                f"arms: {self.folder} was made with other mechanisms for {', '.join(changed)}; "
                "give another --out, or the arms as they were"
            )

    def _kept_records(self) -> list[dict[str, Any]]:
        if not self._metrics.exists():
            return []
        lines = self._metrics.read_bytes().split(b"\n")
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                if line:
                    records.append(_record(line))
            except ValueError as error:
                if number < len(lines):
                    raise HeadwayError(
                        f"out: line {number} of {self._metrics} is broken ({error}); accepted is "
                        "a file as headway wrote it"
                    ) from error
        ended = {(r["arm"], r.get("seed")) for r in records if r["kind"] == "finish"}
        return [r for r in records if "seed" not in r or (r["arm"], r["seed"]) in ended]


def _record(line: bytes) -> dict[str, Any]:
    """One line of the metrics; ValueError where it is none."""
    record = json.loads(line)
    if not isinstance(record, dict) or not {"kind", "arm"} <= record.keys():
        raise ValueError("no object with a kind and an arm")
    return record


def _names(folder: Path) -> set[str] | None:
    """What lies in the folder, or None without a folder; HeadwayError for a stranger's things."""
    if not folder.is_dir():
        return None
    names = {path.name for path in folder.iterdir()}
    strange = sorted(name for name in names if not name.startswith("."))
    if strange and "settings.json" not in strange:
        raise HeadwayError(
            f"out: {folder} holds other things ({strange[0]}) and no settings.json; "
            "accepted is a new folder, or one of an earlier run of the same command"
        )
    return names


def _lock(folder: Path) -> TextIO:
    """The folder's lock, held until it is closed; the folder is made if missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise HeadwayError(
            f"out: {folder} cannot be written ({error.strerror}); accepted is a folder that can"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise HeadwayError(
            f"out: {folder} is in use by another headway process; wait for it, or give another"
        ) from None
    return lock


def _refuse_changes(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in {**before, **now}
        if name not in NOT_COMPARED and before.get(name) != now.get(name)
    ]
    if changed:
        raise HeadwayError(
            f"out: {folder} holds a run with other settings: {'; '.join(changed)}; "
            "give another --out, or the settings as they were"
        )
