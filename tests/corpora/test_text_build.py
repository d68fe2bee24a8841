"""Text built part by part: the same bytes however it is cut, in bounded memory, once."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.corpora import TokenCorpus, build_corpus, spool
from headway.corpora.splits import SPLITS, split_documents
from headway.corpora.spool import Spool
from headway.corpora.text import source_digest
from headway.corpora.text_build import build_text
from headway.errors import HeadwayError

WORDS = ("ark", "bee", "cat", "déjà vu", "elk\n\n", "fig", "gnu ", "hen")


def silent(done: int, total: int, text: str) -> None:
    assert 0 <= done <= total


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(60):
        text = " ".join(random.choice(WORDS, random.integers(5, 90)))
        (folder / f"{number:02d}.txt").write_text(f"{number} {text}", encoding="utf-8")
    return folder


def built(
    texts: Path, out: Path, tokenizer: str = "bpe", workers: int = 1, report: object = silent
) -> dict[str, bytes]:
    build_text(str(texts), tokenizer, 300, 1 << 20, out, workers, 0.05, report)  # type: ignore[arg-type]
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.mark.parametrize("tokenizer", ["bpe", "bytes", "characters"])
def test_workers_and_parts_change_no_byte(
    texts: Path, tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = built(texts, tmp_path / "whole", tokenizer)
    monkeypatch.setattr(spool, "_ENOUGH", 500)
    for workers in (1, 3):
        assert built(texts, tmp_path / f"parts-{workers}", tokenizer, workers) == whole
    build_corpus(str(texts), tokenizer, 300, 1 << 20).save(tmp_path / "memory")
    memory = {path.name: path.read_bytes() for path in sorted((tmp_path / "memory").iterdir())}
    assert memory == whole
    assert sorted(path.name[:5] for path in tmp_path.iterdir()) == sorted(
        ("texts", "whole", "parts", "parts", "memor")
    )


@given(st.lists(st.text(min_size=1), min_size=1, max_size=30), st.integers(1, 60))
def test_what_waits_is_what_was_read_split(
    tmp_path_factory: pytest.TempPathFactory, documents: list[str], enough: int
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "_ENOUGH", enough)
        if len(set(documents)) < 3:
            with pytest.raises(HeadwayError, match="at least three"):
                spool.none_empty(list(spool.write_stretches(documents, folder)), folder)
            return
        expected = split_documents(documents)
        written = list(spool.write_stretches(documents, folder))
        found = Spool(spool.none_empty(written, folder), 0, (), 0)
    found.save(folder)
    read = Spool.load(folder)
    assert read == found
    assert {split: list(read.documents(split)) for split in SPLITS} == expected
    assert sum(stretch.documents for stretch in read.stretches) == len(documents)
    assert sum(stretch.characters for stretch in read.stretches) == sum(map(len, documents))
    assert len(list(folder.iterdir())) == len(read.stretches) + 1


def test_an_interrupted_build_reads_and_encodes_no_part_twice(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_ENOUGH", 500)
    whole = built(texts, tmp_path / "whole")

    def stop(done: int, total: int, text: str) -> None:
        if total > 1 and done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built(texts, tmp_path / "out", report=stop)
    assert not (tmp_path / "out").exists()
    told: list[str] = []
    again = built(texts, tmp_path / "out", report=lambda done, total, text: told.append(text))
    assert again == whole
    assert "done already" in told[0]
    assert not any("characters read" in text or "trained" in text for text in told)


def test_text_that_changed_under_a_build_is_read_again(texts: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int, text: str) -> None:
        if total > 1:
            raise KeyboardInterrupt

    for change in ("a stretch on the disk", "the text"):
        with pytest.raises(KeyboardInterrupt):
            built(texts, tmp_path / change, report=stop)
        (waiting,) = tmp_path.glob(f".{change}.parts-*")
        if change == "the text":
            (texts / "00.txt").write_text("another beginning")
        else:
            stretch = waiting / "train-000000.text"
            stretch.write_bytes(stretch.read_bytes()[:-1] + b"?")
        told: list[tuple[int, int, str]] = []
        after = built(texts, tmp_path / change, report=lambda *words, told=told: told.append(words))
        assert any("characters read" in text for _, _, text in told)
        assert after == built(texts, tmp_path / f"{change}, whole")
        assert not list(tmp_path.glob(".*"))


def test_memory_does_not_grow_with_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Python's objects and numpy's arrays; the library's own memory is that of one batch."""
    monkeypatch.setattr(spool, "_ENOUGH", 20_000)
    monkeypatch.setattr("headway.corpora.tokens._BATCH", 8_000)

    documents = [f"{number} " + "some words that come again " * 40 for number in range(2_000)]
    monkeypatch.setattr("headway.corpora.text_build.stream_documents", lambda *_: iter(documents))
    monkeypatch.setattr("headway.corpora.text_build.source_digest", str)
    tracemalloc.start()
    build_text("", "characters", 0, 1, tmp_path / "out", 2, 0.0, silent)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < sum(map(len, documents)) / 2
    assert len(TokenCorpus.load(tmp_path / "out").train) > 1_500_000


