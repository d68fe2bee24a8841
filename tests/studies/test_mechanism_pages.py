"""Claims on the pages of mechanisms: what is told, what waits, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_studies import claim, results, study, written

from headway.errors import HeadwayError
from headway.studies.catalogue import CLAIM_STUDIES
from headway.studies.criteria import within
from headway.studies.ledger import main
from headway.studies.mechanism_pages import MARKED, filled

DOCS = Path(__file__).parents[2] / "docs"
LOSSES = {"base": {s: 3.0 + s / 10 for s in range(4)}, "arm": {s: 2.0 + s / 10 for s in range(4)}}
MADE = study(
    claim("both arms"),
    claim("the base alone", arms=("base",), criterion=within(5.0, 0.1)),
    claim("too few seeds", seeds=30),
    claim("too small", sizes=()),
    claim("doubted", caveat=lambda found, _: f"{found.size} alone."),
    claim("no figure", estimate=lambda _: None),
)


def page(mark: str) -> str:
    return f"# A page\n\n<!-- claims of {mark} -->\nold\n<!-- end of claims -->\n\nThe end.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "results", MADE, results(LOSSES))


def test_claims_that_were_tested_stand_on_the_page(folder: Path) -> None:
    made = filled(page("made"), folder, [MADE])
    assert (
        "| both arms | -1.000 | -1.000 | 4 | *reproduced* |  | [made](../LEDGER.md#made) |" in made
    )
    assert "| the base alone | -1.000 | -1.000 | 4 | *not reproduced* |" in made
    assert (
        "| too few seeds | -1.000 | -1.000 | 4 | *not testable at this scale* | A verdict" in made
    )
    assert "| doubted | -1.000 | -1.000 | 4 | *reproduced* | paper alone. |" in made
    assert "| no figure | -1.000 | none | 0 | *not testable at this scale* |" in made
    assert "too small" not in made
    assert "old" not in made
    assert made.startswith("# A page\n\n<!-- claims of made -->\n")
    assert made.endswith("<!-- end of claims -->\n\nThe end.\n")
    assert filled(made, folder, [MADE]) == made


def test_a_mark_can_name_an_arm(folder: Path) -> None:
    made = filled(page("made/arm"), folder, [MADE])
    assert "both arms" in made
    assert "the base alone" not in made


def test_other_results_make_another_page(folder: Path, tmp_path: Path) -> None:
    worse = {"base": LOSSES["arm"], "arm": LOSSES["base"]}
    other = written(tmp_path / "other", MADE, results(worse))
    assert "| both arms | -1.000 | 1.000 | 4 | *not reproduced* |" in filled(
        page("made"), other, [MADE]
    )


def test_without_results_the_page_says_so(tmp_path: Path) -> None:
    assert "None of its claims was run yet" in filled(page("made"), tmp_path, [MADE])


@pytest.mark.parametrize("mark", ["mode", "made/arms", "made/arm nothing"])
def test_unknown_names_are_refused(mark: str, folder: Path) -> None:
    with pytest.raises(HeadwayError, match="accepted are studies, and their arms"):
        filled(page(mark), folder, [MADE])


def test_the_command_writes_pages_that_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = tmp_path / "mechanisms"
    pages.mkdir()
    (tmp_path / "results").mkdir()
    (pages / "marked.md").write_text(page("hops"))
    (pages / "plain.md").write_text("# Nothing\n")
    assert main([str(tmp_path / "results")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(tmp_path / "LEDGER.md"), str(pages / "marked.md")
    ]  # fmt: skip
    assert main([str(tmp_path / "results")]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "LEDGER.md")]
    (pages / "marked.md").write_text(page("hop"))
    assert main([str(tmp_path / "results")]) == 2
    assert "claims of 'hop'" in capsys.readouterr().err


def test_pages_in_the_docs_are_what_the_command_makes() -> None:
    marked = [
        path for path in sorted((DOCS / "mechanisms").glob("*.md"))
        if MARKED.search(path.read_text(encoding="utf-8"))
    ]  # fmt: skip
    assert len(marked) >= 6
    for path in marked:
        told = path.read_text(encoding="utf-8")
        assert told == filled(told, DOCS / "results", CLAIM_STUDIES), (
            "run: python -m headway.studies.ledger docs/results"
        )
