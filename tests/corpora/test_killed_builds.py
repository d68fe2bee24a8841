"""Builds that are really killed: nothing looks finished, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import headway
from headway.corpora import TokenCorpus
from headway.corpora.build import build
from headway.corpora.midi import midi_of_notes
from headway.corpora.performance import Notes
from headway.errors import HeadwayError
from headway_settings import CorpusBuildSettings

KINDS = ("text", "music", "speech")
KILLED = """
import os, signal, sys
from pathlib import Path
import headway.corpora.recordings as recordings
import headway.corpora.spool as spool
import headway.corpora.storage as storage
from headway.corpora.build import build
from headway_settings import CorpusBuildSettings

spool._ENOUGH, recordings._PART_FILES = 300, 4
root = Path(sys.argv[1])

def while_reading(done, total, text):
    if total == 1:
        os.kill(os.getpid(), signal.SIGKILL)

def while_encoding(done, total, text):
    if total > 1 and done > total / 3:
        os.kill(os.getpid(), signal.SIGKILL)

def before_the_name(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def silent(*_):
    pass

moments = (while_reading, while_encoding, before_the_name)
for kind, kill in [(k, f) for k in sys.argv[2:] for f in moments]:
    if kind == "music" and kill is while_reading:
        continue
    child = os.fork()
    if child == 0:
        if kill is before_the_name:
            storage._sync_folder, kill = kill, silent
        build(CorpusBuildSettings(kind=kind, path=str(root / kind), out=root / f"{kind}-out",
                                  vocab_size=300, codes=8, sample_rate=12000, workers=1), kill)
        os._exit(0)
    print(kind, os.waitpid(child, 0)[1])
"""


def write_sources(root: Path) -> None:
    random = np.random.default_rng(0)
    for kind in KINDS:
        (root / kind).mkdir()
    for number in range(24):
        words = " ".join(random.choice(["ark", "bee", "cat", "dog"], 30))
        (root / "text" / f"{number}.txt").write_text(f"{number} {words}")
        start = np.sort(random.uniform(0, 5, 20))
        notes = Notes(start, start + 0.5, random.integers(40, 80, 20), np.full(20, 64))
        piece = root / "music" / f"{number}"
        piece.mkdir()
        (piece / "a.mid").write_bytes(midi_of_notes(notes))
        sound = random.normal(0, 0.1, 6_000).astype(np.float32)
        soundfile.write(root / "speech" / f"{number}.wav", sound, 12_000)


class Told:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, done: int, total: int, text: str) -> None:
        self.texts.append(text)


def settings(root: Path, kind: str, out: str) -> CorpusBuildSettings:
    return CorpusBuildSettings(
        kind=kind,  # type: ignore[arg-type]
        path=str(root / kind),
        out=root / out,
        vocab_size=300,
        codes=8,
        sample_rate=12_000,
        workers=1,
    )


def test_a_killed_build_leaves_nothing_finished_and_goes_on(tmp_path: Path) -> None:
    write_sources(tmp_path)
    sources = str(Path(headway.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), *KINDS],
        env={**os.environ, "PYTHONPATH": sources},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    killed = [*("text",) * 3, *("music",) * 2, *("speech",) * 3]
    assert run.stdout.split() == [w for k in killed for w in (k, str(signal.SIGKILL.value))]
    for kind in KINDS:
        out = tmp_path / f"{kind}-out"
        assert not out.exists()
        for left in tmp_path.glob(f".{kind}-out*"):
            with pytest.raises(HeadwayError):
                TokenCorpus.load(left)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("headway.corpora.spool._ENOUGH", 300)
            patch.setattr("headway.corpora.recordings._PART_FILES", 4)
            told = Told()
            build(settings(tmp_path, kind, f"{kind}-out"), told)
            build(settings(tmp_path, kind, f"{kind}-whole"), Told())
        assert any("done already" in text for text in told.texts), kind
        whole = tmp_path / f"{kind}-whole"
        for path in whole.iterdir():
            assert path.read_bytes() == (out / path.name).read_bytes(), path.name
    assert not list(tmp_path.glob(".*"))
