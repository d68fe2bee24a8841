"""Text through the verb: tokenizers, broken files listed, old folders still read."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

import headway_cli
from headway.corpora import TokenCorpus, load_tokenizer
from headway.corpora.build import build
from headway.corpora.render import render
from headway.corpora.splits import SPLITS
from headway.corpora.storage import read_json, write_json
from headway.errors import HeadwayError
from headway_settings import CorpusBuildSettings, CorpusRenderSettings

CHARACTERS = load_tokenizer("characters", (), 0)


def silent(done: int, total: int, text: str) -> None:
    assert 0 <= done <= total


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "texts"
    path.mkdir()
    for number in range(40):
        (path / f"{number}.txt").write_text(f"The text of file {number}, and no other." * 3)
    return path


def text(source: Path, out: Path, **more: object) -> CorpusBuildSettings:
    settings = CorpusBuildSettings(kind="text", path=str(source), out=out, tokenizer="bytes")
    return replace(settings, **more)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Hello, World", "hello world"),
        ("in 1905  he", "in one nine zero five he"),
        ("déjà-vu", "d j vu"),
        ("a<|endoftext|>b", "a endoftext b"),
        ("Kelvin\n\t7", "kelvin seven "),
    ],
)
def test_the_characters_of_text8(written: str, read: str) -> None:
    ids = CHARACTERS.encode(written, add_special_tokens=False).ids
    assert ids == [" abcdefghijklmnopqrstuvwxyz".index(character) for character in read]
    assert CHARACTERS.decode(ids) == read
    assert CHARACTERS.token_to_id("<|endoftext|>") == 27


@given(st.text())
def test_any_text_has_characters_and_they_survive(written: str) -> None:
    ids = CHARACTERS.encode(written, add_special_tokens=False).ids
    assert all(0 <= number < 27 for number in ids)
    assert (0, 0) not in set(pairwise(ids))
    again = CHARACTERS.encode(CHARACTERS.decode(ids), add_special_tokens=False).ids
    assert again == ids


def test_broken_files_are_listed_and_many_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "binary.txt").write_bytes(b"text\0")
    (folder / "broken.jsonl").write_text('{"text": "kept?"}\n{"text": ')
    settings = text(folder, tmp_path / "out")
    corpus = build(settings, silent)
    reasons = {item.file: item.reason for item in corpus.description.skipped}
    assert list(reasons) == ["binary.txt", "broken.jsonl"]
    assert "NUL byte" in reasons["binary.txt"]
    assert "is no JSON" in reasons["broken.jsonl"]
    assert sum(getattr(corpus.description, split).documents for split in SPLITS) == 40
    for number in range(2):
        (folder / f"binary{number}.txt").write_bytes(b"\0")
    with pytest.raises(HeadwayError, match=r"max_skipped=0.05: 4 of 44 files"):
        build(replace(settings, out=tmp_path / "more"), silent)
    assert not (tmp_path / "more").exists()


def test_documents_that_are_left_out_are_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["文字", "some text", "", "— 文"]
    (folder / "lines.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in lines))
    out = tmp_path / "out"
    words = ["corpus", "build", "text", str(folder), "--out", str(out), "--tokenizer"]
    assert headway_cli.main([*words, "characters"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "documents left out: 3 (empty, at least to the tokenizer)" in said
    told = read_json(out / "corpus.json")["description"]
    assert (told["left_out"], told["skipped"]) == (3, [])
    assert TokenCorpus.load(out).description.left_out == 3
    assert sum(told[split]["documents"] for split in SPLITS) == 41
    words[-2] = str(tmp_path / "bytes")
    assert headway_cli.main([*words, "bytes"]) == 0
    assert "documents left out: 1 (" in capsys.readouterr().out
    (folder / "lines.jsonl").unlink()
    words[-2] = str(tmp_path / "whole")
    assert headway_cli.main([*words, "characters"]) == 0
    assert "left out" not in capsys.readouterr().out


def test_a_document_comes_back_as_text(folder: Path, tmp_path: Path) -> None:
    settings = text(folder, tmp_path / "out", tokenizer="characters")
    corpus = build(settings, silent)
    assert (corpus.vocab_size, corpus.eot) == (28, 27)
    out = tmp_path / "a.txt"
    render(CorpusRenderSettings(folder=settings.out, out=out, split="test"))
    tokenizer = Tokenizer.from_str(corpus.tokenizer_json)
    end = int(np.flatnonzero(corpus.test == 27)[0])
    assert out.read_text() == tokenizer.decode(corpus.test[:end].tolist())
    assert out.read_text().startswith("the text of file ")


def test_a_folder_written_before_there_were_kinds_is_read(folder: Path, tmp_path: Path) -> None:
    corpus = build(text(folder, tmp_path / "out"), silent)
    manifest = read_json(tmp_path / "out" / "corpus.json")
    for name in ("kind", "code", "skipped", "left_out"):
        del manifest["description"][name]
    for split in SPLITS:
        del manifest["description"][split]["seconds"]
    write_json(tmp_path / "out" / "corpus.json", manifest)
    old = TokenCorpus.load(tmp_path / "out")
    assert old.description == corpus.description
    assert json.loads(old.tokenizer_json)
