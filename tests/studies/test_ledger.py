"""The ledger: every outcome in its words, from files of results alone."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_studies import ARMS, claim, results, study, written

from headway.report.tables import escaped
from headway.studies.catalogue import CLAIM_STUDIES, STUDIES, SURVEYS
from headway.studies.claims import SIZES, Claim, Run, Study, findings
from headway.studies.criteria import HISTORY, MEANING, SURE, Estimate, Verdict, beyond_zero, within
from headway.studies.ledger import SMALL, ledger, main
from headway.studies.races.tuning import FIRST_TUNING_SEED, TUNING
from headway.studies.run_files import add_run, read_runs
from headway.studies.running import still_missing

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs" / "results"
LOSSES = {
    "base": {seed: 3.0 + seed / 100 for seed in range(5)},
    "arm": {seed: 2.0 + seed / 100 + seed % 2 / 100 for seed in range(5)},
}
OUTCOMES = {
    "reproduced": claim("reproduced one"),
    "partly": claim("part of it", criterion=within(-0.88, 0.1, 0.05), differs="A smaller model."),
    "not reproduced": claim("not at all", criterion=within(-0.5, 0.1), published=-0.5),
    "not testable at this scale": claim("at scale", sizes=("small",), told="large | larger"),
}


def cells(page: str, sentence: str) -> list[str]:
    """The cells of the row of a claim."""
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {sentence} |")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.fixture
def page(tmp_path: Path) -> str:
    made = study(*OUTCOMES.values(), claim("waiting", arms=("other",)))
    return ledger(written(tmp_path / "results", made, results(LOSSES)), [made])


@pytest.mark.parametrize("verdict", list(OUTCOMES))
def test_every_outcome_is_told_in_its_words(page: str, verdict: str) -> None:
    row = cells(page, OUTCOMES[verdict].claim)
    assert row[6] == f"*{verdict}*"
    assert row[1] == "arXiv 1234.56789, Table 1"
    assert row[3].startswith("-0.996 [-1.0")
    assert row[4] == "5"
    assert row[7] == OUTCOMES[verdict].criterion.words
    assert row[9:12] == ["1", "cpu: x86_64", "2026-01-02"]
    assert "\nCommands:\n\n1. `headway study made`\n\n" in page
    assert row[12] == "[base](results/made/base.json), [arm](results/made/arm.json)"
    assert f"| *{verdict}* |" in page.partition("[made](#made)")[0]  # the legend


def test_each_row_says_what_was_published_and_where_we_differ(page: str) -> None:
    assert cells(page, "reproduced one")[2] == "-1.000"
    assert cells(page, "not at all")[2] == "-0.500"
    assert cells(page, "at scale")[2] == "large \\| larger"
    assert cells(page, "reproduced one")[8] == "Size paper, below."
    assert cells(page, "part of it")[8] == "Size paper, below. A smaller model."
    assert "for all claims of a size:\n\n- Size paper. The same.\n" in page


def test_a_caveat_is_made_from_results_and_our_figure(tmp_path: Path) -> None:
    doubt = claim(
        "doubted", differs="There more.", caveat=lambda r, ours: f"{r.size} {ours.value:.2f}."
    )
    page = ledger(written(tmp_path / "results", made := study(doubt), results(LOSSES)), [made])
    assert cells(page, "doubted")[8] == "Size paper, below. There more. paper -1.00."


@pytest.mark.parametrize(("asked", "told"), [("2026-01-02", True), ("2026-01-01", False)])
def test_a_claim_that_was_asked_when_its_runs_were_there_says_so(
    tmp_path: Path, asked: str, told: bool
) -> None:
    made = study(claim("asked later", differs="There more.", asked=asked))
    row = cells(ledger(written(tmp_path / "results", made, results(LOSSES)), [made]), "asked later")
    later = f" Asked on {asked}, when runs that it is judged by were there." if told else ""
    assert row[8] == f"Size paper, below. There more.{later}"


def test_a_row_of_too_few_seeds_says_how_many_a_verdict_needs(tmp_path: Path) -> None:
    made = study(claim("many", seeds=9), claim("enough", seeds=3))
    page = ledger(written(tmp_path / "results", made, results(LOSSES)), [made])
    assert cells(page, "many")[8] == "Size paper, below. A verdict needs 9 seeds."
    assert cells(page, "enough")[8] == "Size paper, below."


def test_a_row_whose_interval_shows_nothing_says_so(tmp_path: Path) -> None:
    wide, small = (claim(name, criterion=within(-1, 0.001), sizes=sizes)
                   for name, sizes in (("wide", SIZES), ("too small", ("small",))))  # fmt: skip
    made = study(wide, small)
    page = ledger(written(tmp_path / "results", made, results(LOSSES)), [made])
    assert cells(page, "wide")[6] == cells(page, "too small")[6] == f"*{Verdict.NOT_TESTABLE}*"
    assert cells(page, "wide")[8] == (
        "Size paper, below. Too few seeds: what would count is neither shown nor ruled out."
    )
    assert cells(page, "too small")[8] == "Size paper, below."


@pytest.mark.parametrize(("others", "told"), [(1, False), (5, True)])
def test_a_verdict_that_hangs_on_the_family_of_its_p_value_says_so(
    tmp_path: Path, others: int, told: bool
) -> None:
    sure = {"published": -1.0, "criterion": beyond_zero(-0.1)}
    drawn = {"estimate": lambda _: Estimate(-1.0, -1.5, -0.5, 5, 0.01), **sure}
    made = study(
        claim("published", **drawn),
        *(claim(f"besides {i}", asked="2025-01-01", **drawn) for i in range(others)),
    )
    row = cells(ledger(written(tmp_path / "results", made, results(LOSSES)), [made]), "published")
    assert (row[5], row[6]) == ("0.010", "*reproduced*")
    other = " Corrected over all claims of the study p is 0.060 and the verdict 'partly'."
    assert row[8] == f"Size paper, below.{other if told else ''}"


def test_the_rule_of_verdicts_and_what_was_changed_stand_once_at_the_top(page: str) -> None:
    top = page.partition("| study | size |")[0]
    for verdict, words in MEANING.items():
        assert f"| *{verdict}* | {words} |\n" in top
        assert page.count(words) == 1
    for day, words in HISTORY:
        assert f"- {day}: {words}\n" in top


def test_a_row_names_arms_whose_learning_rate_is_still_to_be_found(tmp_path: Path) -> None:
    waiting = [Run("arm", FIRST_TUNING_SEED, {"stage": TUNING, "rate": 0.1})]
    made = study(claim("both"), claim("one", arms=("base",)), runs=lambda *_: waiting)
    page = ledger(written(tmp_path / "results", made, results(LOSSES)), [made])
    assert cells(page, "both")[8] == "Size paper, below. Learning rates are still to be tried: arm."
    assert cells(page, "one")[8] == "Size paper, below."


def test_all_claims_stand_in_the_overview_and_those_not_run_below(page: str) -> None:
    assert (
        "| [made](#made) | paper | 1 reproduced, 1 partly, 1 not reproduced, 1 not testable at "
        "this scale |"
    ) in page
    assert "Not run yet: waiting." in page
    assert "Arms that can be run" not in page
    assert "## made" in page


def test_arms_that_were_not_run_are_listed(tmp_path: Path) -> None:
    made = study(arms={**ARMS, "third": "more", "fourth": "most"})
    page = ledger(written(tmp_path / "results", made, results(LOSSES)), [made])
    assert "Arms that can be run, and were not at size paper: third, fourth.\n" in page


def test_other_results_make_other_words(tmp_path: Path) -> None:
    made = study()
    worse = {"base": LOSSES["arm"], "arm": LOSSES["base"]}
    page = ledger(written(tmp_path / "results", made, results(worse)), [made])
    assert cells(page, "the arm is better")[6] == "*not reproduced*"
    few = {arm: {s: loss for s, loss in by.items() if s < 2} for arm, by in LOSSES.items()}
    page = ledger(written(tmp_path / "few", made, results(few)), [made])
    assert cells(page, "the arm is better")[6] == "*not testable at this scale*"


def test_rows_name_the_commands_that_made_their_results(tmp_path: Path) -> None:
    made = study(claim("both"), claim("one", arms=("arm",)))
    there = results(LOSSES)
    split = [replace(r, command=f"headway study made --arms {r.run.arm}") for r in there]
    folder = written(tmp_path / "results", made, replace(there, found=tuple(split)))
    page = ledger(folder, [made])
    assert cells(page, "both")[9] == "1, 2"
    named = int(cells(page, "one")[9])
    assert f"\n{named}. `headway study made --arms arm`\n" in page


def test_a_verdict_written_into_a_file_changes_nothing(tmp_path: Path) -> None:
    made = study(claim("c", criterion=within(-0.5, 0.1)))
    folder = written(tmp_path / "results", made, results(LOSSES))
    path = folder / "made" / "arm.json"
    content = json.loads(path.read_text())
    content["verdict"] = content["runs"][0]["verdict"] = "reproduced"
    path.write_text(json.dumps(content))
    assert cells(ledger(folder, [made]), "c")[6] == "*not reproduced*"


def test_small_runs_tell_of_claims_that_larger_ones_leave_open(tmp_path: Path) -> None:
    more = {**ARMS, "other": "something else", "last": "never run"}
    waiting = (claim("waiting", arms=("other",)), claim("open", arms=("last",)))
    made = study(claim("both"), *waiting, arms=more)
    folder = written(tmp_path / "results", made, results(LOSSES))
    small = results({arm: {0: 5.0} for arm in ("base", "arm", "other")}, "small")
    for one in small:
        add_run(folder / "made" / "small", made, small, one)
    page = ledger(folder, [made])
    assert "| [made](#made) | paper | 1 reproduced |" in page
    assert "| [made](#made) | small | 1 not testable at this scale |" in page
    assert cells(page, "both")[8] == "Size paper, below."
    assert cells(page, "waiting")[8] == "Size small, below."
    assert cells(page, "waiting")[12] == "[other](results/made/small/other.json)"
    assert "- Size paper. The same.\n- Size small. Less of it.\n" in page
    assert "Not run yet: open." in page
    assert (
        "Arms that can be run, and were not at size paper: other, last.\n\n"
        "Of these, at size small: [other](results/made/small/other.json).\n"
    ) in page


def test_small_runs_that_tell_nothing_new_are_left_out(tmp_path: Path) -> None:
    made = study(claim("both"))
    folder = written(tmp_path / "results", made, results(LOSSES))
    small = results({"base": {0: 5.0}, "arm": {0: 5.0}}, "small")
    for one in small:
        add_run(folder / "made" / "small", made, small, one)
    page = ledger(folder, [made])
    assert "| [made](#made) | paper |" in page
    assert "small" not in page.partition("## made")[0].partition("| study |")[2]
    assert "at size small" not in page


def test_a_study_without_results_is_left_out(tmp_path: Path) -> None:
    page = ledger(tmp_path, [study()])
    assert "#made" not in page
    assert "# Ledger" in page


def test_the_ledger_is_written_beside_the_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results").mkdir()
    assert main([str(tmp_path / "results")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'LEDGER.md'}\n"
    written_page = (tmp_path / "LEDGER.md").read_text()
    assert written_page == ledger(tmp_path / "results", CLAIM_STUDIES, SURVEYS)
    assert main([]) == 2
    assert "results: 'nothing' is not accepted; accepted is one folder" in capsys.readouterr().err
    assert main([str(tmp_path / "LEDGER.md")]) == 2


@pytest.fixture(scope="module")
def of_committed() -> str:
    return ledger(COMMITTED, CLAIM_STUDIES, SURVEYS)


def test_every_study_of_the_list_has_a_section_or_is_told_of_as_a_survey(of_committed: str) -> None:
    surveys = of_committed.partition("Surveys run one seed an arm")[2].partition("\n")[0]
    for name in STUDIES:
        assert (f"\n## {name}\n" in of_committed) != (f"[{name}](" in surveys), name
    for page, _, anchor in (place.partition("#") for place in SURVEYS.values()):
        heads = re.findall(r"^#+ (.+)$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads]
    assert "Surveys" not in ledger(COMMITTED, [])


def test_a_claim_stands_in_one_section(of_committed: str) -> None:
    starts = ("characters: ", "bpe: ", "music: ", "speech: ")
    rows = [
        line.split(" | ")[0] for line in of_committed.splitlines() if line[2:].startswith(starts)
    ]
    assert len(rows) == 48
    assert len(set(rows)) == len(rows)


def test_links_lead_to_results_wherever_a_command_wrote_them(
    of_committed: str,
) -> None:
    links = re.findall(r"\]\((results/[^)]+)\)", of_committed)
    assert len(links) > 300
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
    assert (
        "A command says where its runs were written, the links where they lie now: those of size "
        f"small in the folder `{SMALL}` of a study that has larger ones."
    ) in " ".join(of_committed.split())
    folders = list(COMMITTED.glob(f"*/{SMALL}"))
    assert folders
    for folder in folders:
        (made,) = [study for study in CLAIM_STUDIES if study.name == folder.parent.name]
        found = read_runs(folder, made)
        assert found is not None
        assert found.size == "small"
        assert list(folder.parent.glob("*.json"))  # larger ones


def test_the_ledger_in_the_docs_is_what_its_command_makes(of_committed: str) -> None:
    page = (ROOT / "docs" / "LEDGER.md").read_text(encoding="utf-8")
    assert page == of_committed, "run: python -m headway.studies.ledger docs/results"
    assert "`python -m headway.studies.ledger docs/results`" in page


COMMITTED_PARTS = [
    pytest.param(place, study, id=str(place.relative_to(COMMITTED)))
    for study in CLAIM_STUDIES
    for place in (COMMITTED / study.name, COMMITTED / study.name / SMALL)
    if place.exists()
]


@pytest.mark.parametrize(("place", "made"), COMMITTED_PARTS)
def test_committed_results_are_whole_and_their_commands_stand(
    place: Path, made: Study, of_committed: str
) -> None:
    found = read_runs(place, made)
    assert found is not None
    arms = {result.run.arm for result in found}  # others are told as not run yet
    missing = [run for run in still_missing(made, found) if run.arm in arms]
    # Races beyond the first rates are told beside the rate that was chosen without them, and
    # seeds that are still to be compared beside those that are.
    short = {run.arm for run in missing if run.options.get("stage") != TUNING}
    rows = re.findall(r"^\| ([^|]+) \|.*, the study asks for \d+ \|", of_committed, re.MULTILINE)
    assert short <= {arm for row in rows for arm in row.split(", ")}
    commands = tuple(f"headway study {name} " for name in (made.name, *made.takes))
    for result in found:
        assert result.command.startswith(commands)
        assert not re.search(r"(^|[ =])/", result.command), "a path of one machine"


ALL_CLAIMS = [pytest.param(c, id=f"{s.name}-{i}") for s in CLAIM_STUDIES
              for i, c in enumerate(s.claims)]  # fmt: skip


@pytest.mark.parametrize("one", ALL_CLAIMS)
def test_claims_are_complete(one: Claim) -> None:
    """What a row needs is there, and the criterion can come out in more than one way."""
    for words in (one.claim, one.source, one.published_text, one.criterion.words):
        assert words
        assert escaped(words)
    values = [0.0, 0.5, 0.75, 1.0, 2.0, -1.0, 1e-13, 0.9999, one.published or 0.0]
    verdicts = {one.criterion.judge(Estimate(v, v, v, 10, p=0.01)) for v in values}
    assert Verdict.REPRODUCED in verdicts
    assert Verdict.NOT_REPRODUCED in verdicts


@pytest.mark.parametrize(("place", "made"), COMMITTED_PARTS)
def test_figures_have_the_p_value_that_their_claims_ask_for(place: Path, made: Study) -> None:
    found = read_runs(place, made)
    assert found is not None
    asked = [f for f in findings(made.claims, found) if SURE in f.claim.criterion.words]
    assert [f.claim.claim for f in asked if f.ours is not None and f.ours.p is None] == []


@pytest.mark.parametrize("study", CLAIM_STUDIES, ids=lambda s: s.name)
def test_studies_are_complete(study: object) -> None:
    (made,) = [s for s in CLAIM_STUDIES if s is study]
    assert {arm for c in made.claims for arm in c.arms} <= set(made.arms)
    assert len({c.claim for c in made.claims}) == len(made.claims)
    assert set(made.differs) == set(made.seeds) == {"small", "paper"}
    assert all(made.seeds[size] >= c.seeds for c in made.claims for size in c.sizes)
    assert made.name in STUDIES
