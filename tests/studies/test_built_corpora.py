"""A built corpus in the place of raw text: the same run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_comparisons
import small_retrofits
from small_language_models import TINY, asked

from headway.corpora import build_corpus
from headway.corpora.cache import text_corpus
from headway.errors import HeadwayError
from headway.studies.comparison.compare import compare
from headway.studies.language_models.course import Course
from headway.studies.retrofit.run import retrofit
from headway.studies.sinks.arms import SIZES
from headway.studies.sinks.growth import Plan
from headway_settings import StudySettings

MOST = 8_000_000


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return small_comparisons.write_text(tmp_path / "text", documents=30, words=120)


@pytest.fixture
def corpus(text: Path, tmp_path: Path) -> Path:
    build_corpus(str(text), "bytes", 0, MOST).save(tmp_path / "corpus")
    return tmp_path / "corpus"


def test_a_comparison(text: Path, corpus: Path, tmp_path: Path) -> None:
    for name, source in (("raw", text), ("built", corpus)):
        compare(small_comparisons.settings(tmp_path / name, source, "vanilla"), "command")
    assert small_comparisons.by_place(tmp_path / "built") == small_comparisons.by_place(
        tmp_path / "raw"
    )
    assert not (tmp_path / "built" / "corpus").exists()
    other = small_comparisons.settings(tmp_path / "other", corpus, tokenizer="characters")
    with pytest.raises(HeadwayError, match="tokenizer='characters': the corpus"):
        compare(other, "command")


def test_a_retrofit(text: Path, corpus: Path, tmp_path: Path) -> None:
    model = small_retrofits.write_model(tmp_path / "model")
    found = [
        small_retrofits.without_clock(
            retrofit(small_retrofits.settings(model, tmp_path / name, source, seeds=1), "command")
        )
        for name, source in (("raw", text), ("built", corpus))
    ]
    for one, source in zip(found, (text, corpus), strict=True):
        assert one["settings"].pop("text") == str(source)
        one.pop("corpus", None)
    assert found[0] == found[1]
    assert not (tmp_path / "built" / "corpus").exists()


def test_a_study_of_language_models(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bpe"
    build_corpus(str(text), "bpe", TINY.vocab_size, MOST).save(folder)
    size = text_corpus(str(folder), str(folder / "tokenizer.json"), 0, MOST).vocab_size
    extent = replace(TINY, vocab_size=size)
    taken = Course({}, extent, asked(folder, tmp_path / "taken")).corpus
    raw = Course({}, extent, asked(text, tmp_path / "raw")).corpus
    assert np.array_equal(taken.train, raw.train)
    with pytest.raises(HeadwayError, match=rf"vocab_size={size + 1}: the corpus .* {size} symbols"):
        _ = Course({}, replace(TINY, vocab_size=size + 1), asked(folder, tmp_path / "other")).corpus


def test_the_study_of_sinks(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setitem(SIZES, "small", replace(SIZES["small"], vocab_size=257))
    build_corpus(str(text), "bpe", 257, MOST).save(tmp_path / "bpe")
    settings = StudySettings(name=("sinks",), text=str(tmp_path / "bpe"), out=tmp_path / "out")
    plan = Plan(settings, "command", tmp_path / "out", torch.device("cpu"))
    assert np.array_equal(plan.corpus.train, build_corpus(str(text), "bpe", 257, MOST).train)
