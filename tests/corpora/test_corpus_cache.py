"""Text that is built once, and built corpora where raw text is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from headway.corpora import TokenCorpus, build_corpus, cache, load_tokenizer
from headway.corpora.cache import cache_folder, text_corpus
from headway.corpora.tokens import is_corpus
from headway.errors import HeadwayError
from headway.studies.retrofit.corpus import built_corpus, cached_corpus, encode_corpus

MOST = 1 << 20


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"The text of file {number}, and no other. " * 3)
    return folder


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADWAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "corpora"


def corpora(kept: Path) -> list[Path]:
    return [path for path in kept.iterdir() if is_corpus(path)]


def same(one: TokenCorpus, other: TokenCorpus) -> bool:
    return one.description == other.description and all(
        np.array_equal(getattr(one, split), getattr(other, split))
        for split in ("train", "validation", "test")
    )


def test_text_is_built_once(texts: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = text_corpus(str(texts), "bpe", 300, MOST)
    assert same(first, build_corpus(str(texts), "bpe", 300, MOST))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "build_text", lambda *_: pytest.fail("built again"))
        assert same(text_corpus(str(texts), "bpe", 300, MOST), first)
        moved = texts.rename(texts.with_name("moved"))
        again = text_corpus(str(moved), "bpe", 300, MOST)
        assert again.description.source == str(moved)
        assert again.description.train == first.description.train
    for asked in (("bpe", 301, MOST), ("bytes", 300, MOST), ("bpe", 300, 3_000)):
        text_corpus(str(moved), *asked)
    assert len(corpora(kept)) == 4
    content = (moved / "7.txt").read_text()
    (moved / "7.txt").write_text(content.replace("file 7", "file 8"))
    changed = text_corpus(str(moved), "bpe", 300, MOST)
    assert len(corpora(kept)) == 5
    assert same(changed, build_corpus(str(moved), "bpe", 300, MOST))


def test_nothing_is_kept_where_the_variable_is_empty(
    texts: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWAY_CACHE", "")
    assert cache_folder() is None
    monkeypatch.setattr(cache, "build_text", lambda *_: pytest.fail("kept"))
    assert same(
        text_corpus(str(texts), "bytes", 0, MOST), build_corpus(str(texts), "bytes", 0, MOST)
    )
    assert not kept.exists()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HEADWAY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "headway"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "headway"


def test_a_cache_that_cannot_be_written(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HEADWAY_CACHE", str(tmp_path / "file"))
    with pytest.raises(HeadwayError, match=r"HEADWAY_CACHE: .*file' cannot be written"):
        text_corpus(str(texts), "bytes", 0, MOST)


def test_a_data_set_of_the_hub_is_not_kept(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "build_corpus", lambda source, *_: source)
    assert text_corpus("hf:some/name", "bytes", 0, MOST) == "hf:some/name"
    assert not kept.exists()


def test_a_built_corpus_is_taken_and_another_tokenizer_refused(texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    build_corpus(str(texts), "bpe", 300, MOST).save(folder)
    size = TokenCorpus.load(folder).vocab_size
    taken = text_corpus(str(folder), "bpe", size, MOST)
    assert taken.description.source == str(folder)
    assert np.array_equal(taken.train, TokenCorpus.load(folder).train)
    named = text_corpus(str(folder), str(folder / "tokenizer.json"), 0, MOST)
    assert same(named, taken)
    with pytest.raises(HeadwayError, match=rf"vocab_size={size + 1}: the corpus .* {size} symbols"):
        text_corpus(str(folder), "bpe", size + 1, MOST)
    with pytest.raises(HeadwayError, match=r"tokenizer='bytes': the corpus .* built with another"):
        text_corpus(str(folder), "bytes", size, MOST)


def model_tokenizer(**around: str) -> PreTrainedTokenizerFast:
    tokenizer = load_tokenizer("bytes", (), 0)
    if around:
        from tokenizers.processors import TemplateProcessing

        tokenizer.post_processor = TemplateProcessing(
            single="A $0", special_tokens=[("A", tokenizer.token_to_id("A"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def test_a_retrofit_takes_a_corpus_in_the_tokens_of_its_model(texts: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "corpus")
    build_corpus(str(texts), "bytes", 0, MOST).save(folder)
    taken = built_corpus(folder, model_tokenizer(), 257)
    raw = encode_corpus(str(texts), model_tokenizer(), 257, MOST)
    assert all(np.array_equal(getattr(taken, s), getattr(raw, s)) for s in ("train", "test"))
    with pytest.raises(HeadwayError, match="end with the token 0 alone, and the model reads"):
        built_corpus(folder, model_tokenizer(before="A"), 257)
    other = str(tmp_path / "other")
    build_corpus(str(texts), "bpe", 300, MOST).save(other)
    with pytest.raises(HeadwayError, match="built with another tokenizer than the model's"):
        built_corpus(other, model_tokenizer(), 1_000)


def test_raw_text_of_a_retrofit_is_encoded_once(
    texts: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cached_corpus(str(texts), model_tokenizer(), 257, MOST)
    assert same(first, encode_corpus(str(texts), model_tokenizer(), 257, MOST))
    other = cached_corpus(str(texts), model_tokenizer(before="A"), 257, MOST)
    assert not np.array_equal(other.train, first.train)
    monkeypatch.setattr(
        "headway.studies.retrofit.corpus.encode_corpus", lambda *_: pytest.fail("encoded again")
    )
    assert same(cached_corpus(str(texts), model_tokenizer(), 257, MOST), first)
