"""Raw music and speech where commands take text: which kind it is, and that it is built once."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from headway.corpora import TokenCorpus, cache
from headway.corpora.audio import wave
from headway.corpora.cache import text_corpus
from headway.corpora.kinds import kind_of
from headway.corpora.midi import midi_of_notes
from headway.corpora.performance import Notes
from headway.corpora.render import render
from headway.errors import HeadwayError
from headway_settings import CorpusRenderSettings

RATE = 24_000
ASKED = ("bpe", 8192, 1 << 20)


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_CACHE", str(tmp_path / "cache"))


def pieces(folder: Path, count: int = 20) -> Path:
    for number in range(count):
        start = np.arange(30) / 4 + number / 100
        notes = Notes(start, start + 0.2, 40 + (np.arange(30) + number) % 40, np.full(30, 64))
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "piece.mid").write_bytes(midi_of_notes(notes))
    return folder


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["a.mid", "b.MIDI", "README.md"], "music"),
        (["a.txt", "b.jsonl.xz", "c.wav"], "text"),
        (["1/a.flac", "1/b.flac", "1/transcript.txt"], "speech"),
        (["a.txt", "b.wav"], "text"),
        (["a.bin"], "text"),
        ([], "text"),
    ],
)
@pytest.mark.parametrize("archived", [False, True])
def test_the_kind_is_that_of_most_files(
    names: list[str], kind: str, archived: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    with zipfile.ZipFile(tmp_path / "files.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"x")
    assert kind_of(str(tmp_path / "files.zip" if archived else folder)) == kind


def test_what_is_missing_or_damaged_counts_as_text(tmp_path: Path) -> None:
    (tmp_path / "cut.zip").write_bytes(b"PK\3\4")
    for source in (tmp_path / "cut.zip", tmp_path / "nothing"):
        assert kind_of(str(source)) == "text"
        with pytest.raises(HeadwayError, match=source.name):
            text_corpus(str(source), *ASKED)


def test_raw_music_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pieces(tmp_path / "piano")
    (folder / "README.md").write_text("no notes")
    first = text_corpus(str(folder), *ASKED)
    assert (first.description.kind, first.description.source) == ("music", str(folder))
    assert first.vocab_size == 389
    with monkeypatch.context() as patch:
        patch.setattr(cache, "build", lambda *_: pytest.fail("built again"))
        again = text_corpus(str(folder.rename(tmp_path / "moved")), *ASKED)
        assert np.array_equal(first.train, again.train)
    other = tmp_path / "moved" / "3" / "piece.mid"
    other.write_bytes((tmp_path / "moved" / "4" / "piece.mid").read_bytes())
    changed = text_corpus(str(tmp_path / "moved"), *ASKED)
    assert any(
        not np.array_equal(getattr(first, split), getattr(changed, split))
        for split in ("train", "validation", "test")
    )


def test_a_copy_of_raw_speech_can_be_heard(tmp_path: Path) -> None:
    source = tmp_path / "speech.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for number in range(30):
            tone = 0.5 * np.sin(np.arange(RATE) * (200 + 20 * number) * 2 * np.pi / RATE)
            archive.writestr(f"{number}.wav", wave(tone, RATE))
    text_corpus(str(source), *ASKED).save(tmp_path / "copy")
    assert TokenCorpus.load(tmp_path / "copy").description.kind == "speech"
    heard = tmp_path / "heard.wav"
    render(CorpusRenderSettings(folder=tmp_path / "copy", out=heard, split="train"))
    assert heard.stat().st_size > RATE


def test_recordings_have_symbols_of_their_own(tmp_path: Path) -> None:
    folder = pieces(tmp_path / "piano", 3)
    with pytest.raises(HeadwayError, match=r"tokenizer='bytes': .* holds music"):
        text_corpus(str(folder), "bytes", 257, 1 << 20)


def test_without_a_cache_recordings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWAY_CACHE", "")
    with pytest.raises(HeadwayError, match="`headway corpus build music` makes of it"):
        text_corpus(str(pieces(tmp_path / "piano", 3)), *ASKED)
