"""The study `shortcuts-text`: arms that are matched, corpora that are taken as they are, a whole
run, and verdicts of made-up results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_language_models import asked, compared_run
from small_shortcuts import EXTENT, GAINS, SEEN, made_up, make_tiny, save_corpus

from headway.corpora.tokens import TokenCorpus, build_corpus
from headway.errors import HeadwayError
from headway.mechanisms.layer_shortcut import LayerShortcut
from headway.studies.claim_page import render
from headway.studies.claims import Results, findings
from headway.studies.criteria import Verdict
from headway.studies.kv_shift.kv_shift_lm import ARMS as OTHER_ARMS
from headway.studies.language_models.course import Arm, Course
from headway.studies.races.tuning import TEST, TUNING
from headway.studies.running import run_study
from headway.studies.shortcuts import text as shortcuts_text
from headway.studies.shortcuts.arms import (
    ALL,
    KINDS,
    OPERATIONS,
    OWN,
    PARAMETERS,
    PLAIN,
    SAME,
    SHORTCUT,
    STATIC,
    Condition,
    arms_of,
    runs_of,
)
from headway.studies.shortcuts.claims import unlike_sizes
from headway.studies.shortcuts.text import CONDITIONS, SHORTCUTS_TEXT
from headway.training.matched import forward_operations, parameter_count

CHARACTERS, BPE = CONDITIONS
PAPER = BPE.extents["paper"]
COMMAND = "headway study shortcuts-text"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> tuple[Condition, ...]:
    return make_tiny(monkeypatch, shortcuts_text)


@pytest.fixture(scope="module")
def arms() -> dict[str, Arm]:
    return arms_of(PAPER)


def test_the_paper_size_reads_layers_2_4_6_8_of_10_through_1024_neurons(
    arms: dict[str, Arm],
) -> None:
    [shape] = PAPER.shapes
    assert shape.layers == 10
    for condition in CONDITIONS:
        assert condition.extents["paper"].shapes == PAPER.shapes
    assert list(arms) == list(KINDS)
    assert arms[SHORTCUT].mechanisms == (LayerShortcut(taps=(2, 4, 6, 8), width=1024),)
    assert arms[ALL].mechanisms == (LayerShortcut(taps="all", width=1024),)
    [own], [same] = arms[OWN].mechanisms, arms[SAME].mechanisms
    assert (own.taps, own.width) == ((9,), 4096)
    assert (same.taps, same.reach) == ((2, 4, 6, 8), "token")
    assert arms[STATIC].mechanisms[0].taps == (2, 4, 6, 8)
    assert not arms[PLAIN].mechanisms + arms[PARAMETERS].mechanisms + arms[OPERATIONS].mechanisms


def test_plain_arms_are_matched_and_no_smaller(arms: dict[str, Arm]) -> None:
    configs = {kind: PAPER.config(arm, 100, 0) for kind, arm in arms.items()}
    sizes = {kind: parameter_count(config) for kind, config in configs.items()}
    assert 1 <= sizes[PARAMETERS] / sizes[SHORTCUT] < 1.01
    assert sizes[OWN] == sizes[SHORTCUT]
    assert sizes[STATIC] == sizes[PLAIN] + 5
    work = {
        kind: forward_operations(configs[kind], PAPER.context)
        for kind in (PARAMETERS, OPERATIONS, SHORTCUT)
    }
    assert 1 <= work[OPERATIONS] / work[SHORTCUT] < 1.01
    assert work[PARAMETERS] < work[SHORTCUT]


def test_the_study_runs_resumes_and_draws(
    tiny: tuple[Condition, ...], text: Path, tmp_path: Path
) -> None:
    names = ("plain-characters", "shortcut-characters", "static-mix-characters", "shortcut-bpe")
    settings = asked(text, tmp_path, arms=names)
    results = run_study(SHORTCUTS_TEXT, settings, COMMAND)
    assert len(results.found) == 4 * (1 + 1)
    [ours] = results.of(["shortcut-characters"], stage=TEST)
    assert ours.measures["taps"] == [2, 4]
    assert len(ours.measures["removed"]) == 2
    assert ours.measures["operations"] > 0
    [mixed] = results.of(["static-mix-characters"], stage=TEST)
    assert len(mixed.measures["weights"]) == 3
    [bpe] = results.of(["shortcut-bpe"], stage=TEST)
    assert (ours.measures["vocabulary"], bpe.measures["vocabulary"]) == (28, EXTENT.vocab_size)
    assert ours.measures["corpus"] != bpe.measures["corpus"]
    again = run_study(SHORTCUTS_TEXT, replace(settings, seeds=2), COMMAND)
    assert len(again.found) == len(results.found) + 4
    assert all(r in again.found for r in results.found)
    verdicts = {f.verdict for f in findings(SHORTCUTS_TEXT.claims, again)}
    assert verdicts == {None, Verdict.NOT_TESTABLE}
    figures = [figure.id for figure in SHORTCUTS_TEXT.figures(again)]
    assert len(set(figures)) == len(figures)
    for name in ("training-loss-characters", "by-rate-bpe", "depth-shortcut-bpe", "worth"):
        assert name in figures
    assert "depth-plain-characters" not in figures
    page = render(SHORTCUTS_TEXT, again)
    assert "Loss on the test split, nats per token: characters" in page
    [table, _] = SHORTCUTS_TEXT.tables(again)
    assert [row[0] for row in table.rows] == [n for n in names if n.endswith("characters")]
    assert table.rows[0][2] == ""
    assert table.rows[1][2].startswith(("+", "-"))


def test_curves_keep_the_colour_and_number_that_an_arm_has_in_the_legend(
    tiny: tuple[Condition, ...],
) -> None:
    results = made_up(tiny, GAINS, **SEEN)
    arms = [arm for arm in SHORTCUTS_TEXT.arms if results.of([arm])]
    [figure] = [f for f in SHORTCUTS_TEXT.figures(results) if f.id == "training-loss-bpe"]
    shown = {trace["meta"] for trace in figure.plot["data"]}
    assert shown == {number for number, arm in enumerate(arms) if arm.endswith("-bpe")}


def test_one_condition_follows_the_other_and_each_tunes_its_own_rates(
    tiny: tuple[Condition, ...], text: Path, tmp_path: Path
) -> None:
    settings = asked(text, tmp_path)
    first = runs_of(tiny, settings, Results("small", {}))
    assert {run.options["stage"] for run in first} == {TUNING}
    assert [run.arm for run in first] == [*tiny[0].arms, *tiny[1].arms]
    other = compared_run("plain-bpe", 0.01, 0, loss=1.0, corpus="two")
    same = compared_run("plain-characters", 0.01, 0, loss=1.0)
    assert runs_of(tiny, settings, Results("small", {}, (other, same)))
    two = compared_run("plain-bpe", 0.01, 1, loss=1.0)
    with pytest.raises(HeadwayError, match="different texts"):
        runs_of(tiny, settings, Results("small", {}, (other, two)))


def test_a_corpus_that_was_built_is_taken_as_it_is(
    tiny: tuple[Condition, ...], text: Path, tmp_path: Path
) -> None:
    held = tmp_path / "corpora"
    build_corpus(str(text), "bytes", 0, 10**6).save(held / "bpe")
    settings = replace(asked(text, tmp_path, arms=("plain-bpe",)), text=None, corpus=held)
    results = run_study(SHORTCUTS_TEXT, settings, COMMAND)
    [run] = results.of(["plain-bpe"], stage=TEST)
    assert run.measures["vocabulary"] == 257
    assert run.measures["corpus"] == TokenCorpus.load(
        held / "bpe"
    ).description.train.sha256[:16]  # fmt: skip
    assert {path.name for path in held.iterdir()} == {"bpe"}
    with pytest.raises(HeadwayError, match="is one corpus; accepted is a folder with one of them"):
        run_study(
            SHORTCUTS_TEXT,
            replace(settings, corpus=held / "bpe", out=tmp_path / "other"),
            COMMAND,
        )
    save_corpus(held / "characters", "music")
    with pytest.raises(HeadwayError, match=r"characters holds music; accepted is a corpus of text"):
        tiny[0].placed(settings)


def test_other_studies_take_a_built_corpus_too(text: Path, tmp_path: Path) -> None:
    build_corpus(str(text), "bytes", 0, 10**6).save(tmp_path / "built")
    settings = replace(asked(text, tmp_path), text=None, corpus=tmp_path / "built")
    course = Course(OTHER_ARMS, EXTENT, settings)
    assert course.folder == tmp_path / "built"
    assert course.corpus.vocab_size == 257
    named = replace(course, settings=replace(settings, text="another.txt"))
    with pytest.raises(HeadwayError, match=r"holds tokens of .* not of 'another.txt'"):
        _ = named.corpus


UNTOLD = "not testable at this scale"


def verdicts(gains: dict[str, float], **seen: float) -> list[str]:
    found = findings(SHORTCUTS_TEXT.claims, made_up(CONDITIONS, gains, **SEEN | seen))
    assert len(found) == 2 * 12
    assert [f.verdict for f in found[:12]] == [f.verdict for f in found[12:]]
    return [str(f.verdict) for f in found[:12]]


def test_verdicts_follow_from_results() -> None:
    assert verdicts(GAINS) == ["reproduced"] * 12
    larger = verdicts(GAINS | {PARAMETERS: -0.06, OPERATIONS: -0.07})
    assert larger == ["reproduced", *["not reproduced"] * 2, *["reproduced"] * 9]
    same = verdicts(GAINS | {SAME: -0.06, OWN: -0.07, STATIC: -0.08})
    assert same[6:9] == ["not reproduced"] * 3
    assert same[:6] == ["reproduced"] * 6
    narrow = verdicts(GAINS, effective=1.2, adaptive=0.01, rank_correlation=-0.5, elsewhere=0.2)
    assert narrow[3:6] == ["not reproduced"] * 3
    assert narrow[11] == "not reproduced"
    even = verdicts(GAINS, effective=3.99)
    assert even == ["reproduced"] * 3 + [UNTOLD] * 2 + ["reproduced"] * 6 + [UNTOLD]
    assert verdicts(GAINS, effective=8.99)[3:6] == [UNTOLD] * 3  # of 4 layers, and of 9


def test_rows_tell_sizes_of_arms_that_are_not_about_as_large() -> None:
    sizes = {PLAIN: (100, 40), PARAMETERS: (206, 36), SHORTCUT: (200, 41)}
    made = made_up(CONDITIONS, GAINS, **SEEN)
    told = tuple(
        replace(one, measures={**one.measures, "parameters": of[0], "operations": of[1]})
        for one in made
        if (of := sizes.get(one.run.arm.rpartition("-")[0]))
    )
    results = replace(made, found=told)
    plain, parameters = SHORTCUTS_TEXT.claims[:2]
    assert plain.caveat(results, None) == (
        "shortcut-characters has 200 parameters, plain-characters 100."
    )
    assert parameters.caveat(results, None) == (
        "shortcut-characters has 41 operations a token, plain-parameters-characters 36."
    )
    apart = replace(results, found=tuple(one for one in told if "bpe" not in one.run.arm))
    assert unlike_sizes(("plain-characters", "plain-parameters-characters"), apart) == (
        "plain-characters has 100 parameters and 40 operations a token, "
        "plain-parameters-characters 206 and 36."
    )
    assert unlike_sizes(("plain-characters", "plain-bpe"), made) == ""
    assert unlike_sizes(("plain-characters", "plain-bpe"), apart) == ""  # of which nothing is known


def test_what_is_written_before_says_where_the_set_up_differs() -> None:
    small, paper = (SHORTCUTS_TEXT.differs[size] for size in ("small", "paper"))
    assert "10 layers of width 256, contexts of 512" in paper
    assert "and beyond where the best is at the edge, and what won for another arm" in paper
    assert "6 layers of width 32" in small
    assert "beyond" not in small
