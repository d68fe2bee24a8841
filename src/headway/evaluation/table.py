"""The result of an evaluation on a console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headway.report.cells import Table
from headway.report.tables import plain_lines, rich_table

if TYPE_CHECKING:
    from rich.console import Console

NUMBERS_OF_TEXT = ("word_perplexity", "byte_perplexity", "bits_per_byte")


def print_result(result: dict[str, Any], console: Console) -> None:
    """Print what `evaluate` gave: a box on a terminal, aligned plain lines elsewhere."""
    table, text = eval_table(result), result["text"]
    if console.is_terminal:
        console.print(rich_table(table))
    else:
        for line in (f"{table.title}:", *plain_lines(table)):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if text is not None:
        size = f"{text['documents']:,} documents, {text['words']:,} words, {text['bytes']:,} bytes"
        line = f"text: {text['source']}: {size}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def eval_table(result: dict[str, Any]) -> Table:
    """One row a number; a value that no float holds is told as such."""
    rows = [
        (row["task"], row["metric"], _number(row["value"]), _number(row["stderr"]))
        for row in result["tasks"]
    ]
    if result["text"] is not None:
        rows += [("text", name, _number(result["text"][name]), "-") for name in NUMBERS_OF_TEXT]
    return Table(
        title=f"{result['model']} ({result['parameters']:,} parameters, {result['dtype']})",
        columns=("task", "metric", "value", "stderr"),
        rows=tuple(rows),
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if abs(value) < 1e6 else f"{value:.3e}"
