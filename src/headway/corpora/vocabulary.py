"""Symbols that are no text (notes, sounds) as a tokenizer.json, which any reader of one takes."""

from __future__ import annotations

from collections.abc import Sequence

from headway.corpora.optional import optional_package
from headway.corpora.tokenizer import END_OF_TEXT


def symbol_tokenizer(symbols: Sequence[str]) -> str:
    """The content of a tokenizer.json in which `symbols[i]` is token i and END_OF_TEXT the last.

    Its text is the names of the symbols with spaces between them, so no name may hold one.
    """
    library = optional_package("tokenizers", "tokenizer")
    vocabulary = {name: number for number, name in enumerate((*symbols, END_OF_TEXT))}
    model = library.models.WordLevel(vocab=vocabulary, unk_token=END_OF_TEXT)
    tokenizer = library.Tokenizer(model)
    tokenizer.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([END_OF_TEXT])
    content: str = tokenizer.to_str()
    return content
