"""What a benchmark found, beside its target: a table for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from headway.bench.rounds import Ratio, machine
from headway.errors import HeadwayError


@dataclass(frozen=True)
class Line:
    """One number.

    Attributes:
        name: what was measured.
        value: the number; of a ratio the median.
        at_most, at_least: the target, or None.
        ratio: rounds and spread, where the number is a ratio of times.
        judged: whether the number is of the size that the target speaks of.
    """

    name: str
    value: float
    at_most: float | None = None
    at_least: float | None = None
    ratio: Ratio | None = None
    judged: bool = True

    @staticmethod
    def of_ratio(
        name: str, ratio: Ratio, at_most: float | None = None, at_least: float | None = None
    ) -> Line:
        """The line of a ratio."""
        return Line(name, ratio.median, at_most, at_least, ratio)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where the line is not judged."""
        if not self.judged:
            return None
        above = self.at_most is not None and self.value > self.at_most
        below = self.at_least is not None and self.value < self.at_least
        return not (above or below)

    def cells(self, met: bool | None) -> tuple[str, ...]:
        """A row of the table."""
        spread = f"{self.ratio.low:.3f} to {self.ratio.high:.3f}" if self.ratio else ""
        rounds = str(self.ratio.rounds) if self.ratio else ""
        target = self.target if self.judged else ""
        verdict = "" if not target else "met" if met else "missed"
        return self.name, f"{self.value:.3f}", spread, rounds, target, verdict

    @property
    def target(self) -> str:
        """In words."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return "" if self.at_least is None else f">= {self.at_least:g}"


def to_json(name: str, command: str, lines: list[Line]) -> dict[str, Any]:
    """Everything, with the machine and the command."""
    return {
        "bench": name,
        "command": command,
        "machine": machine(),
        "lines": [asdict(line) | {"met": line.met} for line in lines],
    }


def markdown(results: dict[str, Any]) -> str:
    """A table of `to_json`'s output, with the machine and the command above it."""
    known = results["machine"]
    about = ", ".join(f"{name} {known[name]}" for name in ("device", "torch", "transformers"))
    rows = [
        f"`{results['command']}`, {known['date']}, {about}",
        "",
        "| measured | median | 10 % to 90 % | rounds | target | |",
        "|---|---|---|---|---|---|",
    ]
    for fields in results["lines"]:
        spread = fields.pop("ratio")
        met = fields.pop("met")
        line = Line(**fields, ratio=Ratio(**spread) if spread else None)
        rows.append(f"| {' | '.join(line.cells(met))} |")
    return "\n".join(rows) + "\n"


def print_lines(lines: list[Line], console: Console) -> None:
    """The table; a target that is missed says so."""
    table = Table(caption=", ".join(f"{k} {v}" for k, v in machine().items()))
    for column in ("measured", "median", "10 % to 90 %", "rounds", "target", ""):
        table.add_column(column)
    for line in lines:
        table.add_row(*line.cells(line.met))
    console.print(table)


def _read(path: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise _not_accepted(path, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise _not_accepted(path, f"is no JSON ({error})") from error
    if not isinstance(content, dict) or not {"command", "machine", "lines"} <= content.keys():
        raise _not_accepted(path, "holds no results of a bench")
    return content


def _not_accepted(path: str, why: str) -> HeadwayError:
    return HeadwayError(
        f"results: {path!r} {why}; accepted are files that `headway bench ... --json` wrote"
    )


def main(paths: Sequence[str]) -> int:
    """Print results that `headway bench ... --json` wrote as Markdown; the exit code."""
    try:
        for path in paths:
            print(markdown(_read(path)))
    except HeadwayError as refusal:
        print(refusal, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
