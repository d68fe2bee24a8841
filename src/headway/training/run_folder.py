"""The folder of a run: what was asked for, and that one process at a time works in it."""

from __future__ import annotations

import datetime
import errno
import fcntl
import hashlib
import json
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from headway.errors import HeadwayError
from headway.files import write_atomically
from headway.training.metrics_file import NAME as METRICS
from headway_settings import __version__
from headway_train_settings import TrainSettings

RUN, RESULTS, MODEL = "run.json", "results.json", "model"
FREE = frozenset(
    {"config", "preset", "print_config", "out", "micro_batch_size", "device", "sharding"}
    | {"replicas", "tensor_parallel", "keep", "report_to"}
)
"""Settings that may change when a run goes on: how and where it is computed, not what."""


@contextmanager
def run_folder(out: Path) -> Iterator[None]:
    """The folder, made if missing, and held while it is worked in.

    Where what is done inside is refused, folders that were made and hold nothing are removed, and
    what was there is left as it was.

    Raises:
        HeadwayError: it cannot be written, or another process holds it.
    """
    path = out / ".lock"
    new, locked = [each for each in (out, *out.parents) if not each.exists()], path.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise HeadwayError(
            f"out: {str(out)!r} cannot be written ({error.strerror}); accepted is a folder that can"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HeadwayError(
                f"out: {str(out)!r} is in use by another headway process; wait for it, or give "
                "another"
            ) from None
        try:
            yield
        except HeadwayError:
            if not locked:
                path.unlink(missing_ok=True)
                _remove_empty(new)
            raise


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, each within the next, up to the first that holds anything."""
    for folder in folders:
        if any(folder.iterdir()):
            return
        folder.rmdir()


def check_same(settings: TrainSettings) -> None:
    """Refuse a folder that holds another run, or something else.

    Raises:
        HeadwayError: names what differs.
    """
    file, asked = settings.out / RUN, compared(settings)
    if not file.exists():
        strange = sorted(p.name for p in settings.out.glob("*") if not p.name.startswith("."))
        if strange:
            raise HeadwayError(
                f"out: {str(settings.out)!r} holds other things ({strange[0]}) and no {RUN}; "
                "accepted is a new folder, or that of an earlier run of the same command"
            )
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise HeadwayError(f"out: {str(file)!r} is damaged ({error})") from error
    changed = [
        f"{name} was {before.get(name)!r} and is {asked.get(name)!r}"
        for name in asked
        if before.get(name) != asked.get(name)
    ]
    if changed:
        raise HeadwayError(
            f"out: {str(settings.out)!r} holds a run with other settings: {'; '.join(changed)}; "
            "give another --out, or the settings as they were"
        )


@contextmanager
def begun(
    settings: TrainSettings, command: str, device: torch.device, world: int
) -> Iterator[None]:
    """Write what was asked for before anything else is made of it.

    Where it turns out inside, before the first line of the metrics, that it cannot be done, all
    that was written goes again, so that the folder can be used for a better command.
    """
    new = not (settings.out / RUN).exists()
    if new:
        _write_run(settings, command, device, world)
    try:
        yield
    except HeadwayError:
        if new and not (settings.out / METRICS).exists():
            for name in (RUN, "corpus", "tokenizer"):
                path = settings.out / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise


def _write_run(settings: TrainSettings, command: str, device: torch.device, world: int) -> None:
    gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if gpu else platform.processor()
    told = {
        "settings": compared(settings),
        "command": command,
        "versions": {"headway": __version__, "python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers", "accelerate")},
        "device": f"{world} x {device.type}: {name or platform.machine()}",
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_atomically(settings.out / RUN, json.dumps(told, indent=1) + "\n")


def compared(settings: TrainSettings) -> dict[str, Any]:
    """The settings that must stay, as JSON has them."""
    shown = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in shown.items()
        if name not in FREE
    }


def fingerprint(settings: TrainSettings, corpus: Mapping[str, Any]) -> str:
    """Of what a checkpoint depends on: settings and corpus."""
    told = json.dumps([compared(settings), dict(corpus)], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()
