"""The tables of a summary on a console and in Markdown."""

import textwrap
from typing import TYPE_CHECKING

from headway.report.cells import Table, context_table, cost_table, main_table
from headway.report.statistics import BETTER, WORSE
from headway.report.summary import Summary

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

HEADER_WIDTH, CELL_WIDTH = 8, 10
"""Columns of a terminal at which words go to the next line."""
STYLES = {BETTER: "green", WORSE: "red"}
"""Colours of the verdicts; the words alone say the same."""


def print_tables(summary: Summary, console: "Console") -> None:
    """Print the headline and the tables: boxes on a terminal, aligned plain lines elsewhere."""
    tables = all_tables(summary)
    sentences = " ".join([summary["headline"], *summary["remarks"]])
    if console.is_terminal:
        console.print(sentences, markup=False, highlight=False)
        for table in tables:
            console.print()
            console.print(rich_table(table))
        return
    lines = [sentences]
    for table in tables:
        lines += ["", f"{table.title}:", *plain_lines(table)]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def all_tables(summary: Summary) -> tuple[Table, ...]:
    """Losses and cost, certainty and in-context learning, cost in full."""
    return main_table(summary), context_table(summary), cost_table(summary)


def plain_lines(table: Table) -> list[str]:
    """Aligned columns without boxes, one line a row however long."""
    rows = [table.columns, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def rich_table(table: Table) -> "RichTable":
    """A table for a terminal of 100 columns; an interval stands below its mean."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(
        title=Text(table.title, style="bold"),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title_justify="left",
        show_edge=False,
    )
    for column in table.columns:
        shown.add_column(Text(narrow(column, HEADER_WIDTH)), overflow="fold")
    for row in table.rows:
        cells = (Text(narrow(cell, CELL_WIDTH), style=STYLES.get(cell, "")) for cell in row[1:])
        shown.add_row(Text(row[0]), *cells)
    return shown


def narrow(cell: str, width: int) -> str:
    """A cell in lines of about `width`: words stay whole, brackets get a line of their own."""
    text, bracket, interval = cell.partition(" [")
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines + ([f"[{interval}"] if bracket else []))


def markdown(summary: Summary) -> str:
    """The command, the machine, the headline and all tables in Markdown, for documentation."""
    versions = ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
    sentences = " ".join([summary["headline"], *summary["remarks"]])
    parts = [
        f"```console\n$ {summary['command']}\n```",
        f"{escaped(summary['device'])}; {escaped(versions)}",
        f"> {escaped(sentences)}",
        *(f"{escaped(table.title)}:\n\n{markdown_table(table)}" for table in all_tables(summary)),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def markdown_table(table: Table) -> str:
    """One table in Markdown."""
    lines = [table.columns, ("---",) * len(table.columns), *table.rows]
    return "".join(f"| {' | '.join(escaped(cell) for cell in line)} |\n" for line in lines)


def escaped(cell: str) -> str:
    """A cell that cannot end its column, start a row or become HTML."""
    text = cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
    return text.replace("<", "&lt;")
