"""Builds that are really killed: nothing looks finished, and the same command goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from headway.corpora import TokenCorpus, recordings, spool, storage
from headway.corpora.build import build
from headway.corpora.midi import midi_of_notes
from headway.corpora.performance import Notes
from headway.errors import HeadwayError
from headway_settings import CorpusBuildSettings

# A process that forks from this one need not import everything again.
FORK = multiprocessing.get_context("fork")
KINDS = ("text", "music", "speech")


def small_steps(patch: pytest.MonkeyPatch) -> None:
    """Builds that save what they have after every few documents."""
    patch.setattr(spool, "_ENOUGH", 300)
    patch.setattr(recordings, "_PART_FILES", 4)


def kill_me(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def while_reading(done: int, total: int, text: str) -> None:
    if total == 1:
        kill_me()


def while_encoding(done: int, total: int, text: str) -> None:
    if total > 1 and done > total / 3:
        kill_me()


def silent(done: int, total: int, text: str) -> None:
    pass


TELL = {"reading": while_reading, "encoding": while_encoding, "naming": silent}


def killed_build(root: Path, kind: str, moment: str) -> None:
    """A build that is killed at a moment."""
    with pytest.MonkeyPatch.context() as patch:
        small_steps(patch)
        if moment == "naming":
            patch.setattr(storage, "_sync_folder", kill_me)
        build(settings(root, kind, f"{kind}-out"), TELL[moment])


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
    made = CorpusBuildSettings(
        kind=kind,  # type: ignore[arg-type]
        path=str(root / kind),
        out=root / out,
        workers=1,
    )
    match kind:
        case "text":
            return replace(made, vocab_size=300)
        case "speech":
            return replace(made, codes=8, sample_rate=12_000)
        case _:
            return made


def test_a_killed_build_leaves_nothing_finished_and_goes_on(tmp_path: Path) -> None:
    write_sources(tmp_path)
    for kind in KINDS:
        for moment in TELL:
            if (kind, moment) == ("music", "reading"):
                continue
            child = FORK.Process(target=killed_build, args=(tmp_path, kind, moment))
            child.start()
            child.join(60)
            assert child.exitcode == -signal.SIGKILL, (kind, moment)
    for kind in KINDS:
        out = tmp_path / f"{kind}-out"
        assert not out.exists()
        for left in tmp_path.glob(f".{kind}-out*"):
            with pytest.raises(HeadwayError):
                TokenCorpus.load(left)
        with pytest.MonkeyPatch.context() as patch:
            small_steps(patch)
            told = Told()
            build(settings(tmp_path, kind, f"{kind}-out"), told)
            build(settings(tmp_path, kind, f"{kind}-whole"), Told())
        assert any("done already" in text for text in told.texts), kind
        whole = tmp_path / f"{kind}-whole"
        for path in whole.iterdir():
            assert path.read_bytes() == (out / path.name).read_bytes(), path.name
    assert not list(tmp_path.glob(".*"))