def test_a_broken_file_is_an_error_where_none_may_be_skipped(texts: Path, tmp_path: Path) -> None:
    (texts / "binary.txt").write_bytes(b"a\0")
    with pytest.raises(HeadwayError, match=r"binary\.txt' is binary"):
        build_text(str(texts), "bytes", 0, 1 << 20, tmp_path / "out", 1, 0.0, silent)
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


def test_a_large_broken_file_is_left_out_whole(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headway.corpora.text._HELD", 10)
    whole = built(texts, tmp_path / "whole")
    (texts / "30.jsonl").write_text('{"text": "is not kept"}\n{"text": ')
    with_broken = built(texts, tmp_path / "out")
    del whole["corpus.json"], with_broken["corpus.json"]
    assert with_broken == whole
    (skipped,) = TokenCorpus.load(tmp_path / "out").description.skipped
    assert skipped.file == "30.jsonl"


def test_files_without_text_are_listed_and_do_not_count_as_broken(
    texts: Path, tmp_path: Path
) -> None:
    whole = built(texts, tmp_path / "whole")
    for number, blank in enumerate(["", "\n \n", '{"text": ""}\n{"text": " "}\n'] * 10):
        (texts / f"blank-{number}.{'jsonl' if number % 3 == 2 else 'txt'}").write_text(blank)
    with_blank = built(texts, tmp_path / "out")
    del whole["corpus.json"], with_blank["corpus.json"]
    assert with_blank == whole
    skipped = TokenCorpus.load(tmp_path / "out").description.skipped
    assert {item.reason for item in skipped} == {"empty"}
    assert len(skipped) == 30


def test_documents_that_are_nothing_to_the_tokenizer_hold_no_text(
    texts: Path, tmp_path: Path
) -> None:
    whole = built(texts, tmp_path / "whole", "characters")
    for number in range(5):  # more than may be broken
        (texts / f"chinese-{number}.txt").write_text("文字 " * 3_000, encoding="utf-8")
    (texts / "lines.jsonl").write_text('{"text": "文"}\n{"text": ""}\n', encoding="utf-8")
    (texts / "some.jsonl").write_text('{"text": "— 文"}\n{"text": "%s"}\n' % ("文" * 99 + "one"))
    out = tmp_path / "out"
    built(texts, out, "characters")
    made = TokenCorpus.load(out)
    assert [(item.file, item.reason) for item in made.description.skipped] == [
        *((f"chinese-{number}.txt", "empty to the tokenizer") for number in range(5)),
        ("lines.jsonl", "empty to the tokenizer"),
    ]
    build_corpus(str(texts), "characters", 0, 1 << 20).save(tmp_path / "memory")
    assert (tmp_path / "memory" / "train.npy").read_bytes() == (out / "train.npy").read_bytes()
    assert sum(getattr(made.description, split).documents for split in SPLITS) == 61
    (texts / "some.jsonl").unlink()
    built(texts, tmp_path / "without", "characters")
    assert (tmp_path / "without" / "train.npy").read_bytes() == whole["train.npy"]


def test_a_source_that_is_nothing_to_the_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.txt").write_text("文字" * (number + 1), encoding="utf-8")
    (tmp_path / "blank.txt").touch()
    with pytest.raises(HeadwayError, match=r"blank.txt' is empty; a source that holds text"):
        built(tmp_path / "blank.txt", tmp_path / "out", "characters")
    with pytest.raises(HeadwayError, match="is empty to the tokenizer; a source that holds text"):
        built(folder, tmp_path / "out", "characters")
    (folder / "4.txt").write_text("letters")
    with pytest.raises(HeadwayError, match=r"1 different document.* at least three"):
        built(folder, tmp_path / "out", "characters")
    assert len(built(folder, tmp_path / "bytes", "bytes")) == 5


def test_names_of_any_bytes_are_read_and_written_escaped(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"texts\xff")
    folder.mkdir()
    for number in range(5):
        (folder / os.fsdecode(b"%d\xfe.txt" % number)).write_text(f"document {number}")
    (folder / os.fsdecode(b"blank\xfe.txt")).touch()
    built(folder, tmp_path / "out", "bytes")
    told = TokenCorpus.load(tmp_path / "out").description
    assert told.source.endswith(r"texts\udcff")
    assert [item.file for item in told.skipped] == [r"blank\udcfe.txt"]
    assert source_digest(str(folder)) != source_digest(str(tmp_path / "out" / "corpus.json"))


def test_parts_encoded_while_reading_are_not_told_as_done_already(
    texts: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    built(texts, tmp_path / "out", "bytes", report=lambda done, total, text: told.append(text))
    assert any("characters read" in text for text in told)
    assert told[-1] == "60 of 60"


def test_a_data_set_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[str] = []

    def load_dataset(name: str, split: str, streaming: bool) -> Iterator[dict[str, str]]:
        assert (split, streaming) == ("train", True)
        asked.append(name)
        return iter([{"text": f"document {number} of many"} for number in range(50)])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    out = tmp_path / "out"
    build_text("hf:some/name", "bpe", 260, 1 << 20, out, 1, 0.05, silent)
    assert asked == ["some/name"]
    corpus = TokenCorpus.load(out)
    assert sum(getattr(corpus.description, split).documents for split in SPLITS) == 50


@pytest.mark.parametrize("count", [3, 4, 8])
@pytest.mark.parametrize("enough", [1, 25, 1000])
def test_documents_that_are_split_anew_are_encoded_anew(
    count: int, enough: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_ENOUGH", enough)
    folder = tmp_path / "few"
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.txt").write_text(f"document {number}")
    made = built(folder, tmp_path / "out", "bytes", 2)
    build_corpus(str(folder), "bytes", 0, 1 << 20).save(tmp_path / "memory")
    assert made == {p.name: p.read_bytes() for p in sorted((tmp_path / "memory").iterdir())}
    assert sum(getattr(TokenCorpus.load(tmp_path / "out").description, s).documents
               for s in SPLITS) == count  # fmt: skip


def test_stretches_grow_with_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_ENOUGH", 10)
    monkeypatch.setattr(spool, "_SHARE", 4)
    monkeypatch.setattr(spool, "_MOST", 200)
    documents = [f"document {number:03d}" for number in range(300)]
    train = [s for s in spool.write_stretches(documents, tmp_path) if s.split == "train"]
    sizes = [stretch.characters for stretch in train[:-1]]
    assert sizes == sorted(sizes)
    assert sizes[0] == 12
    assert 200 <= sizes[-1] < 212
