"""One self-contained HTML page of a results folder: it asks nothing of the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.files import write_atomically
from headway.report.cells import Table, context_table, cost_table, main_table
from headway.report.figures import Figure, context_figures, loss_figures, result_figures
from headway.report.learned import learned_figures
from headway.report.log_ticks import with_round_ticks
from headway.report.results import Results, read_results
from headway.report.style import ArmStyle, arm_styles
from headway.report.summary import Summary, summarise_results
from headway.report.templating import fill

REPORT_NAME = "report.html"


@dataclass(frozen=True)
class Section:
    """A part of the page: what it shows, or what to say where there is nothing to show."""

    id: str
    title: str
    text: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    nothing: str = ""


def write_report(folder: Path) -> Path:
    """Write `report.html` into a results folder in one step; the path that was written."""
    return write_atomically(folder / REPORT_NAME, render(read_results(folder)))


def render(results: Results) -> str:
    """The page as HTML."""
    summary = summarise_results(results)
    sections = page_sections(results, summary)
    return fill_page(summary, sections, legend(results.arms), facts(summary))


def fill_page(
    head: Mapping[str, Any],
    sections: Sequence[Section],
    arms: Sequence[tuple[str, ArmStyle]],
    facts: Sequence[tuple[str, Sequence[tuple[str, str]]]],
) -> str:
    """A page of comparisons as HTML.

    Args:
        head: name, headline, remarks, device, started and command.
        sections: tables and figures, from the top.
        arms: of the legend; a trace's `meta` is the number of its arm there.
        facts: what stands at the end, as titled lists of names and values.
    """
    plots = [
        {"id": figure.id, **with_round_ticks(figure.plot)}
        for section in sections
        for figure in section.figures
    ]
    return fill(
        "report.html.j2", summary=head, sections=sections, legend=arms, plots=plots, facts=facts
    )


def page_sections(results: Results, summary: Summary) -> list[Section]:
    """The parts of the page that show tables and figures, from the top."""
    return [
        Section(
            "result",
            "Result",
            "Seed by seed, every arm saw the same data in the same order as vanilla and started "
            "from the same common weights, so the differences are paired.",
            result_figures(summary),
            (main_table(summary), context_table(summary)),
            "No arm shares a finished seed with vanilla yet.",
        ),
        Section(
            "loss",
            "Loss over training",
            "Diverged runs are left out.",
            loss_figures(results),
            nothing="No losses were logged yet.",
        ),
        Section(
            "context",
            "Learning in context",
            "When the ability to use the context appears, and how much it gives.",
            context_figures(results),
            nothing="The context was too short for these measurements, or none was made yet.",
        ),
        Section(
            "learned",
            "What the mechanisms learned",
            "Each dot is one number of one seed at the end of training, one a head where heads "
            "have their own; the bar is the row's mean.",
            learned_figures(results),
            nothing="No arm has learned numbers to show.",
        ),
        Section(
            "cost",
            "Cost",
            "Step times are measured in turns with vanilla; the ratio is the median of the turns.",
            tables=(cost_table(summary),),
        ),
    ]


def legend(arms: Sequence[str]) -> list[tuple[str, ArmStyle]]:
    """Arms with their look, in the order of the settings."""
    styles = arm_styles(arms)
    return [(arm, styles[arm]) for arm in arms]


def facts(summary: Summary) -> list[tuple[str, list[tuple[str, str]]]]:
    """What was trained, as titled lists of names and values."""
    arms = {arm: described(row["mechanisms"]) for arm, row in summary["arms"].items()}
    return [
        ("Arms", pairs(arms)),
        ("Settings", pairs(summary["settings"])),
        ("Corpus", pairs(summary["corpus"])),
        (
            "Where and with what",
            pairs(
                {"started": summary["started"], "device": summary["device"]} | summary["versions"]
            ),
        ),
    ]


def pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values as text."""
    return [(name, shown(value)) for name, value in values.items()]


def shown(value: Any) -> str:
    """A JSON value as a person reads it."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value)
    if isinstance(value, dict):
        return "; ".join(f"{name} = {shown(item)}" for name, item in value.items())
    return str(value)


def described(mechanisms: Sequence[Mapping[str, Any]]) -> str:
    """The mechanisms of an arm and their settings."""
    told = []
    for mechanism in mechanisms:
        rest = {key: value for key, value in mechanism.items() if key != "name"}
        told.append(f"{mechanism.get('name', '')} ({shown(rest)})".strip())
    return " + ".join(told) or "no mechanism"
