"""The tables of a retrofit on a console."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.report import words
from headway.report.cells import Table
from headway.report.statistics import CONFIDENCE
from headway.report.tables import plain_lines, rich_table

if TYPE_CHECKING:
    from rich.console import Console


def print_retrofit(summary: Mapping[str, Any], out: Path, console: "Console") -> None:
    """Print the headline and the tables: boxes on a terminal, aligned plain lines elsewhere."""

    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)

    line(" ".join([summary["headline"], *summary["remarks"]]))
    for table in (arms_table(summary), difference_table(summary)):
        line("")
        if console.is_terminal:
            console.print(rich_table(table))
            continue
        for row in (f"{table.title}:", *plain_lines(table)):
            line(row)
    if summary["saved"]:
        line(f"\nThe {summary['saved']} of the first seed: {out / summary['saved']}")


def arms_table(summary: Mapping[str, Any]) -> Table:
    """Both arms before and after, and what they cost."""
    return Table(
        title="Validation perplexity and loss (nats per token), means over seeds",
        columns=(
            "arm", "perplexity before", "perplexity after", "loss before", "loss after",
            "tokens a second", "added parameters", "trained parameters",
        ),
        rows=tuple(
            (
                name,
                _perplexity(arm["perplexity_before"]),
                _perplexity(arm["perplexity_after"]),
                words.loss(arm["loss_before"]),
                words.loss(arm["loss_after"]),
                words.count(arm["tokens_per_second"]) if arm["steps"] else "not trained",
                words.count(arm["added_parameters"]),
                words.count(arm["trained_parameters"]),
            )
            for name, arm in summary["arms"].items()
        ),
    )  # fmt: skip


def difference_table(summary: Mapping[str, Any]) -> Table:
    """How the arms differ after training, and how sure that is."""
    return Table(
        title=f"Mechanism less control, {100 * CONFIDENCE:.0f}% intervals over seeds",
        columns=("of", "difference", "interval", "p", "pairs", "verdict"),
        rows=tuple(
            (
                name,
                words.signed(found["mean"]),
                words.interval(found["low"], found["high"]) or words.MISSING,
                words.probability(found["p"]),
                str(len(found["differences"])),
                summary["verdict"] if name == "loss" else "",
            )
            for name, found in summary["difference"].items()
        ),
    )


def _perplexity(value: float | None) -> str:
    return words.MISSING if value is None else f"{value:.3f}"
