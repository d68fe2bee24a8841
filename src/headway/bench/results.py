"""What a benchmark found, beside its target: a table for people, JSON for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from headway.bench.rounds import Ratio, machine


@dataclass(frozen=True)
class Line:
    """One number.

    Attributes:
        name: what was measured.
        value: the number; of a ratio the median.
        at_most, at_least: the target, or None.
        ratio: rounds and spread, where the number is a ratio of times.
    """

    name: str
    value: float
    at_most: float | None = None
    at_least: float | None = None
    ratio: Ratio | None = None

    @staticmethod
    def of_ratio(
        name: str, ratio: Ratio, at_most: float | None = None, at_least: float | None = None
    ) -> Line:
        """The line of a ratio."""
        return Line(name, ratio.median, at_most, at_least, ratio)

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        above = self.at_most is not None and self.value > self.at_most
        below = self.at_least is not None and self.value < self.at_least
        return not (above or below)

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


def print_lines(lines: list[Line], console: Console) -> None:
    """The table; a target that is missed says so."""
    table = Table(caption=", ".join(f"{k} {v}" for k, v in machine().items()))
    for column in ("measured", "median", "10 % to 90 %", "rounds", "target", ""):
        table.add_column(column)
    for line in lines:
        spread = f"{line.ratio.low:.3f} to {line.ratio.high:.3f}" if line.ratio else ""
        rounds = str(line.ratio.rounds) if line.ratio else ""
        verdict = "" if not line.target else "met" if line.met else "missed"
        table.add_row(line.name, f"{line.value:.3f}", spread, rounds, line.target, verdict)
    console.print(table)
