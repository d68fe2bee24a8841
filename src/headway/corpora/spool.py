"""Documents that wait on the disk, split, in stretches that can be encoded one by one."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headway.corpora.splits import SPLITS, SplitName, fraction, split_names, split_of
from headway.corpora.storage import read_file, read_json, write_json
from headway.corpora.tokens import Skipped
from headway.errors import HeadwayError

_ENOUGH, _MOST = 1 << 20, 64 << 20  # characters of a stretch, or one document more
_SHARE = 1024  # it grows with what was read before, so that there are thousands, not millions
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Stretch:
    """A file of documents of one split: of each its length in 8 bytes, then it, as UTF-8."""

    split: SplitName
    path: Path
    documents: int
    characters: int
    sha256: str
    """Of the file."""

    @property
    def size(self) -> int:
        """Bytes."""
        return os.path.getsize(self.path)

    def read(self) -> Iterator[str]:
        """Its documents, in the order in which they came."""
        content = memoryview(read_file(self.path))
        place = 0
        while place < len(content):
            (length,) = _LENGTH.unpack_from(content, place)
            place += _LENGTH.size + length
            yield str(content[place - length : place], "utf-8")


@dataclass(frozen=True)
class Spool:
    """All that was read: stretches in the order of the source."""

    stretches: tuple[Stretch, ...]
    files: int
    """That were read, where the source is a folder."""
    skipped: tuple[Skipped, ...]
    left_out: int
    """Documents that hold no text."""

    def documents(self, split: SplitName) -> Iterator[str]:
        """Of one split, from the disk."""
        for stretch in self.stretches:
            if stretch.split == split:
                yield from stretch.read()

    def save(self, folder: Path) -> None:
        """Write what says that reading was finished."""
        rows = [asdict(s) | {"path": s.path.name} for s in self.stretches]
        skipped = [asdict(item) for item in self.skipped]
        told = {"files": self.files, "skipped": skipped, "left_out": self.left_out}
        write_json(_record(folder), {"rows": rows, **told})

    @classmethod
    def load(cls, folder: Path) -> Spool | None:
        """What `save` wrote; None where reading was not finished, a stretch has changed, or an
        earlier version wrote it."""
        try:
            told: dict[str, Any] = read_json(_record(folder))
            found = tuple(Stretch(**row | {"path": folder / row["path"]}) for row in told["rows"])
            if any(_sha256(read_file(stretch.path)) != stretch.sha256 for stretch in found):
                return None
        except HeadwayError:
            return None
        if "left_out" not in told:
            return None
        skipped = tuple(Skipped(**item) for item in told["skipped"])
        return cls(found, told["files"], skipped, told["left_out"])


def write_stretches(documents: Iterable[str], folder: Path) -> Iterator[Stretch]:
    """Split `documents` as `headway.corpora.splits` does and write them; each file when it is full.

    Memory is bounded by three stretches and the longest
    document. Raises HeadwayError when there are fewer than three different documents.
    """
    named = ((split_of(fraction(document)), document) for document in documents)
    yield from _write(named, folder, "")


def none_empty(found: Sequence[Stretch], folder: Path) -> tuple[Stretch, ...]:
    """Those of `write_stretches`, or others where a split was empty: few documents, split anew."""
    if {stretch.split for stretch in found} == set(SPLITS):
        return tuple(found)
    names = split_names(fraction(document) for stretch in found for document in stretch.read())
    anew = ((names[fraction(text)], text) for stretch in found for text in stretch.read())
    written = tuple(_write(anew, folder, "again-"))
    for stretch in found:
        stretch.path.unlink()
    return written


def empty(folder: Path) -> None:
    """Remove what an interrupted or damaged spool left in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _write(
    documents: Iterable[tuple[SplitName, str]], folder: Path, prefix: str
) -> Iterator[Stretch]:
    waiting: dict[SplitName, list[str]] = {split: [] for split in SPLITS}
    sizes, numbers = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)

    def flush(split: SplitName) -> Stretch:
        path = folder / f"{prefix}{split}-{numbers[split]:06d}.text"
        stretch = _write_stretch(path, split, waiting[split])
        waiting[split], sizes[split] = [], 0
        numbers[split] += 1
        return stretch

    read = 0
    for split, document in documents:
        waiting[split].append(document)
        sizes[split] += len(document)
        read += len(document)
        if sizes[split] >= min(_MOST, max(_ENOUGH, read // _SHARE)):
            yield flush(split)
    for split in SPLITS:
        if waiting[split]:
            yield flush(split)


def _write_stretch(path: Path, split: SplitName, documents: Sequence[str]) -> Stretch:
    """Not waited for until it is on the disk: `Spool.load` reads it again before it is trusted."""
    content = bytearray()
    for document in documents:
        text = document.encode()
        content += _LENGTH.pack(len(text)) + text
    path.write_bytes(content)
    characters = sum(map(len, documents))
    return Stretch(split, path, len(documents), characters, _sha256(content))


def _sha256(content: bytes | bytearray) -> str:
    return hashlib.sha256(content).hexdigest()


def _record(folder: Path) -> Path:
    return folder / "read.json"
