"""Tokenizers: exact for any text, deterministic, and refused in one sentence."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from headway.corpora import end_of_text, load_tokenizer, train_bpe
from headway.errors import HeadwayError

TEXTS = [
    "the cat sat on the mat; the dog sat on the log",
    "Grüße, 文字 \U0001f600\n\tdef f(x):",
] * 5
SPECS = {spec: load_tokenizer(spec, TEXTS, 290) for spec in ("bpe", "bytes")}


@pytest.mark.parametrize("spec", SPECS)
@given(text=st.text(max_size=200))
def test_any_text_comes_back(spec: str, text: str) -> None:
    tokenizer = SPECS[spec]
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@given(st.text(max_size=100))
def test_bytes_are_bytes(text: str) -> None:
    expected = [byte + 1 for byte in text.encode()]
    assert SPECS["bytes"].encode(text).ids == expected


@pytest.mark.parametrize("spec", SPECS)
def test_end_of_text_in_a_text_is_text(spec: str) -> None:
    tokenizer = SPECS[spec]
    text = "a<|endoftext|>b"
    assert end_of_text(tokenizer) == 0
    assert 0 not in tokenizer.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_training_is_deterministic_and_keeps_to_the_size() -> None:
    first, second = (train_bpe(iter(TEXTS), 290) for _ in range(2))
    assert first.to_str() == second.to_str()
    assert first.get_vocab_size() == 290
    assert SPECS["bytes"].get_vocab_size() == 257
    assert train_bpe(TEXTS, 257).get_vocab_size() == 257
    assert len(first.encode(TEXTS[0]).ids) < len(TEXTS[0]) / 2


@pytest.mark.parametrize("vocab_size", [256, 0, -1])
def test_a_vocabulary_without_all_bytes_is_refused(vocab_size: int) -> None:
    with pytest.raises(HeadwayError, match=f"vocab_size={vocab_size}: .* at least 257"):
        load_tokenizer("bpe", TEXTS, vocab_size)


def test_a_file_or_its_folder_is_loaded_and_encodes_whole_texts(tmp_path: Path) -> None:
    tokenizer = train_bpe(TEXTS, 290)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for spec in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = load_tokenizer(str(spec), [], 0)
        encoded = [encoding.ids for encoding in loaded.encode_batch([TEXTS[0], "a<|endoftext|>"])]
        assert loaded.decode(encoded[0]) == TEXTS[0]
        assert 0 not in encoded[1]


@pytest.mark.parametrize("token", ["<|endoftext|>", "</s>", "<eos>", "[SEP]"])
def test_end_of_text_by_its_usual_names(tmp_path: Path, token: str) -> None:
    content = _with_end(token)
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    assert end_of_text(load_tokenizer(str(tmp_path), [], 0)) == 0


def test_a_tokenizer_without_end_of_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(_with_end("<end>"), encoding="utf-8")
    with pytest.raises(HeadwayError, match=r"no end-of-text token; one of .*</s>"):
        load_tokenizer(str(tmp_path), [], 0)


def _with_end(token: str) -> str:
    """The content of a tokenizer file whose token 0 is `token`."""
    fields = json.loads(SPECS["bytes"].to_str())
    fields["added_tokens"][0]["content"] = token
    fields["model"]["vocab"][token] = fields["model"]["vocab"].pop("<|endoftext|>")
    return Tokenizer.from_str(json.dumps(fields)).to_str()


@pytest.mark.parametrize("spec", ["no/such/tokenizer.json", "BPE", ""])
def test_a_missing_file_is_told(spec: str) -> None:
    with pytest.raises(HeadwayError, match=r"tokenizer='.*' cannot be read .* is accepted"):
        load_tokenizer(spec, TEXTS, 290)


def test_a_folder_without_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(HeadwayError, match=r"tokenizer.json' cannot be read"):
        load_tokenizer(str(tmp_path), TEXTS, 290)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"model": 3}', b"\xff\0", b"words"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(HeadwayError, match="is no tokenizer file"):
        load_tokenizer(str(tmp_path), TEXTS, 290)


def test_the_missing_library_is_named(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(HeadwayError, match="pip install tokenizers"):
        train_bpe(TEXTS, 290)
