"""The study of growing sinks as it is told: its verb, its page, its tables and its docs."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import headway_cli
from headway.report.tables import markdown_table
from headway.studies.catalogue import STUDIES, listing
from headway.studies.criteria import MEANING, Verdict
from headway.studies.residual_streams.amicl import AMICL
from headway.studies.sinks.__main__ import main
from headway.studies.sinks.arms import ARMS
from headway.studies.sinks.growth import grow_sinks
from headway.studies.sinks.page import render
from headway.studies.sinks.results import read_results
from headway.studies.sinks.table import effect_table, sink_table
from headway_settings import StudySettings

ROOT = Path(__file__).parents[3]
COMMITTED = ROOT / "docs" / "results" / "sinks"


def words(asked: StudySettings) -> list[str]:
    return [
        "study", "sinks", "--arms", "none", "--text", str(asked.text), "--device", "cpu",
        "--corpus", str(asked.corpus), "--out", str(asked.out), "--steps", "4",
    ]  # fmt: skip


def test_the_verb_runs_the_study_and_draws_the_page(
    asked: StudySettings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert headway_cli.main([*words(asked), "--rates", "none", "1e-3"]) == 0
    assert asked.out is not None
    shown = capsys.readouterr()
    assert "none step 4/4 loss" in shown.err
    assert shown.out.splitlines()[0].startswith("arm ")
    assert shown.out.splitlines()[-1] == f"The page: {asked.out / 'report.html'}"
    page = (asked.out / "report.html").read_text(encoding="utf-8")
    for title in ("Sink at position 0", "Value norm of position 0", "Largest activation"):
        assert title in page
    result = json.loads((asked.out / "none.json").read_text())
    assert result["learning_rate"] == 1e-3
    assert result["command"].startswith("headway study sinks --arms none")
    (asked.out / "report.html").unlink()
    assert headway_cli.main([*words(asked), "--rates", "none", "1e-3", "--json", "--no-page"]) == 0
    assert json.loads(capsys.readouterr().out) == {"none": result}
    assert not (asked.out / "report.html").exists()


def test_a_command_with_markup_is_escaped_in_the_page(asked: StudySettings) -> None:
    found = grow_sinks(asked, "headway study --text '<script>alert(1)</script>'")
    assert "<script>alert(1)" not in render(found)
    assert "&lt;script&gt;alert(1)" in render(found)


def test_all_studies_are_listed_in_short_and_one_in_full(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert headway_cli.main(["study", "--list"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("sinks: An attention sink")
    assert shown.count("; state: not run\n") == len(STUDIES)
    assert "reproduced where" not in shown
    assert re.findall(r"^  (survey|\d+ claim)", shown, re.MULTILINE)[0] == "survey"
    assert shown.count("  survey of one seed an arm: no claim has a verdict; state: ") == 1
    assert headway_cli.main(["study", "sinks", "amicl", "--list"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("sinks: An attention sink")
    for word in ("  source: arXiv", "  published: ", "  state: not run"):
        assert told.count(f"\n{word}") == 2
    assert told.count("\n  survey of one seed an arm: no claim has a verdict\n") == 1
    rule = "".join(f"\n{verdict}: {words}" for verdict, words in MEANING.items())
    assert told.endswith(f"{rule}\n")
    assert headway_cli.main(["study", "sinks", "--list"]) == 0
    assert f"{Verdict.PARTLY}: " not in capsys.readouterr().out
    # What would count is told once for all the claims that are judged by it.
    counts = [line for line in told.splitlines() if line.startswith("  reproduced where: ")]
    assert len(counts) == 2 + len({claim.criterion.words for claim in AMICL.claims})
    for claim in AMICL.claims:
        assert told.count(f"    - {claim.claim} (published: {claim.published_text})\n") == 1


def test_a_list_fits_a_terminal_and_a_sentence_is_a_line_elsewhere(tmp_path: Path) -> None:
    whole, folded = (listing(tmp_path, width=width) for width in (None, 60))
    assert max(map(len, folded.splitlines())) <= 60 < max(map(len, whole.splitlines()))
    assert folded.split() == whole.split()
    names = [line.partition(":")[0] for line in folded.splitlines() if line[:1].strip()]
    assert names[:-1] == list(STUDIES)  # what goes on is indented


def test_a_study_that_is_not_there_is_not_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert headway_cli.main(["study", "sink", "--list"]) == 2
    assert "name: 'sink' is unknown (did you mean 'sinks'?)" in capsys.readouterr().err


@pytest.mark.parametrize(("names", "told"), [
    ([], "name: 'nothing' is not accepted; accepted is one of sinks"),
    (["sink"], "name: 'sink' is unknown (did you mean 'sinks'?); accepted is one of sinks"),
    (["sinks", "sinks"], "name: 'sinks sinks' is not accepted"),
])  # fmt: skip
def test_a_wrong_name_is_refused(
    names: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert headway_cli.main(["study", *names]) == 2
    assert told in capsys.readouterr().err


def test_results_are_printed_as_a_table_from_files(
    asked: StudySettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = grow_sinks(asked, "a")
    found |= grow_sinks(replace(asked, arms=("none",), out=tmp_path / "b"), "b")
    assert main([str(tmp_path / "b" / "none.json"), str(asked.out)]) == 0
    tables = (markdown_table(sink_table(found)), markdown_table(effect_table(found)))
    assert capsys.readouterr().out == "\n".join(tables)
    assert main([str(asked.out), str(asked.out)]) == 2
    assert "is a second one of the arm 'rope'" in capsys.readouterr().err
    grow_sinks(replace(asked, arms=("alibi",), out=tmp_path / "c", steps=5), "c")
    assert main([str(asked.out), str(tmp_path / "c")]) == 2
    assert "steps was 6 and is 5" in capsys.readouterr().err
    (tmp_path / "no.json").write_text('{"study": "other"}')
    assert main([str(tmp_path / "no.json")]) == 2
    assert "is of another kind" in capsys.readouterr().err
    assert main([str(tmp_path / "missing.json")]) == 2


def test_every_setting_is_told() -> None:
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`(?:--|NAME).*?) \|", page, re.MULTILINE)
    told = {name for cell in cells for name in re.findall(r"`(?:--)?(.+?)`", cell)}
    fields = {field.name.replace("_", "-") for field in dataclasses.fields(StudySettings)}
    assert told == fields - {"name", "page"} | {"NAME", "no-page"}
    assert all(f"`{arm}`" in page for arm in ARMS)


@pytest.fixture
def committed() -> Path:
    if not COMMITTED.is_dir():
        pytest.skip("docs/results/sinks holds no results")
    return COMMITTED


def test_the_table_in_the_docs_is_that_of_the_committed_results(committed: Path) -> None:
    page = (ROOT / "docs" / "sinks.md").read_text(encoding="utf-8")
    found = read_results([committed])
    assert markdown_table(sink_table(found)) in page
    assert markdown_table(effect_table(found)) in page
