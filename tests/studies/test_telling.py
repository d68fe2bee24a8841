"""What a comparison prints: the result on standard output, how far it is on standard error."""

import io
import json
import re

import pytest
from small_comparisons import contents, settings, words

import headway_cli
from headway.studies.comparison.compare import compare

LINE = re.compile(r"^\[ *\d+ s, +\d+%\] \S")


def test_json_is_all_that_standard_output_gets(tmp_path, text, capsys):
    out = tmp_path / "run"
    assert headway_cli.main([*words(out, text), "--json"]) == 0
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert list(summary["arms"]) == ["vanilla", "kv_shift"]
    assert summary == json.loads((out / "summary.json").read_text())
    lines = shown.err.splitlines()
    assert len(lines) == 3  # one a run, and the timing
    assert all(LINE.match(line) for line in lines), lines
    assert lines[0].startswith("[")
    assert "vanilla, seed 0: validation loss" in lines[0]
    assert " 50%] " in lines[0]
    assert "kv_shift, seed 0: validation loss" in lines[1]
    assert "100%] " in lines[1]
    assert (out / "report.html").exists()

    # The finished comparison again: the same summary, and no run to tell of.
    assert headway_cli.main([*words(out, text), "--json"]) == 0
    again = capsys.readouterr()
    assert json.loads(again.out) == summary
    assert again.err == ""

    # Tables of it: the page's place at the end, and nothing coloured, as this is no terminal.
    assert headway_cli.main(["report", str(out)]) == 0
    tables = capsys.readouterr().out
    assert "kv_shift" in tables
    assert tables.rstrip().endswith(f"The page: {out / 'report.html'}")
    assert "\x1b" not in tables + shown.err


class Terminal(io.StringIO):
    """Standard error as a terminal has it."""

    def isatty(self):
        return True


@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal_gets_a_live_line(tmp_path, text, monkeypatch, colour):
    screen = Terminal()
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    if colour:
        monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr("sys.stderr", screen)
    compare(settings(tmp_path / "run", text, "vanilla"), "live")
    shown = screen.getvalue()
    plain = re.sub(r"\x1b\[[\d;?]*\w", "", shown)
    assert re.search(r"left \| vanilla seed 0 step \d/6 loss \d\.\d{3} [\d,]+ tokens/s", plain)
    assert "100 %" in shown
    assert "\r" in shown or "\x1b[2K" in shown
    coloured = re.search(r"\x1b\[[\d;]*[34]\dm|\x1b\[[\d;]*38;", shown) is not None
    assert coloured == colour


def test_a_diverged_run_is_told_and_the_share_ends_at_all(tmp_path, text, capsys):
    compare(settings(tmp_path / "run", text, learning_rate=1e30, steps=10), "too fast")
    lines = capsys.readouterr().err.splitlines()
    assert "vanilla, seed 0: the loss of step" in lines[0]
    assert lines[0].endswith("is not finite; recorded as diverged")
    assert [re.search(r"(\d+)%", line)[1] for line in lines] == ["50", "100", "100"]


def test_names_in_brackets_are_told_as_they_are(tmp_path, text, capsys):
    arms = tmp_path / "arms.json"
    arms.write_text(json.dumps({"[red]shift[/]": [{"name": "kv_shift"}]}))
    compare(settings(tmp_path / "run", text, str(arms), steps=2), "brackets")
    assert "[red]shift[/], seed 0: validation loss" in capsys.readouterr().err


def test_the_report_of_a_folder_is_the_same_again(tmp_path, text, capsys):
    out = tmp_path / "run"
    assert headway_cli.main(words(out, text, steps=2)) == 0
    capsys.readouterr()
    before = contents(out)
    assert headway_cli.main(["report", str(out), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["arms"].keys() == {"vanilla", "kv_shift"}
    assert contents(out)["metrics.jsonl"] == before["metrics.jsonl"]
    assert contents(out)["summary.json"] == before["summary.json"]
