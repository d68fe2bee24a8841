"""`metrics.jsonl`: what a run showed, one JSON object a line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from headway.files import write_atomically

NAME = "metrics.jsonl"


class MetricsFile:
    """The lines of a run, continued from a checkpoint.

    Lines of steps behind the checkpoint are dropped, as those steps are taken again, and so is a
    line torn by a kill.

    Args:
        out: folder of the run.
        step: of the checkpoint; 0 for a new run.
    """

    def __init__(self, out: Path, step: int) -> None:
        path = out / NAME
        kept = [line for line in read_metrics(out) if step and line["step"] <= step]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Append a record with its `step`."""
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics; none where there are none."""
    path = out / NAME
    if not path.exists():
        return []
    # What follows the last line break was torn.
    whole = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in whole if line]
