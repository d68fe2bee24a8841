"""A corpus as arrays of tokens, one a split, with what is needed to know and to decode it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from platform import python_version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.corpora.sources import shown
from headway.corpora.splits import SPLITS, SplitName, split_documents
from headway.corpora.storage import (
    damaged,
    new_folder,
    read_array,
    read_file,
    read_json,
    write_array,
    write_file,
    write_json,
)
from headway.corpora.text import FileRead, holds_text, read_documents
from headway.corpora.tokenizer import end_of_text, holder, load_tokenizer
from headway.errors import HeadwayError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Integers = np.ndarray[Any, np.dtype[np.integer[Any]]]
Tokens = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]

_MANIFEST, _TOKENIZER = "corpus.json", "tokenizer.json"
_BATCH = 1_000_000  # characters encoded at a time


@dataclass(frozen=True)
class SplitDescription:
    """What one split holds."""

    documents: int
    characters: int
    """Of text; 0 where the documents are none."""
    sha256: str
    """Of the tokens, as little-endian integers of the array's type."""
    seconds: float = 0.0
    """Of music or speech; 0 for text."""


@dataclass(frozen=True)
class Skipped:
    """A file that is not in the corpus, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class CorpusDescription:
    """Where a corpus comes from and what each of its splits holds."""

    source: str
    train: SplitDescription
    validation: SplitDescription
    test: SplitDescription
    kind: str = "text"
    """'text', 'music' or 'speech'."""
    code: Mapping[str, Any] = field(default_factory=dict)
    """What turns tokens back into music or sound, beside the tokenizer."""
    skipped: tuple[Skipped, ...] = ()
    left_out: int = 0
    """Documents of text that are empty, at least to the tokenizer, those of skipped files too."""


@dataclass(frozen=True, eq=False)
class TokenCorpus:
    """Three arrays of tokens, each (number of tokens,), every document followed by `eot`.

    The type is uint16 where the vocabulary fits it, else uint32. `vocab_size` is one more than the
    largest id of the tokenizer; `tokenizer_json` is the content of its file.
    """

    train: Tokens
    validation: Tokens
    test: Tokens
    vocab_size: int
    eot: int
    tokenizer_json: str
    description: CorpusDescription
    files: Mapping[str, bytes] = field(default_factory=dict)
    """By name, what turns tokens back into sound and stands beside them."""

    def save(self, folder: str | Path) -> None:
        """Write the corpus as a new `folder`: all of it appears at once, or nothing.

        Raises HeadwayError when `folder` exists and is not empty, or cannot be written (no space,
        no permission).
        """
        write_corpus(
            Path(folder),
            {split: [getattr(self, split)] for split in SPLITS},
            self.vocab_size,
            self.eot,
            self.tokenizer_json,
            self.description,
            self.files,
        )

    @classmethod
    def load(cls, folder: str | Path) -> TokenCorpus:
        """Open a saved corpus; the arrays stay on disk and are mapped into memory, read-only.

        Raises HeadwayError when there is no such folder, when it is no corpus, and when a file is
        missing or differs from what was saved.
        """
        folder = Path(folder)
        _require_corpus(folder)
        manifest = read_json(folder / _MANIFEST)
        description = manifest["description"]
        splits = {split: SplitDescription(**description[split]) for split in SPLITS}
        tokenizer = read_file(folder / _TOKENIZER)
        if hashlib.sha256(tokenizer).hexdigest() != manifest["tokenizer_sha256"]:
            raise damaged(folder / _TOKENIZER)
        arrays = {split: _load_split(folder, split, splits[split].sha256) for split in SPLITS}
        return cls(
            train=arrays["train"],
            validation=arrays["validation"],
            test=arrays["test"],
            vocab_size=manifest["vocab_size"],
            eot=manifest["eot"],
            tokenizer_json=tokenizer.decode(),
            description=CorpusDescription(
                source=description["source"],
                train=splits["train"],
                validation=splits["validation"],
                test=splits["test"],
                kind=description.get("kind", "text"),
                code=description.get("code", {}),
                skipped=tuple(Skipped(**skipped) for skipped in description.get("skipped", ())),
                left_out=description.get("left_out", 0),
            ),
            files={path.name: read_file(path) for path in sorted(folder.glob("*.safetensors"))},
        )


def _require_corpus(folder: Path) -> None:
    """HeadwayError where no corpus was saved as `folder`; what was saved may still be damaged."""
    if is_corpus(folder):
        return
    wrong = "is no built corpus (it holds no corpus.json)" if folder.exists() else "does not exist"
    raise HeadwayError(
        f"corpus: {str(folder)!r} {wrong}; accepted is a folder that `headway corpus build` wrote, "
        f"or give raw files as --text"
    )


def is_corpus(folder: Path) -> bool:
    """Whether a corpus was saved as this folder."""
    return (folder / _MANIFEST).exists()


def write_corpus(
    folder: Path,
    splits: Mapping[SplitName, Sequence[Tokens]],
    vocab_size: int,
    eot: int,
    tokenizer_json: str,
    description: CorpusDescription,
    files: Mapping[str, bytes] = MappingProxyType({}),
    within: Path | None = None,
) -> None:
    """Write a corpus as `TokenCorpus.load` reads it, each split joined from arrays as they come.

    `files` are written beside, under their names. It is made in `within` (see `new_folder`). Errors
    as `TokenCorpus.save`.
    """
    tokenizer = tokenizer_json.encode()
    manifest = {
        "vocab_size": vocab_size,
        "eot": eot,
        "tokenizer_sha256": hashlib.sha256(tokenizer).hexdigest(),
        "description": asdict(description),
    }
    with new_folder(folder, within) as unfinished:
        for split, pieces in splits.items():
            write_array(unfinished / f"{split}.npy", *pieces)
        write_file(unfinished / _TOKENIZER, tokenizer)
        for name, content in files.items():
            write_file(unfinished / name, content)
        write_json(unfinished / _MANIFEST, manifest)


def build_corpus(
    source: str | None,
    tokenizer: str,
    vocab_size: int,
    max_characters: int,
    told: FileRead | None = None,
) -> TokenCorpus:
    """Read `source`, split it by document, tokenise it; a tokenizer is trained on `train` alone.

    The arguments are those of `read_documents` and `load_tokenizer`, and so are the errors;
    fewer than three different documents raise HeadwayError too. Same arguments, same corpus.
    """
    encoder = None if tokenizer == "bpe" else load_tokenizer(tokenizer, (), vocab_size)
    holds = holder(encoder) if encoder else holds_text
    left_out = count()
    documents = read_documents(source, max_characters, told, holds, lambda _: next(left_out))
    splits = split_documents(documents)
    encoder = encoder or load_tokenizer(tokenizer, splits["train"], vocab_size)
    eot = end_of_text(encoder)
    size = vocabulary_size(encoder)
    tokens = {
        split: np.concatenate(list(encode_documents(encoder, splits[split], eot, size)))
        for split in SPLITS
    }
    descriptions: dict[str, Any] = {
        split: _describe(splits[split], tokens[split]) for split in SPLITS
    }
    return TokenCorpus(
        train=tokens["train"],
        validation=tokens["validation"],
        test=tokens["test"],
        vocab_size=size,
        eot=eot,
        tokenizer_json=encoder.to_str(),
        description=CorpusDescription(
            source=source_name(source), **descriptions, left_out=next(left_out)
        ),
    )


def encode_documents(
    tokenizer: Tokenizer, documents: Iterable[str], eot: int, vocab_size: int
) -> Iterator[Tokens]:
    """The tokens of each document, followed by `eot`: (number of its tokens,)."""
    kind = token_type(vocab_size)
    for batch in _batches(documents):
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            yield np.array([*encoding.ids, eot], kind)


def token_type(vocab_size: int) -> np.dtype[Any]:
    """Of arrays of tokens: uint16 where they fit it, else uint32."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """One more than the largest id."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Cut `documents` into runs of about a million characters, to bound the encoder's memory."""
    batch: list[str] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if characters >= _BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def source_name(source: str | None) -> str:
    """As it is told in a corpus."""
    return shown(source or f"documentation and standard library of Python {python_version()}")


def _describe(documents: Sequence[str], tokens: Tokens) -> SplitDescription:
    return SplitDescription(len(documents), sum(map(len, documents)), hash_tokens(tokens))


def hash_tokens(*pieces: Tokens) -> str:
    """The sha256 of arrays of tokens as if they were joined."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece.data)
    return digest.hexdigest()


def _load_split(folder: Path, split: SplitName, sha256: str) -> Tokens:
    path = folder / f"{split}.npy"
    tokens = read_array(path)
    if tokens.dtype.str not in ("<u2", "<u4") or tokens.ndim != 1 or hash_tokens(tokens) != sha256:
        raise damaged(path)
    return tokens
