"""Music that is heard: by the program fluidsynth, where it is there."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from headway.corpora.build import build
from headway.corpora.midi import midi_of_notes
from headway.corpora.performance import Notes
from headway.corpora.render import render
from headway.corpora.synthesis import heard
from headway.errors import HeadwayError
from headway_settings import CorpusBuildSettings, CorpusRenderSettings

A4, A5 = (69, 440.0), (81, 880.0)


def notes(*pitches: int) -> bytes:
    """A second each, one after another."""
    start = np.arange(len(pitches), dtype=float)
    return midi_of_notes(Notes(start, start + 1, np.array(pitches), np.full(len(pitches), 100)))


@pytest.fixture
def installed() -> None:
    """Skip where fluidsynth or instruments of its own are missing."""
    if shutil.which("fluidsynth") is None:
        pytest.skip("needs the program fluidsynth")
    try:
        heard(notes(69), None)
    except HeadwayError as reason:
        pytest.skip(f"needs fluidsynth with instruments of its own: {reason}")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for piece in range(20):
        (tmp_path / f"in/{piece}.mid").write_bytes(notes(*range(60, 64 + piece)))
    settings = CorpusBuildSettings(kind="music", path=str(tmp_path / "in"), out=tmp_path / "out")
    build(settings, lambda done, total, text: None)
    return tmp_path / "out"


@pytest.mark.usefixtures("installed")
def test_notes_sound_at_their_pitch() -> None:
    samples, rate = soundfile.read(io.BytesIO(heard(notes(A4[0], A5[0]), None)))
    assert rate == 44_100
    for second, (_, pitch) in enumerate((A4, A5)):
        part = samples[int((second + 0.1) * rate) : int((second + 0.9) * rate)].mean(axis=1)
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
        loudest = np.fft.rfftfreq(len(part), 1 / rate)[spectrum.argmax()]
        assert loudest == pytest.approx(pitch, rel=0.01)
        assert 0.01 < np.abs(part).max() < 1


@pytest.mark.usefixtures("installed")
def test_a_document_is_heard(corpus: Path, tmp_path: Path) -> None:
    asked = CorpusRenderSettings(folder=corpus, out=tmp_path / "a.wav", split="train")
    assert soundfile.info(str(render(asked))).duration > 3
    junk = tmp_path / "junk.sf2"
    junk.write_text("no instruments")
    for soundfont in (junk, tmp_path / "absent.sf2"):
        with pytest.raises(HeadwayError, match=r"soundfont: '.*' is not accepted by fluidsynth"):
            render(replace(asked, soundfont=soundfont, out=tmp_path / "b.wav"))
    assert not (tmp_path / "b.wav").exists()


def test_without_the_program(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    asked = CorpusRenderSettings(folder=corpus, out=tmp_path / "a.wav", split="train")
    with pytest.raises(HeadwayError, match=r"fluidsynth .* not installed; accepted .* \.mid"):
        render(asked)
    assert not (tmp_path / "a.wav").exists()
    with pytest.raises(HeadwayError, match=r"soundfont: 'x.sf2' is accepted for music as .wav"):
        render(replace(asked, out=tmp_path / "a.mid", soundfont=Path("x.sf2")))
