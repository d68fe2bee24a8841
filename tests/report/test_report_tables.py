"""The tables on a terminal, in a pipe and in Markdown."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from headway.report import words
from headway.report.cells import main_table
from headway.report.summary import Summary, summarise
from headway.report.tables import markdown, markdown_table, print_tables


@pytest.fixture(scope="module")
def summary(drawn_results: Path) -> Summary:
    return summarise(drawn_results)


def printed(summary: Summary, terminal: bool) -> str:
    """What `print_tables` writes to a console of 100 columns."""
    file = io.StringIO()
    console = Console(file=file, width=100, force_terminal=terminal)
    print_tables(summary, console)
    return file.getvalue()


def test_terminal_tables_fit_100_columns(summary: Summary) -> None:
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed(summary, terminal=True))
    assert max(map(len, text.splitlines())) <= 100
    for arm in summary["arms"]:
        assert f"\n{arm} " in text, "a name was broken"
    low = summary["arms"]["kv_shift"]["difference_low"]
    high = summary["arms"]["kv_shift"]["difference_high"]
    assert words.interval(low, high) in text, "an interval was broken"


def test_verdicts_are_coloured_on_a_terminal_only(
    summary: Summary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[32mbetter" in printed(summary, terminal=True)
    assert "\x1b[" not in printed(summary, terminal=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in printed(summary, terminal=True)


def test_plain_lines_are_one_row_a_line(summary: Summary) -> None:
    text = printed(summary, terminal=False)
    rows = [line for line in text.splitlines() if line.startswith("kv_shift  ")]
    difference = words.signed(summary["arms"]["kv_shift"]["difference_mean"])
    assert difference in next(row for row in rows if " better " in row)
    assert summary["headline"] in text
    assert text.isascii()


def test_markup_in_a_name_is_text(make_results: Callable[..., Path]) -> None:
    made = summarise(make_results(arms=("vanilla", "[red]a[/red]"), effects={}, seeds=2))
    for terminal in (True, False):
        assert "[red]a[/red]" in printed(made, terminal)


def test_markdown_table(summary: Summary, make_results: Callable[..., Path]) -> None:
    lines = markdown_table(main_table(summary)).splitlines()
    assert len(lines) == 2 + len(summary["arms"])
    assert {line.count("|") for line in lines} == {9}
    assert lines[3].startswith("| kv_shift |")
    assert "| better |" in lines[3]
    strange = summarise(make_results(arms=("vanilla", "a|<b>"), effects={}, seeds=2))
    assert markdown_table(main_table(strange)).splitlines()[3].startswith("| a\\|&lt;b> |")


def test_arm_that_never_gets_there_says_so(summary: Summary) -> None:
    line = next(
        row for row in markdown_table(main_table(summary)).splitlines() if "| selective |" in row
    )
    assert line.endswith("| not reached |")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (words.loss(None), "n/a"),
        (words.loss(3.14159), "3.1416"),
        (words.signed(-0.02), "-0.0200"),
        (words.interval(None, None), ""),
        (words.interval(-0.1, 0.2), "[-0.1000, +0.2000]"),
        (words.ratio(1.256), "1.26x"),
        (words.percent(0.0), "0%"),
        (words.percent(0.0123), "+1.23%"),
        (words.probability(0.0004), "< 0.001"),
        (words.probability(0.0304), "0.030"),
        (words.count(9_999), "9999"),
        (words.count(164_000), "164k"),
        (words.count(1_250_000), "1.25M"),
        (words.seconds(0.0213), "21.3 ms"),
        (words.seconds(1.5), "1.50 s"),
        (words.memory(2**30), "1024 MiB"),
    ],
)
def test_words(shown: str, expected: str) -> None:
    assert shown == expected


def test_markdown_holds_the_command_the_headline_and_every_table(summary: Summary) -> None:
    text = markdown(summary)
    assert text.startswith(f"```console\n$ {summary['command']}\n```\n")
    assert sum(line.startswith("| --- |") for line in text.splitlines()) == 3
    assert "Cost of one training step:" in text
