"""Raw text in a model's tokens: documents that its tokenizer has nothing of are no documents."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from headway.corpora import build_corpus, load_tokenizer
from headway.corpora.splits import SPLITS
from headway.errors import HeadwayError
from headway.studies.retrofit.corpus import encode_corpus

MOST = 1 << 20
SENTENCES = [f"sentence {'abcdefghij'[number]} of a text" for number in range(10)]


def letters(*, begins: bool = False) -> PreTrainedTokenizerFast:
    """Letters alone are tokens; with `begins`, a token stands before every text."""
    tokenizer = load_tokenizer("characters", (), 0)
    if begins:
        tokenizer.post_processor = TemplateProcessing(
            single="<|endoftext|> $0", special_tokens=[("<|endoftext|>", 27)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def written(path: Path, documents: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in documents))
    return str(path)


@pytest.mark.parametrize("begins", [False, True])
def test_documents_that_are_nothing_to_the_tokenizer_are_left_out(
    tmp_path: Path, begins: bool
) -> None:
    whole = encode_corpus(written(tmp_path / "a.jsonl", SENTENCES), letters(), 28, MOST)
    tokenizer = letters(begins=begins)
    mixed = ["文字", *SENTENCES[:4], " \n", "— 文", *SENTENCES[4:], "文" * 99]
    found = encode_corpus(written(tmp_path / "b.jsonl", mixed), tokenizer, 28, MOST)
    assert found.description.left_out == 4
    for split in SPLITS:
        told, expected = (getattr(c.description, split).documents for c in (found, whole))
        assert told == expected
        if not begins:
            assert np.array_equal(getattr(found, split), getattr(whole, split))
    built = build_corpus(str(tmp_path / "b.jsonl"), "characters", 0, MOST)
    assert built.description.left_out == 4


def test_a_text_that_is_nothing_to_the_tokenizer_is_refused(tmp_path: Path) -> None:
    text = written(tmp_path / "a.jsonl", ["文字", "文", "字" * 99])
    with pytest.raises(HeadwayError, match="is empty to the tokenizer; a source that holds text"):
        encode_corpus(text, letters(), 28, MOST)
