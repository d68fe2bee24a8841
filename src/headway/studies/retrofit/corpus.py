"""Text in the tokens of a trained model, split by document."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from headway.corpora.cache import built_once, same_tokens
from headway.corpora.splits import SPLITS, split_documents
from headway.corpora.text import read_documents
from headway.corpora.tokenizer import holder_of
from headway.corpora.tokens import CorpusDescription, SplitDescription, TokenCorpus, Tokens
from headway.errors import HeadwayError

_BATCH = 256  # documents encoded at a time


def encode_corpus(
    source: str | None, tokenizer: Any, vocab_size: int, max_characters: int
) -> TokenCorpus:
    """Read `source`, split it by document, encode it as the model was trained to read it.

    A document keeps the tokens that the tokenizer itself puts around a text (such as a beginning
    of text) and ends with the tokenizer's end of text; what looks like a special token is encoded
    as text. Documents that the tokenizer has nothing of are left out.

    Args:
        source: as in `headway.corpora.read_documents`.
        tokenizer: of transformers.
        vocab_size: of the model; the ids of all tokens lie below it.
        max_characters: read at most this much.

    Raises:
        HeadwayError: text that cannot be read, is empty to the tokenizer or has fewer than three
            documents, a tokenizer without an end of text, or one whose ids the model does not know.
    """
    eot, left_out = end_of_text(tokenizer), count()
    documents = read_documents(
        source, max_characters, None, _holder(tokenizer), lambda _: next(left_out)
    )
    splits = split_documents(documents)
    kind = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    tokens = {s: _encode(tokenizer, splits[s], eot, vocab_size).astype(kind) for s in SPLITS}
    described = {
        s: SplitDescription(
            len(splits[s]), sum(map(len, splits[s])), hashlib.sha256(tokens[s].data).hexdigest()
        )
        for s in SPLITS
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return TokenCorpus(
        train=tokens["train"],
        validation=tokens["validation"],
        test=tokens["test"],
        vocab_size=vocab_size,
        eot=eot,
        tokenizer_json="" if backend is None else backend.to_str(),
        description=CorpusDescription(
            source or "the sources of Python",
            described["train"],
            described["validation"],
            described["test"],
            left_out=next(left_out),
        ),
    )


def cached_corpus(
    source: str | None, tokenizer: Any, vocab_size: int, max_characters: int
) -> TokenCorpus:
    """As `encode_corpus`, found in the cache where it was made before."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    made = None
    if backend is not None:
        around = [end_of_text(tokenizer), tokenizer("")["input_ids"]]
        identity = ["retrofit 2", backend.to_str(), around, vocab_size, max_characters]
        made = built_once(
            source,
            identity,
            lambda out: encode_corpus(source, tokenizer, vocab_size, max_characters).save(out),
        )
    if made is None:
        return encode_corpus(source, tokenizer, vocab_size, max_characters)
    return replace(
        made, description=replace(made.description, source=source or "the sources of Python")
    )


def built_corpus(folder: str, tokenizer: Any, vocab_size: int) -> TokenCorpus:
    """A corpus of `headway corpus build`, where it is in the tokens of a model.

    Raises:
        HeadwayError: it was built with another tokenizer, or the model's puts tokens around a text
            that a built corpus has not.
    """
    corpus = TokenCorpus.load(folder)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    eot = end_of_text(tokenizer)
    own = Tokenizer.from_str(corpus.tokenizer_json)
    if backend is None or not same_tokens(own, backend) or corpus.vocab_size > vocab_size:
        raise HeadwayError(
            f"text: the corpus {folder!r} was built with another tokenizer than the model's; "
            f"accepted is one of `headway corpus build text PATH --tokenizer MODEL/tokenizer.json`"
        )
    around = [token for token in tokenizer("")["input_ids"] if token != eot]
    if around or corpus.eot != eot:
        raise HeadwayError(
            f"text: the documents of the corpus {folder!r} end with the token {corpus.eot} alone, "
            f"and the model reads {[*around, '...', eot]}; accepted is raw text"
        )
    return corpus


def end_of_text(tokenizer: Any) -> int:
    """The id that ends a document.

    Raises:
        HeadwayError: the tokenizer names none.
    """
    if tokenizer.eos_token_id is None:
        raise HeadwayError(
            "model: its tokenizer names no end of text; accepted are tokenizers with an eos_token"
        )
    return int(tokenizer.eos_token_id)


def _holder(tokenizer: Any) -> Callable[[str], bool]:
    """As `headway.corpora.tokenizer.holder`."""
    return holder_of(
        lambda text: tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        )["input_ids"],
        lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False)),
    )


def _encode(tokenizer: Any, documents: Sequence[str], eot: int, vocab_size: int) -> Tokens:
    pieces: list[Any] = []
    for start in range(0, len(documents), _BATCH):
        batch = list(documents[start : start + _BATCH])
        # verbose: a document may be longer than the model's context, as it is cut into windows.
        for ids in tokenizer(batch, split_special_tokens=True, verbose=False)["input_ids"]:
            pieces.append(np.array(ids if ids and ids[-1] == eot else [*ids, eot], "<u4"))
    tokens = np.concatenate(pieces)
    if tokens.max() >= vocab_size:
        raise HeadwayError(
            f"model: its tokenizer gives the token {tokens.max()}, and its vocabulary has "
            f"{vocab_size}; accepted is a tokenizer that belongs to the model"
        )
    return tokens
