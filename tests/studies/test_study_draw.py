"""`headway study NAME --draw`: the page and the table of what is there, and nothing is run."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from made_studies import ALWAYS, MEAN, claim, results, study, written

import headway_cli
from headway.studies import catalogue
from headway.studies.claim_page import render
from headway.studies.claims import Measures, Run
from headway.studies.criteria import MEANING
from headway.studies.run_files import add_run
from headway.studies.running import BESIDE_DRAW
from headway_settings import StudySettings

RESULTS = Path(__file__).parents[2] / "docs" / "results"
PAPER = ("study", "made", "--size", "paper", "--draw")
OTHER = {
    "arms": ["arm"], "text": ["a.txt"], "corpus": ["c"], "steps": ["3"], "batch_size": ["3"],
    "learning_rate": ["0.1"], "rates": ["arm", "0.1"], "seconds": ["3"], "seed": ["3"],
    "seeds": ["3"], "tuning_seeds": ["3"], "device": ["cpu"], "executor": ["ray"],
    "executor_options": ["num_gpus", "1"], "job": ["run"], "dtype": ["bfloat16"], "compile": [],
    "save": [], "list": [],
}  # fmt: skip
"""Every setting that cannot stand beside draw, with a value as it is typed."""


def no_run(*_: object) -> Iterator[tuple[Run, Measures]]:
    raise AssertionError("something was run")


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    told = study(claim(caveat=lambda found, _: f"{len(found.found)} runs."), perform=no_run)
    entries = {"made": catalogue._entry(told), "sinks": catalogue.STUDIES["sinks"]}
    monkeypatch.setattr(catalogue, "STUDIES", entries)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two of the ten runs of the size 'paper'."""
    return written(tmp_path, study(), results({"base": {0: 2.0}, "arm": {0: 1.0}})) / "made"


