"""A file, compressed or not, as a stream of checked UTF-8 text of bounded memory."""

from __future__ import annotations

import codecs
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import IO

from headway.corpora.optional import optional_package
from headway.corpora.sources import BadFile, RawFile
from headway.errors import HeadwayError

Place = str | RawFile
"""A file: its path on disk, or a member of an archive."""
COMPRESSIONS = (".xz", ".gz", ".zst")

_BLOCK = 1 << 16  # bytes of text taken from a file at a time
_ZST_BLOCK = 1 << 7  # compressed bytes handed to zstd at a time; they can grow 30,000-fold
_ZST_WINDOW = 1 << 31  # what `zstd --long=31` needs


def read_text(place: Place) -> Iterator[str]:
    """Yield the text of the file at `place` piece by piece; .xz, .gz and .zst are decompressed.

    A leading byte order mark is dropped; otherwise the pieces joined are the text.

    Raises HeadwayError when the file is missing, unreadable, damaged or cut short, or when its
    bytes are not plain UTF-8 (a NUL byte, an invalid sequence); the byte offset is named.
    """
    held, offset, path = b"", 0, str(place)
    with told_errors(path):
        for block in chain(_blocks(place), (None,)):
            data = held + (block or b"")
            text, used = _decode(path, data, offset, final=block is None)
            yield text.removeprefix("\ufeff") if offset == 0 else text
            held, offset = data[used:], offset + used


def read_lines(place: Place) -> Iterator[str]:
    r"""Yield the lines of the file at `place`, cut at \n alone and without it.

    Errors as `read_text`.
    """
    held: list[str] = []
    for text in read_text(place):
        first, *others = text.split("\n")
        held.append(first)
        for line in others:
            yield "".join(held)
            held = [line]
    yield "".join(held)


@contextmanager
def told_errors(path: str) -> Iterator[None]:
    """Turn what the operating system and the decompressors raise about `path` into one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise HeadwayError(
            f"text: {path!r} does not exist; name a file, a folder or hf:NAME"
        ) from error
    except PermissionError as error:
        raise HeadwayError(
            f"text: {path!r} may not be read (permission denied); give read permission or name "
            f"another file"
        ) from error
    except (
        EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile,
        NotImplementedError,
    ) as error:  # fmt: skip
        raise _damaged(path, error) from error
    except BadFile as error:
        raise HeadwayError(
            f"text: {path!r} is not read ({error}); a plain file is accepted"
        ) from error
    except OSError as error:
        raise HeadwayError(
            f"text: {path!r} cannot be read ({error.strerror or error}); name a readable file"
        ) from error


def _damaged(path: str, error: Exception) -> HeadwayError:
    return HeadwayError(
        f"text: {path!r} is damaged or cut short ({error}); a complete "
        f".xz, .gz, .zst or .zip file is accepted"
    )


def _blocks(place: Place) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file."""
    path = str(place)
    with open(place, "rb") if isinstance(place, str) else place.opened() as raw:
        if path.lower().endswith(".zst"):
            yield from _zst_blocks(raw, path)
            return
        with _decompressed(raw, path) as file:
            while block := file.read(_BLOCK):
                yield block


def _decompressed(raw: IO[bytes], path: str) -> IO[bytes] | io.BufferedIOBase:
    """The bytes of a file, those of .xz and .gz decompressed."""
    if path.lower().endswith(".xz"):
        return lzma.open(raw, "rb")
    if path.lower().endswith(".gz"):
        return gzip.open(raw, "rb")
    return raw


def _zst_blocks(file: IO[bytes], path: str) -> Iterator[bytes]:
    """Yield the decompressed bytes of a .zst file of one or more frames."""
    zstandard = optional_package("zstandard", f"text: {path!r}")
    context = zstandard.ZstdDecompressor(max_window_size=_ZST_WINDOW)
    frame = None
    while data := file.read(_ZST_BLOCK):
        while data:
            frame = frame or context.decompressobj()
            try:
                yield frame.decompress(data)
            except zstandard.ZstdError as error:
                raise _damaged(path, error) from error
            data = frame.unused_data
            frame = None if frame.eof else frame
    if frame is not None or file.tell() == 0:
        raise EOFError("the last zstd frame has no end")


def _decode(path: str, data: bytes, offset: int, *, final: bool) -> tuple[str, int]:
    """Return the text of `data` and the number of bytes used; `data` starts at byte `offset`."""
    nul = data.find(b"\0")
    if nul >= 0:
        raise HeadwayError(
            f"text: {path!r} is binary (NUL byte at byte offset {offset + nul}); "
            f"plain UTF-8 text is accepted"
        )
    try:
        return codecs.utf_8_decode(data, "strict", final)
    except UnicodeDecodeError as error:
        raise HeadwayError(
            f"text: {path!r} is not UTF-8 ({error.reason} at byte offset "
            f"{offset + error.start}); plain UTF-8 text is accepted"
        ) from error
