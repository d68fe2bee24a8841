"""The study `shortcuts-modalities`: music and speech from built corpora, samples that can be heard,
and refusals before anything is trained."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import symusic
from small_language_models import asked, raced
from small_shortcuts import EXTENT, GAINS, RATE, SEEN, made_up, make_tiny, save_corpus

from headway.corpora.codecs import MuLaw
from headway.corpora.performance import decode
from headway.corpora.tokens import TokenCorpus
from headway.errors import HeadwayError
from headway.studies.claim_page import render
from headway.studies.claims import Run, findings
from headway.studies.language_models.course import Course
from headway.studies.races.tuning import TEST
from headway.studies.running import run_study
from headway.studies.shortcuts import modalities as shortcuts_modalities
from headway.studies.shortcuts import text as shortcuts_text
from headway.studies.shortcuts.arms import KINDS, PLAIN, Condition
from headway.studies.shortcuts.modalities import CONDITIONS, SHORTCUTS_MODALITIES, look_and_listen
from headway.studies.shortcuts.samples import LONGEST, document, sample_length, write_sample
from headway.studies.shortcuts.text import SHORTCUTS_TEXT
from headway_settings import StudySettings

COMMAND = "headway study shortcuts-modalities"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> tuple[Condition, ...]:
    return make_tiny(monkeypatch, shortcuts_modalities)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modalities") / "corpora"
    for kind in ("music", "speech"):
        save_corpus(folder / kind, kind)
    return folder


def sound(content: bytes) -> np.ndarray:
    samples, rate = soundfile.read(io.BytesIO(content))
    assert rate == RATE
    return np.asarray(samples)


def settings(corpora: Path, folder: Path, *arms: str) -> StudySettings:
    return replace(asked(folder, folder, arms=arms), text=None, corpus=corpora)


def test_music_and_speech_are_continued_in_files_beside_the_results(
    tiny: tuple[Condition, ...], corpora: Path, tmp_path: Path
) -> None:
    arms = ("plain-music", "shortcut-music", "plain-speech")
    results = run_study(SHORTCUTS_MODALITIES, settings(corpora, tmp_path, *arms), COMMAND)
    assert len(results.found) == 3 * (1 + 1)
    out = tmp_path / "out"
    assert {path.name for path in out.glob("sample-*")} == {
        "sample-original-music.mid",
        "sample-plain-music.mid",
        "sample-shortcut-music.mid",
        "sample-original-speech.wav",
        "sample-plain-speech.wav",
    }
    assert {path.name for path in corpora.iterdir()} == {"music", "speech"}
    for arm in arms:
        [run] = results.of([arm], stage=TEST)
        corpus = TokenCorpus.load(corpora / arm.rpartition("-")[2])
        told = run.measures
        longest = document(Course({}, EXTENT, settings(corpora / arm.rpartition("-")[2], out)))
        prompt, tokens = told["sample_prompt"], np.array(told["sample_tokens"])
        assert len(tokens) == EXTENT.context
        assert prompt == EXTENT.context // 3
        np.testing.assert_array_equal(tokens[:prompt], longest[:prompt])
        assert corpus.eot not in tokens
        file = (out / told["sample"]).read_bytes()
        if arm.endswith("speech"):
            codec = MuLaw(RATE)
            heard = sound(file)
            np.testing.assert_array_equal(codec.encode(heard), tokens)
        else:
            assert symusic.Score.from_midi(file).note_num() == len(decode(tokens).pitch)
    page = render(SHORTCUTS_MODALITIES, results)
    assert "sample-shortcut-music.mid" in page
    assert "Loss on the test split, nats per token: speech" in page


def test_text_is_for_the_conditions_of_text_and_shared_with_the_study_of_them(
    tiny: tuple[Condition, ...],
    corpora: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_tiny(monkeypatch, shortcuts_text)
    both = replace(settings(corpora, tmp_path, "plain-bpe", "plain-music"), text=str(text))
    of_text = replace(both, arms=("plain-bpe",), corpus=tmp_path / "tokens")
    before = run_study(SHORTCUTS_TEXT, of_text, "headway study shortcuts-text").found
    shutil.copytree(corpora, tmp_path / "tokens", dirs_exist_ok=True)
    found = run_study(SHORTCUTS_MODALITIES, replace(both, corpus=tmp_path / "tokens"), COMMAND)
    assert found.of(["plain-bpe"]) == list(before)
    assert len(found.of(["plain-music"], stage=TEST)) == 1


def test_only_the_first_seed_of_two_arms_is_listened_to(
    tiny: tuple[Condition, ...], corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for = replace(settings(corpora / "music", tmp_path), seed=3)
    course = Course({}, EXTENT, asked_for)
    monkeypatch.setattr(shortcuts_modalities, "look", lambda *_: {"looked": True})
    monkeypatch.setattr(shortcuts_modalities, "continued", lambda *_: {"heard": True})
    heard = [
        (arm, seed)
        for arm in ("plain-music", "shortcut-music", "plain-parameters-music", "all-taps-music")
        for seed in (3, 4)
        if "heard" in look_and_listen(course, None, Run(arm, seed, {}))  # type: ignore[arg-type]
    ]
    assert heard == [("plain-music", 3), ("shortcut-music", 3)]


def test_the_prompt_is_the_start_of_the_longest_document_of_the_test_split(
    corpora: Path, tmp_path: Path
) -> None:
    course = Course({}, EXTENT, settings(corpora / "speech", tmp_path))
    test = course.corpus.test
    second = test[31:81]  # documents of 30, 50, 40 and 30 tokens, each with its end
    np.testing.assert_array_equal(document(course), second[: EXTENT.context])
    longer = replace(course, extent=replace(EXTENT, context=500))
    np.testing.assert_array_equal(document(longer), second)
    assert sample_length(10_000) == LONGEST
    (tmp_path / "out").mkdir()
    assert write_sample(course, "original", second) == "sample-original.wav"
    heard = sound((tmp_path / "out" / "sample-original.wav").read_bytes())
    np.testing.assert_array_equal(MuLaw(RATE).encode(heard), second)


def test_what_would_fail_later_is_refused_before_training(
    tiny: tuple[Condition, ...],
    corpora: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = asked(text, tmp_path, arms=("plain-bpe", "plain-music"))
    with pytest.raises(HeadwayError, match=r"holds no music; accepted is a folder in which `head"):
        run_study(SHORTCUTS_MODALITIES, missing, COMMAND)
    monkeypatch.setattr(shortcuts_modalities, "NEEDED", {"music": "no_such_package"})
    with pytest.raises(HeadwayError, match="sample of music needs the package no_such_package"):
        run_study(SHORTCUTS_MODALITIES, settings(corpora, tmp_path, "plain-music"), COMMAND)
    assert not (tmp_path / "out").exists()


def test_controls_are_those_of_the_text_and_asked_when_their_runs_were_there() -> None:
    asked = [bool(claim.asked) for claim in SHORTCUTS_MODALITIES.claims]
    assert asked == ([False] * 6 + [True] * 6) * 2
    for number, claim in enumerate(SHORTCUTS_MODALITIES.claims):
        of_text = SHORTCUTS_TEXT.claims[number]
        assert claim.claim.partition(":")[2] == of_text.claim.partition(":")[2]
        assert claim.criterion.words == of_text.criterion.words
        assert not of_text.asked


def test_nothing_follows_from_a_control_that_was_not_tried_at_the_rate_of_the_shortcut() -> None:
    made = made_up(CONDITIONS, GAINS, **SEEN)
    lower = [
        replace(one, run=replace(one.run, options={**one.run.options, "rate": 1e-3}))
        for one in made.of(["shortcut-music"], stage=TEST)
    ]
    kept = replace(made, found=(*made, *raced("shortcut-music", {1e-3: 1}), *lower))
    found = findings(SHORTCUTS_MODALITIES.claims, kept)
    same = [f for f in found if "reading earlier positions" in f.claim.claim]
    assert [str(f.verdict) for f in same] == ["not testable at this scale", "reproduced"]
    assert same[0].ours is None
    assert same[0].claim.caveat(kept, None) == (
        "same-token-music was not tried at 0.001, which shortcut-music chose. So nothing follows "
        "from -0.0300 [-0.0301, -0.0299]."
    )
    first = found[0]  # which was written before
    assert (str(first.verdict), first.claim.arms) == (
        "reproduced",
        ("shortcut-music", "plain-music"),
    )
    assert first.claim.caveat(kept, first.ours) == (
        "plain-music was not tried at 0.001, which shortcut-music chose."
    )


def test_all_arms_are_run_under_all_conditions_and_claims_name_them() -> None:
    names = [c.name for c in CONDITIONS]
    assert names == ["characters", "bpe", "music", "speech"]
    assert [c.kind for c in CONDITIONS] == ["text", "text", "music", "speech"]
    assert set(SHORTCUTS_MODALITIES.arms) == {f"{kind}-{name}" for kind in KINDS for name in names}
    assert list(SHORTCUTS_MODALITIES.arms)[:4] == [f"{PLAIN}-{name}" for name in names]
    results = made_up(CONDITIONS, GAINS, **SEEN)
    found = findings(SHORTCUTS_MODALITIES.claims, results)
    assert [str(f.verdict) for f in found] == ["reproduced"] * 24
    of_text = {claim.claim for claim in SHORTCUTS_TEXT.claims}
    assert not of_text & {claim.claim for claim in SHORTCUTS_MODALITIES.claims}
    assert {name.partition(":")[0] for name in of_text} == {"characters", "bpe"}
    assert f"claims of {SHORTCUTS_TEXT.name}" in SHORTCUTS_MODALITIES.claim
    for size in ("small", "paper"):
        assert {c.extents[size].shapes[0].layers for c in CONDITIONS} == {
            6 if size == "small" else 10
        }
