"""Files of music or speech to a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from headway.corpora.parts import (
    Encoded,
    Report,
    encode_parts,
    require_few,
    waiting_folder,
    write_parts,
)
from headway.corpora.sources import BadFile, RawFile, shown
from headway.corpora.splits import SPLITS, SplitName
from headway.corpora.tokens import Integers, Skipped
from headway.corpora.vocabulary import symbol_tokenizer
from headway.files import writing_to

_PART_BYTES, _PART_FILES = 1 << 20, 256
_PARTS = 4096  # about as many at most, however much there is


class Encoder(Protocol):
    """What turns one file into documents of tokens; it travels to other processes."""

    @property
    def symbols(self) -> Sequence[str]:
        """The name of each token; the end of a document comes after them."""

    @property
    def code(self) -> Mapping[str, Any]:
        """All that the tokens depend on beside the files, as JSON holds it."""

    @property
    def in_threads(self) -> bool:
        """Whether its work is done in libraries that leave other threads free."""

    def documents(self, file: RawFile, training: bool) -> Iterable[tuple[Integers, float]]:
        """The tokens of each document in `file` and how many seconds it lasts.

        Raises BadFile for a file to skip, before the first document or after.
        """


@dataclass(frozen=True)
class FilesPart:
    """Files that are encoded together, all of one split."""

    split: SplitName
    files: tuple[RawFile, ...]
    encoder: Encoder

    @property
    def count(self) -> int:
        """Files."""
        return len(self.files)

    @property
    def size(self) -> int:
        """Bytes, decompressed."""
        return sum(file.size for file in self.files)

    def encode(self) -> Encoded:
        """Every document of every file, in their order; a bad file is skipped whole."""
        end = np.array([len(self.encoder.symbols)])
        pieces: list[Integers] = []
        skipped: list[Skipped] = []
        seconds, documents = 0.0, 0
        for file in self.files:
            try:
                found = list(self.encoder.documents(file, self.split == "train"))
            except BadFile as reason:
                skipped.append(Skipped(shown(file.name), str(reason)))
                continue
            for tokens, duration in found:
                pieces += [tokens, end]
                seconds += duration
                documents += 1
        return Encoded(pieces, documents, seconds=seconds, skipped=tuple(skipped))


def encode_recordings(
    source: str,
    kind: str,
    encoder: Encoder,
    splits: Mapping[SplitName, Sequence[RawFile]],
    out: Path,
    workers: int | None,
    max_skipped: float,
    report: Report,
    files: Mapping[str, bytes],
) -> None:
    """Encode the files of each split and write the corpus as the new folder `out`.

    Finished parts wait in a hidden folder beside `out`; the same call continues from them. `out`
    appears whole, at the end. `files` are written into it beside the tokens.

    Raises HeadwayError when more than the share `max_skipped` of the files had to be skipped, when
    a split is left without tokens, or when `out` cannot be written.
    """
    parts = list(_parts(splits, encoder))
    eot = len(encoder.symbols)
    plan = [[part.split, *map(_identity, part.files)] for part in parts]
    waiting = waiting_folder(out, [dict(encoder.code), plan])
    with writing_to(waiting):
        records = encode_parts(parts, eot + 1, waiting, workers, encoder.in_threads, report)
        skipped = tuple(Skipped(**item) for record in records for item in record["skipped"])
        require_few(skipped, sum(part.count for part in parts), max_skipped)
        told = {
            "source": shown(source),
            "kind": kind,
            "code": dict(encoder.code),
            "skipped": skipped,
        }
        tokenizer = symbol_tokenizer(encoder.symbols)
        write_parts(parts, records, waiting, out, tokenizer, eot + 1, eot, told, files)


def _parts(splits: Mapping[SplitName, Sequence[RawFile]], encoder: Encoder) -> Iterator[FilesPart]:
    total = sum(file.size for split in SPLITS for file in splits[split])
    enough = max(_PART_BYTES, total // _PARTS)
    for split in SPLITS:
        held: list[RawFile] = []
        size = 0
        for file in splits[split]:
            held.append(file)
            size += file.size
            if size >= enough or len(held) >= _PART_FILES:
                yield FilesPart(split, tuple(held), encoder)
                held, size = [], 0
        if held:
            yield FilesPart(split, tuple(held), encoder)


def _identity(file: RawFile) -> list[Any]:
    return [file.name, file.size, file.stamp]
