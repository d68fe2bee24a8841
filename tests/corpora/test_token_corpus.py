"""A corpus of tokens: split by document, exact, saved whole or not at all, checked when loaded."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from headway.corpora import TokenCorpus, build_corpus
from headway.corpora.splits import SPLITS, split_documents
from headway.corpora.storage import new_folder
from headway.errors import HeadwayError

DOCUMENTS = [
    f"document {i}: " + " ".join(random.Random(i).choices("abcdefg", k=50)) for i in range(99)
]


def corpus_file(folder: Path, documents: list[str]) -> str:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return str(path)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TokenCorpus:
    return build_corpus(
        corpus_file(tmp_path_factory.mktemp("texts"), DOCUMENTS), "bpe", 300, 1_000_000
    )


def decoded(corpus: TokenCorpus, split: str) -> list[str]:
    """The documents of a split, from its tokens."""
    tokens = getattr(corpus, split)
    tokenizer = Tokenizer.from_str(corpus.tokenizer_json)
    assert tokens[-1] == corpus.eot
    ends = np.flatnonzero(tokens == corpus.eot)
    return [tokenizer.decode(part) for part in np.split(tokens, ends + 1)[:-1]]


@given(st.lists(st.text(max_size=3), max_size=30))
def test_no_document_is_in_two_splits_and_none_is_lost(documents: list[str]) -> None:
    if len(set(documents)) < 3:
        with pytest.raises(HeadwayError, match="at least three"):
            split_documents(documents)
        return
    splits = split_documents(documents)
    assert list(splits) == list(SPLITS)
    assert all(splits.values())
    assert sorted(chain.from_iterable(splits.values())) == sorted(documents)
    sets = [set(split) for split in splits.values()]
    assert sum(map(len, sets)) == len(set(documents))


def test_the_shares_and_their_stability() -> None:
    documents = [str(i) for i in range(4_000)]
    splits = split_documents(documents)
    assert 0.88 < len(splits["train"]) / 4_000 < 0.92
    assert 0.04 < len(splits["test"]) / 4_000 < 0.06
    more = split_documents(["new", *reversed(documents)])
    assert set(splits["validation"]) <= set(more["validation"])
    assert splits["test"][:3] == ["29", "72", "90"], "the split of a text must never change"


def test_tokens_are_the_documents(corpus: TokenCorpus) -> None:
    splits = split_documents(DOCUMENTS)
    for split in SPLITS:
        assert decoded(corpus, split) == splits[split]
        described = getattr(corpus.description, split)
        assert described.documents == len(splits[split])
        assert described.characters == sum(map(len, splits[split]))
    assert corpus.vocab_size == 300
    assert corpus.eot == 0
    assert corpus.train.dtype == np.uint16
    assert corpus.description.source.endswith("texts.jsonl")


def test_the_tokenizer_sees_the_training_split_alone(tmp_path: Path) -> None:
    splits = split_documents(DOCUMENTS)
    few = splits["train"] + splits["validation"][:1] + splits["test"][:1]
    corpora = [
        build_corpus(corpus_file(tmp_path, documents), "bpe", 300, 10**6)
        for documents in (splits["train"] + splits["validation"] + splits["test"], few)
    ]
    assert len(corpora[1].validation) < len(corpora[0].validation)
    assert corpora[1].tokenizer_json == corpora[0].tokenizer_json


def test_same_arguments_same_corpus(corpus: TokenCorpus) -> None:
    again = build_corpus(corpus.description.source, "bpe", 300, 1_000_000)
    assert again.description == corpus.description
    assert again.tokenizer_json == corpus.tokenizer_json


def test_the_default_corpus_builds() -> None:
    corpus = build_corpus(None, "bytes", 257, 300_000)
    assert corpus.vocab_size == 257
    assert "Python" in corpus.description.source


def test_a_large_vocabulary_takes_wider_integers(tmp_path: Path) -> None:
    fields = json.loads(build_corpus(None, "bytes", 257, 100_000).tokenizer_json)
    fields["model"]["vocab"]["<high>"] = 70_000
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    corpus = build_corpus(None, str(tmp_path), 257, 100_000)
    assert corpus.vocab_size == 70_001
    assert corpus.train.dtype == np.uint32
    corpus.save(tmp_path / "saved")
    assert TokenCorpus.load(tmp_path / "saved").train.dtype == np.uint32


def test_two_documents_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(HeadwayError, match=r"2 different document.* at least three, one each"):
        build_corpus(corpus_file(tmp_path, ["a", "b", "a"]), "bytes", 257, 100)


def test_saved_and_loaded_it_is_the_same(corpus: TokenCorpus, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "corpus"
    corpus.save(folder)
    loaded = TokenCorpus.load(str(folder))
    assert os.listdir(folder.parent) == ["corpus"]
    for field in dataclasses.fields(corpus):
        first, second = getattr(corpus, field.name), getattr(loaded, field.name)
        assert np.array_equal(first, second) if field.name in SPLITS else first == second
    assert isinstance(loaded.train, np.memmap)
    assert not loaded.train.flags.writeable


def test_an_existing_folder_is_never_overwritten(corpus: TokenCorpus, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    corpus.save(tmp_path / "corpus")
    with pytest.raises(HeadwayError, match="exists already"):
        corpus.save(tmp_path / "corpus")
    assert os.listdir(tmp_path) == ["corpus"]
    TokenCorpus.load(tmp_path / "corpus")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "no space left on the device"),
        (errno.EDQUOT, "no space left on the device"),
        (errno.EROFS, "cannot be written"),
    ],
)
def test_a_failing_disk_leaves_nothing(
    corpus: TokenCorpus, tmp_path: Path, monkeypatch: Any, number: int, reason: str
) -> None:
    calls = 0

    def fail_on_the_second(_: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fail_on_the_second)
    with pytest.raises(HeadwayError, match=reason):
        corpus.save(tmp_path / "corpus")
    assert calls == 2
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told_with_what_is_kept(tmp_path: Path) -> None:
    for within, kept in ((None, "nothing was written"), (tmp_path, "the same command")):
        with pytest.raises(HeadwayError, match=kept), new_folder(tmp_path / "out", within):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_interrupt_leaves_nothing(corpus: TokenCorpus, tmp_path: Path, monkeypatch: Any) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        corpus.save(tmp_path / "corpus")
    assert os.listdir(tmp_path) == []


def test_what_is_no_corpus_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(HeadwayError, match=r"corpus: '.*nothing' does not exist; accepted is"):
        TokenCorpus.load(tmp_path / "nothing")
    (tmp_path / "1.txt").write_text("raw")
    with pytest.raises(HeadwayError, match=r"is no built corpus .* as --text$"):
        TokenCorpus.load(tmp_path)


@pytest.mark.parametrize(
    "name", ["train.npy", "validation.npy", "test.npy", "tokenizer.json", "corpus.json"]
)
@pytest.mark.parametrize("harm", ["flip", "cut", "no bytes", "garbage", "gone"])
def test_a_damaged_file_is_refused(
    corpus: TokenCorpus, tmp_path: Path, name: str, harm: str
) -> None:
    corpus.save(tmp_path / "corpus")
    path = tmp_path / "corpus" / name
    data = path.read_bytes()
    middle = len(data) // 2
    harmed = {
        "flip": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "cut": data[:-2],
        "no bytes": b"",
        "garbage": b"PK\x03\x04 \xff",
    }
    path.unlink() if harm == "gone" else path.write_bytes(harmed[harm])
    with pytest.raises(HeadwayError, match=name):
        TokenCorpus.load(tmp_path / "corpus")


def test_a_zip_of_arrays_in_place_of_an_array_is_refused(
    corpus: TokenCorpus, tmp_path: Path
) -> None:
    corpus.save(tmp_path / "corpus")
    with open(tmp_path / "corpus" / "train.npy", "wb") as file:
        np.savez(file, corpus.train)
    with pytest.raises(HeadwayError, match=r"train.npy"):
        TokenCorpus.load(tmp_path / "corpus")


def test_pickled_objects_are_refused(corpus: TokenCorpus, tmp_path: Path) -> None:
    corpus.save(tmp_path / "corpus")
    np.save(tmp_path / "corpus" / "train.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(HeadwayError, match=r"train.npy"):
        TokenCorpus.load(tmp_path / "corpus")
