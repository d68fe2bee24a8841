"""A results folder as typed data.

The folder holds `settings.json` (what was asked for) and `metrics.jsonl` (what happened, one JSON
object a line). A run that was interrupted and continued may have written the same line twice; the
later one counts. A last line without its line end is what an interrupted write leaves behind and
is left out if it cannot be read; every other line must be right.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from headway.errors import HeadwayError
from headway.report.fields import Fields
from headway.report.rows import (
    CostRow,
    EvalRow,
    FinishRow,
    LearnedRow,
    Row,
    TrainRow,
    parse_row,
)

BASELINE = "vanilla"
"""The arm that all others are compared with."""


SeedRow = TypeVar("SeedRow", LearnedRow, FinishRow)


@dataclass(frozen=True)
class RunSettings:
    """What `settings.json` says."""

    settings: Mapping[str, Any]
    command: str
    versions: Mapping[str, str]
    device: str
    arms: Mapping[str, list[dict[str, Any]]]
    corpus: Mapping[str, Any]
    started: str


@dataclass(frozen=True)
class Results:
    """Everything in a results folder; rows are sorted by step within a run."""

    folder: Path
    run: RunSettings
    train: tuple[TrainRow, ...]
    evals: tuple[EvalRow, ...]
    learned: tuple[LearnedRow, ...]
    costs: Mapping[str, CostRow]
    finishes: tuple[FinishRow, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms, in the order of the settings."""
        return tuple(self.run.arms)

    def done(self, arm: str) -> dict[int, FinishRow]:
        """The runs of an arm that ended well, by seed."""
        rows = (row for row in self.finishes if row.arm == arm and row.status == "done")
        return {row.seed: row for row in rows}

    def diverged(self, arm: str) -> tuple[int, ...]:
        """Seeds of an arm whose run diverged."""
        rows = (row for row in self.finishes if row.arm == arm and row.status == "diverged")
        return tuple(row.seed for row in rows)

    def evals_of(self, arm: str) -> tuple[EvalRow, ...]:
        """Evaluations of an arm, without the diverged runs."""
        lost = self.diverged(arm)
        return tuple(row for row in self.evals if row.arm == arm and row.seed not in lost)

    def last_evals(self, arm: str) -> tuple[EvalRow, ...]:
        """The last evaluation of each run of an arm that ended well."""
        done = self.done(arm)
        latest = {row.seed: row for row in self.evals_of(arm) if row.seed in done}
        return tuple(latest.values())


def read_results(folder: Path) -> Results:
    """Read a results folder; `HeadwayError` where it is missing, incomplete or wrong."""
    if not folder.is_dir():
        raise HeadwayError(f"results folder: {str(folder)!r} does not exist")
    run = read_settings(folder / "settings.json")
    rows = read_rows(folder / "metrics.jsonl", run.arms)
    steps = sorted(rows, key=lambda row: getattr(row, "step", 0))
    return Results(
        folder=folder,
        run=run,
        train=tuple(row for row in steps if isinstance(row, TrainRow)),
        evals=tuple(row for row in steps if isinstance(row, EvalRow)),
        learned=tuple(sorted_by_seed(row for row in rows if isinstance(row, LearnedRow))),
        costs={row.arm: row for row in rows if isinstance(row, CostRow)},
        finishes=tuple(sorted_by_seed(row for row in rows if isinstance(row, FinishRow))),
    )


def sorted_by_seed(rows: Iterable[SeedRow]) -> list[SeedRow]:
    """Rows in the order of their seeds."""
    return sorted(rows, key=lambda row: row.seed)


def read_settings(path: Path) -> RunSettings:
    """Read `settings.json`."""
    fields = Fields(path.name, json_object(read_bytes(path), path.name))
    arms = fields.objects("arms")
    if not all(is_mechanism_list(value) for value in arms.values()):
        raise fields.refuse("arms", "an object of lists of mechanisms, each an object")
    return RunSettings(
        settings=fields.objects("settings"),
        command=fields.text("command"),
        versions={name: str(value) for name, value in fields.objects("versions").items()},
        device=fields.text("device"),
        arms=arms,
        corpus=fields.objects("corpus"),
        started=fields.text("started"),
    )


def is_mechanism_list(value: Any) -> bool:
    """Whether a JSON value is a list of objects."""
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def read_rows(path: Path, arms: Iterable[str]) -> list[Row]:
    """Read `metrics.jsonl`; of lines that say the same twice the later one counts."""
    latest: dict[tuple[object, ...], Row] = {}
    known = set(arms)
    for number, line in complete_lines(path):
        place = f"{path.name} line {number}"
        row = parse_row(Fields(place, json_object(line, place)))
        if row.arm not in known:
            raise HeadwayError(f"{place}: arm {row.arm!r} is not among the arms of settings.json")
        latest[identity(row)] = row
    return list(latest.values())


def identity(row: Row) -> tuple[object, ...]:
    """What a line is about: of two lines about the same the later one counts."""
    if isinstance(row, TrainRow | EvalRow):
        return type(row), row.arm, row.seed, row.step
    if isinstance(row, CostRow):
        return type(row), row.arm
    return type(row), row.arm, row.seed


def complete_lines(path: Path) -> list[tuple[int, bytes]]:
    """Numbered lines of the file, without a torn last one."""
    lines = list(enumerate(read_bytes(path).split(b"\n"), start=1))
    number, last = lines.pop()
    if last and is_json(last):
        lines.append((number, last))
    return lines


def is_json(line: bytes) -> bool:
    """Whether a line can be read as JSON."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def json_object(content: bytes, place: str) -> dict[str, Any]:
    """The JSON object that `content` holds; NaN and Infinity are refused."""

    def refuse(constant: str) -> NoReturn:
        raise HeadwayError(f"{place}: {constant} is not accepted; accepted are numbers and null")

    try:
        value = json.loads(content, parse_constant=refuse)
    except HeadwayError:
        raise
    except ValueError as error:
        raise HeadwayError(f"{place}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise HeadwayError(f"{place}: a JSON object is expected, found {repr(value)[:80]}")
    return value


def read_bytes(path: Path) -> bytes:
    """The content of a file of the results folder."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise HeadwayError(
            f"{path}: cannot be read ({error.strerror}); accepted is a folder that `headway "
            "compare --out` wrote"
        ) from None
