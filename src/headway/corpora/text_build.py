"""Text of any size to a corpus: read once, split, waiting on the disk, encoded in parallel."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from headway.corpora import spool
from headway.corpora.optional import optional_package
from headway.corpora.parts import (
    Encoded,
    Report,
    encode_parts,
    encoding_ahead,
    forget_parts,
    require_few,
    waiting_folder,
    write_parts,
)
from headway.corpora.sources import shown
from headway.corpora.splits import SplitName
from headway.corpora.spool import Spool, Stretch
from headway.corpora.storage import read_file, write_file
from headway.corpora.text import (
    BLANK,
    UNKNOWN,
    Holds,
    holds_text,
    source_digest,
    stream_documents,
)
from headway.corpora.tokenizer import end_of_text, holder, load_tokenizer, require_size
from headway.corpora.tokens import Skipped, encode_documents, source_name, vocabulary_size
from headway.errors import HeadwayError
from headway.files import writing_to

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PARALLELISM = "TOKENIZERS_PARALLELISM"  # read by the library at every call


@dataclass(frozen=True)
class TextPart:
    """Documents that are encoded together; threads do, as the library leaves others free."""

    stretch: Stretch
    tokenizer: Tokenizer
    eot: int
    vocab_size: int

    @property
    def split(self) -> SplitName:
        """Of the documents."""
        return self.stretch.split

    @property
    def count(self) -> int:
        """Documents."""
        return self.stretch.documents

    @property
    def size(self) -> int:
        """Bytes of text."""
        return self.stretch.size

    def encode(self) -> Encoded:
        """The tokens of each document and the end of text."""
        documents = self.stretch.read()
        pieces = list(encode_documents(self.tokenizer, documents, self.eot, self.vocab_size))
        return Encoded(pieces, self.stretch.documents, self.stretch.characters)


def build_text(
    source: str | None,
    tokenizer: str,
    vocab_size: int,
    max_characters: int,
    out: Path,
    workers: int | None,
    max_skipped: float,
    report: Report,
) -> None:
    """Read `source`, split it by document, tokenise it into the new folder `out`.

    The corpus is that of `headway.corpora.build_corpus`, however many `workers` there are. What is
    read waits on the disk, as large as the text, beside finished parts of tokens, and the same call
    continues from both; memory is bounded by parts of at most 64 million characters and the longest
    document (and, for 'bpe', the different words).

    Arguments are those of `read_documents`, `load_tokenizer` and `encode_parts`, and so are the
    errors; a folder may have up to the share `max_skipped` of broken files. Files without text
    are listed with them and do not count: nothing is lost with them.
    """
    encoder = None
    if tokenizer == "bpe":
        require_size(vocab_size)
        identity = f"bpe {vocab_size}"
    else:
        encoder = load_tokenizer(tokenizer, (), vocab_size)
        identity = encoder.to_str()
    waiting = waiting_folder(out, ["text", source_digest(source), identity, max_characters])
    with writing_to(waiting):
        held = Spool.load(waiting)
        earlier = held is not None
        holds = holder(encoder) if encoder else holds_text
        if held is None:
            skips = max_skipped > 0  # else the first broken file is the error
            with _new(waiting):
                with _begun(encoder, waiting, workers) as begin:
                    read = _read(source, max_characters, skips, holds, waiting, begin, report)
                held = _whole(read, waiting)
        broken = [item for item in held.skipped if item.reason not in (BLANK, UNKNOWN)]
        require_few(broken, held.files, max_skipped)
        encoder = encoder or _trained(held, vocab_size, waiting, report)
        eot, size = end_of_text(encoder), vocabulary_size(encoder)
        parts = [TextPart(stretch, encoder, eot, size) for stretch in held.stretches]
        with _one_core_a_call():
            records = encode_parts(parts, size, waiting, workers, True, report, earlier)
        told = {
            "source": source_name(source),
            "kind": "text",
            "skipped": held.skipped,
            "left_out": held.left_out,
        }
        write_parts(parts, records, waiting, out, encoder.to_str(), size, eot, told, {})


@contextmanager
def _new(waiting: Path) -> Iterator[None]:
    """An empty folder, of which nothing is left where the text cannot be taken."""
    spool.empty(waiting)
    try:
        yield
    except HeadwayError:
        shutil.rmtree(waiting)
        raise


@contextmanager
def _begun(
    encoder: Tokenizer | None, waiting: Path, workers: int | None
) -> Iterator[Callable[[int, Stretch], object]]:
    """Give what is called with each stretch as it is read: encoding begins where it can."""
    if encoder is None:
        yield lambda number, stretch: None
        return
    eot, size = end_of_text(encoder), vocabulary_size(encoder)
    with _one_core_a_call(), encoding_ahead(size, waiting, workers) as begin:
        yield lambda number, stretch: begin(number, TextPart(stretch, encoder, eot, size))


def _read(
    source: str | None,
    max_characters: int,
    skips: bool,
    holds: Holds,
    waiting: Path,
    begin: Callable[[int, Stretch], object],
    report: Report,
) -> Spool:
    """Read the source once; a split may be empty."""
    files: list[str] = []
    skipped: list[Skipped] = []

    def told(path: str, reason: str | None) -> None:
        files.append(path)
        if reason is not None:
            skipped.append(Skipped(shown(os.path.relpath(path, str(source))), reason))

    found: list[Stretch] = []
    read = 0
    left_out = count()
    documents = stream_documents(
        source, max_characters, told if skips else None, holds, lambda _: next(left_out)
    )
    for number, stretch in enumerate(spool.write_stretches(documents, waiting)):
        found.append(stretch)
        begin(number, stretch)
        read += stretch.characters
        report(0, 1, f"{read:,} characters read")
    return Spool(tuple(found), len(files), tuple(skipped), next(left_out))


def _whole(read: Spool, waiting: Path) -> Spool:
    """What was read, no split empty, and on the record."""
    stretches = spool.none_empty(read.stretches, waiting)
    if stretches != read.stretches:
        forget_parts(waiting)
    held = replace(read, stretches=stretches)
    held.save(waiting)
    return held


def _trained(held: Spool, vocab_size: int, waiting: Path, report: Report) -> Tokenizer:
    """A byte-level BPE of the training split, kept for a build that continues."""
    kept = waiting / "tokenizer.json"
    if not kept.exists():
        report(0, 1, f"a tokenizer of {vocab_size:,} tokens is trained")
        trained = load_tokenizer("bpe", held.documents("train"), vocab_size)
        write_file(kept.with_suffix(".new"), trained.to_str().encode())
        kept.with_suffix(".new").rename(kept)
    library = optional_package("tokenizers", "tokenizer")
    tokenizer: Tokenizer = library.Tokenizer.from_str(read_file(kept).decode())
    tokenizer.encode_special_tokens = True
    return tokenizer


@contextmanager
def _one_core_a_call() -> Iterator[None]:
    """Parts are encoded side by side, so a call into the library takes one core."""
    before = os.environ.get(_PARALLELISM)
    os.environ[_PARALLELISM] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PARALLELISM]
        else:
            os.environ[_PARALLELISM] = before