def contents(folder: Path) -> Mapping[str, tuple[bytes, int]]:
    """Bytes and time of each file."""
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def drawn(folder: Path, *words: str) -> int:
    return headway_cli.main([*PAPER, "--out", str(folder), *words])


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one sentence that a command ends with, which leaves the folder as it was."""
    before = contents(folder) if folder.is_dir() else None
    assert headway_cli.main([*words, "--out", str(folder)]) == 2
    assert (contents(folder) if folder.is_dir() else None) == before
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line.removeprefix("headway: ")


def test_what_is_there_is_shown_and_what_is_missing_is_not_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    assert drawn(folder) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].startswith("claim ")
    assert lines[1].endswith("not testable at this scale")
    assert lines[2:] == [
        "", "made: 2 of 10 runs of size paper: 1 not testable at this scale",
        "", f"The page: {folder / 'report.html'}",
    ]  # fmt: skip
    assert shown.err == ""
    assert "1 not testable at this scale." in (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    assert contents(folder) == before


def test_settings_that_results_were_made_with_need_not_be_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = results({"arm": {0: 1.0}})
    held = dataclasses.replace(results({}), settings={"steps": 5})
    made = study(heeds=("steps",), perform=no_run)
    add_run(tmp_path, made, held, one)
    monkeypatch.setitem(catalogue.STUDIES, "made", catalogue._entry(made))
    assert drawn(tmp_path) == 0
    assert "1 of 10 runs of size paper: no verdict yet" in capsys.readouterr().out
    assert re.search(r"<dt>steps</dt><dd>5</dd>", (tmp_path / "report.html").read_text())


def test_without_a_page_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    assert drawn(folder, "--no-page", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [r["measures"] for r in told["found"]] == [{"loss": 2.0}, {"loss": 1.0}]
    [judged] = told["claims"]
    assert judged["claim"] == "the arm is better"
    assert judged["verdict"] == "not testable at this scale"
    assert judged["remarks"] == "2 runs."
    assert contents(folder) == before


def test_settings_beside_draw_are_all_told() -> None:
    names = {field.name for field in dataclasses.fields(StudySettings)}
    assert names == {"name", "draw", *BESIDE_DRAW, *OTHER}


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize("known", ["made", "sinks"])
def test_what_tells_how_to_run_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, known: str
) -> None:
    flag = f"--{name.replace('_', '-')}"
    line = refused(folder, capsys, "study", known, "--draw", flag, *OTHER[name])
    assert re.match(rf"{name}: .+ is not accepted beside draw, which runs nothing and", line)
    assert line.endswith("; accepted are --size, --out, --no-page, --json")


@pytest.mark.parametrize("known", ["made", "sinks"])
@pytest.mark.parametrize("there", ["no folder", "an empty folder", "another file"])
def test_a_folder_without_results_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], known: str, there: str
) -> None:
    folder = tmp_path / "none"
    if there != "no folder":
        folder.mkdir()
    if there == "another file":
        (folder / "notes.json").write_text("{}")
    line = refused(folder, capsys, "study", known, "--draw")
    assert line == (
        f"out: {folder} holds no results of the study {known}; accepted is a folder that `headway "
        f"study {known} --out` wrote"
    )
    assert folder.exists() == (there != "no folder")


def test_results_of_another_study_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = catalogue._entry(study(name="other", arms={"theirs": "something else"}))
    monkeypatch.setitem(catalogue.STUDIES, "other", other)
    line = refused(folder, capsys, "study", "other", "--draw")
    assert "holds results of headway study made" in line


@pytest.mark.parametrize("known", ["made", "sinks"])
def test_results_of_another_size_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], known: str
) -> None:
    held = folder if known == "made" else RESULTS / "sinks"
    assert refused(held, capsys, "study", known, "--draw") == (
        f"size: 'small' is not accepted for {held}, whose results are of size paper; accepted is "
        "--size paper"
    )


def test_sinks_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arm in ("rope", "learned"):
        shutil.copy(RESULTS / "sinks" / f"{arm}.json", tmp_path)
    before = contents(tmp_path)
    assert headway_cli.main(["study", "sinks", *PAPER[2:], "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^rope +0\.003 ", shown, re.MULTILINE)
    assert "\nsinks: 2 of 9 arms\n" in shown
    assert 'id="sink-rate"' in (tmp_path / "report.html").read_text()
    (tmp_path / "report.html").unlink()
    assert contents(tmp_path) == before


def test_a_page_that_cannot_be_written_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> Path:
        raise PermissionError(13, "Permission denied")

    entry = dataclasses.replace(catalogue.STUDIES["made"], page=denied)
    monkeypatch.setitem(catalogue.STUDIES, "made", entry)
    line = refused(folder, capsys, *PAPER)
    assert line.startswith(f"out: '{folder}' cannot be written (Permission denied)")


def facts(page: str, title: str) -> Sequence[tuple[str, str]]:
    """What stands under a title at the end of a page."""
    _, found, after = page.partition(f"<h3>{title}</h3>")
    assert found
    pairs = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", after.partition("</dl>")[0])
    return [(name, html.unescape(value)) for name, value in pairs]


def test_the_page_numbers_criteria_and_tells_each_once() -> None:
    made = study(
        claim("the first"),
        claim("the second", criterion=ALWAYS, **MEAN),
        claim("not judged", criterion=dataclasses.replace(ALWAYS, words="never"), arms=("none",)),
        claim("the third", differs="Of a third.", caveat=lambda found, _: f"{found.size} & more."),
    )
    losses: dict[str, Any] = {arm: {s: float(s) for s in range(3)} for arm in ("base", "arm")}
    page = render(made, results(losses))
    told = facts(page, "Counts as reproduced, by criterion")
    assert told == [("1", claim().criterion.words), ("2", "always")]
    assert facts(page, "Verdicts") == [(str(verdict), told) for verdict, told in MEANING.items()]
    row = r'<th scope="row"[^>]*><span>(the \w+)</span></th>.*?<div>(\w+)</div></td>\s*</tr>'
    rows = re.findall(row, page, re.DOTALL)
    assert rows == [("the first", "1"), ("the second", "2"), ("the third", "1")]
    assert "reproduced where" not in page
    read_with = page.partition("To be read with them")[2].partition("</table>")[0]
    assert re.findall(r"<span>(the \w+)</span>", read_with) == ["the third"]
    assert "Of a third. paper &amp; more." in read_with


@pytest.mark.parametrize("known", catalogue.CLAIM_STUDIES, ids=lambda known: known.name)
def test_every_page_can_be_drawn_from_the_published_results(known: Any) -> None:
    entry = catalogue._entry(known)
    places = [p for p in (RESULTS / known.name, RESULTS / known.name / "small") if p.is_dir()]
    assert places
    for place in places:
        size = json.loads(next(place.glob("*.json")).read_text())["size"]
        held = entry.held(StudySettings(name=(known.name,), size=size, out=place, draw=True))
        page = render(known, held)
        assert "<figcaption><h3>Claims</h3>" in page
        assert 'class="plot"' in page
