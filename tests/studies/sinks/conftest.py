"""One text, its tokens and settings for a study of sinks that takes a second."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from headway.corpora.tokens import build_corpus
from headway.studies.sinks import arms as sink_arms
from headway.studies.sinks.arms import SIZES
from headway_settings import StudySettings


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A size 'small' that takes a second."""
    small = replace(
        SIZES["small"], context=64, vocab_size=300, batch_size=2, steps=6, every=3, read_samples=3,
        profile_samples=4, test_tokens=128, width=32,
    )  # fmt: skip
    monkeypatch.setitem(sink_arms.SIZES, "small", small)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve documents of drawn words."""
    folder = tmp_path_factory.mktemp("long")
    draw = random.Random(3)
    known = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 6))) for _ in range(300)]
    for number in range(12):
        (folder / f"{number}.txt").write_text(" ".join(draw.choices(known, k=600)))
    return folder


@pytest.fixture(scope="module")
def corpus(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its tokens, for all runs."""
    folder = tmp_path_factory.mktemp("tokens") / "corpus"
    build_corpus(str(text), "bpe", 300, 2_000_000).save(folder)
    return folder


@pytest.fixture
def asked(text: Path, corpus: Path, tmp_path: Path) -> StudySettings:
    return StudySettings(
        name=("sinks",), text=str(text), corpus=corpus, out=tmp_path / "out", arms=("rope",),
        device="cpu",
    )  # fmt: skip
