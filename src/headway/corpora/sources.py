"""The files of a corpus, in a folder, in a zip archive or alone; nothing is unpacked to disk."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from headway.errors import HeadwayError

_RATIO = 200  # decompressed over compressed bytes; sound and notes do not reach it, bombs pass it
_MEMBERS = 2_000_000
_ENCRYPTED = 1
LINKED = "a link to a folder"
"""Why a link is refused that may stand for files of any kind, whatever its own name."""


def shown(name: str) -> str:
    """A name as it can be written; what is not UTF-8 in that of a file is escaped."""
    return name.encode(errors="backslashreplace").decode()


class BadFile(Exception):
    """A file that cannot be part of a corpus; the text is the reason, told in corpus.json."""


@dataclass(frozen=True)
class RawFile:
    """One file of a source: `name` is its path inside the source, with '/' between folders."""

    name: str
    size: int
    """Bytes, decompressed."""
    path: Path
    """The file itself, or the archive that holds it as `name`."""
    archived: bool = False
    stamp: int = 0
    """Changes when the content does: time of modification, or checksum in the archive."""
    refused: str = ""
    """Why it must not be read, where a look at the folder or the archive's table told."""

    def __str__(self) -> str:
        """Where it is; a member of an archive as if that were a folder."""
        return f"{self.path}/{self.name}" if self.archived else str(self.path)

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """Its bytes as a stream, of a member as many as the archive's table says.

        BadFile when it must not be read; what goes wrong while it is read is the library's own.
        """
        if self.refused:
            raise BadFile(self.refused)
        if not self.archived:
            with open(self.path, "rb") as file:
                yield file
            return
        archive = _opened(self.path, self.path.stat().st_mtime_ns)
        with archive.open(self.name) as member:
            yield member

    def read(self, most: int) -> bytes:
        """The content; BadFile when it is empty, larger than `most` bytes, or unreadable.

        What is counted is what is read, whatever size the table of an archive claims.
        """
        if not self.refused and self.size > most:
            raise BadFile(f"{self.size:,} bytes, more than the {most:,} that are accepted")
        try:
            with self.opened() as file:
                content = file.read(most + 1)
        except OSError as error:
            raise BadFile(f"cannot be read ({error.strerror or error})") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise BadFile(f"damaged in the archive ({error})") from error
        if len(content) > most:
            raise BadFile(f"more than the {most:,} bytes that are accepted")
        if not content:
            raise BadFile("empty")
        return content


@lru_cache(maxsize=1)
def _opened(path: Path, _changed: int) -> zipfile.ZipFile:
    """The archive; its table, which can be long, is read once."""
    return zipfile.ZipFile(path)


def raw_files(source: Path, suffixes: Sequence[str]) -> list[RawFile]:
    """The files of `source` that end in one of `suffixes` (lower case), sorted by name.

    `source` is a folder (hidden files are left out), a .zip archive, or one file. Members of an
    archive with a name that leads out of it, encrypted ones, links, and those that grow more than
    200-fold are in the list with the reason why they are refused; so are files of `folder_files`.

    Raises HeadwayError when there is no such file, or the folder or the archive cannot be read.
    """
    if source.is_dir():
        found = folder_files(source)
    elif source.suffix.lower() == ".zip":
        found = _of_archive(source)
    elif source.is_file():
        found = iter((_plain(source.name, source),))
    else:
        raise HeadwayError(
            f"path: {str(source)!r} does not exist; a folder, a .zip archive or a file is accepted"
        )
    files = sorted(
        (
            file
            for file in found
            if file.refused == LINKED or file.name.lower().endswith(tuple(suffixes))
        ),
        key=lambda file: file.name,
    )
    if not files:
        raise HeadwayError(
            f"path: {str(source)!r} holds no file to read; files ending in "
            f"{', '.join(suffixes)} are accepted"
        )
    return files


def folder_files(folder: Path) -> Iterator[RawFile]:
    """All files of a folder but hidden ones; those that must not be read with the reason.

    These are links to folders (`LINKED`), links that lead out or to nothing, and what is no plain
    file, such as a pipe. Raises HeadwayError for a folder that cannot be read.
    """
    inside = os.path.realpath(folder) + os.sep
    for root, folders, names in os.walk(folder, onerror=refuse_folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in (*names, *links):
            if name.startswith("."):
                continue
            path = Path(root, name)
            told = path.relative_to(folder).as_posix()
            if refused := _refusal_in_folder(path, inside):
                yield RawFile(told, 0, path, refused=refused)
            else:
                yield _plain(told, path)


def refuse_folder(error: OSError) -> None:
    """The error of a folder that cannot be listed, as one sentence."""
    raise HeadwayError(
        f"path: the folder {error.filename!r} cannot be read ({error.strerror}); "
        f"a readable folder is accepted"
    ) from error


def _refusal_in_folder(path: Path, inside: str) -> str:
    """Why a file of a folder must not be read; empty when it may."""
    if not path.exists():
        return "a link to nothing"
    if path.is_dir():
        return LINKED
    if not os.path.realpath(path).startswith(inside):
        return "a link that leads out of the folder"
    return "" if path.is_file() else "no plain file"


def _plain(name: str, path: Path) -> RawFile:
    status = path.stat()
    return RawFile(name, status.st_size, path, stamp=status.st_mtime_ns)


def _of_archive(source: Path) -> Iterator[RawFile]:
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise HeadwayError(
            f"path: {str(source)!r} cannot be read as an archive ({error}); "
            f"a whole .zip file is accepted"
        ) from error
    if len(members) > _MEMBERS:
        raise HeadwayError(
            f"path: {str(source)!r} lists {len(members):,} members; at most {_MEMBERS:,} "
            f"are accepted"
        )
    for member in members:
        if not member.is_dir():
            refused = _refusal(member)
            yield RawFile(member.filename, member.file_size, source, True, member.CRC, refused)


def _refusal(member: zipfile.ZipInfo) -> str:
    """Why a member of an archive must not be read; empty when it may."""
    parts = PurePosixPath(member.filename.replace("\\", "/")).parts
    if ".." in parts or member.filename.startswith(("/", "\\")) or ":" in parts[0]:
        return "its name leads out of the archive"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link"
    if member.flag_bits & _ENCRYPTED:
        return "encrypted"
    if member.file_size > _RATIO * max(1, member.compress_size) and member.file_size > 1 << 20:
        return f"grows more than {_RATIO}-fold when decompressed"
    return ""
