"""Files that are whole or absent: a folder that appears at once, checked arrays and JSON."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from headway.errors import HeadwayError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def new_folder(folder: Path, within: Path | None = None) -> Iterator[Path]:
    """Give an unfinished sibling of `folder` to write into; rename it to `folder` at the end.

    It is made in `within`, of the same file system, where that is given: whoever cleans that up
    finds what a killed process left. When anything is raised, the sibling is removed and `folder`
    does not appear. Raises
    HeadwayError when `folder` is there already with something in it, or cannot be written.
    """
    with _told(folder, within):
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = within or folder.parent
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=place))
        try:
            yield unfinished
            unfinished.chmod(0o777 & ~_umask())
            _sync_folder(unfinished)
            os.rename(unfinished, folder)
            _sync_folder(folder.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def write_file(path: Path, *parts: bytes | memoryview) -> None:
    """Write `parts` one after another and wait until they are on the disk."""
    with open(path, "wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


_ONE_PARSES = threading.Lock()
"""A header is parsed as Python, where threads of Python 3.11 now and then trip each other up."""


def write_array(path: Path, *pieces: np.ndarray[Any, Any]) -> None:
    """Write `pieces`, of one type and each of one dimension, joined as one .npy.

    The numbers go through the file object, because ndarray.tofile loses the reason of a failure.
    """
    pieces = tuple(map(np.ascontiguousarray, pieces))
    fields = np.lib.format.header_data_from_array_1_0(pieces[0])
    fields["shape"] = (sum(map(len, pieces)),)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, fields)
    write_file(path, header.getvalue(), *(piece.data for piece in pieces))


def read_array(path: Path) -> np.ndarray[Any, Any]:
    """Map a .npy file into memory, read-only; HeadwayError when it is missing or no .npy file."""
    try:
        with _ONE_PARSES:
            return np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise damaged(path) from error


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write `fields` with a checksum of them."""
    content = json.dumps({**fields, "sha256": _checksum(fields)}, indent=2, sort_keys=True)
    write_file(path, content.encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote; HeadwayError when it is missing or was changed."""
    try:
        fields = json.loads(read_file(path))
    except ValueError as error:
        raise damaged(path) from error
    if not isinstance(fields, dict) or fields.pop("sha256", None) != _checksum(fields):
        raise damaged(path)
    return fields


def read_file(path: Path) -> bytes:
    """Read a file; HeadwayError when it is missing or unreadable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def damaged(path: Path) -> HeadwayError:
    """The error for a file of a saved corpus that is not as it was saved."""
    return HeadwayError(
        f"corpus: {str(path)!r} is damaged or was changed; a folder as TokenCorpus.save wrote it "
        f"is accepted (delete the folder to build it anew)"
    )


def _unreadable(path: Path, error: OSError) -> HeadwayError:
    return HeadwayError(
        f"corpus: {str(path)!r} cannot be read ({error.strerror or error}); "
        f"a folder as TokenCorpus.save wrote it is accepted"
    )


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


@contextmanager
def _told(folder: Path, within: Path | None) -> Iterator[None]:
    """Turn what the operating system raises about writing `folder` into one sentence."""
    try:
        yield
    except OSError as error:
        name = repr(str(folder))
        if error.errno in _FULL:
            kept = (
                f"finished parts are kept in {str(within)!r}; free some and run the same command"
                if within
                else "nothing was written"
            )
            reason = f"out: no space left on the device for {name}; {kept}"
        elif error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            reason = f"out: {name} exists already; a new or empty folder is accepted"
        else:
            reason = (
                f"out: {name} cannot be written ({error.strerror or error}); "
                f"a folder with write permission is accepted"
            )
        raise HeadwayError(reason) from error


def _umask() -> int:
    """The process's mask of permissions, which mkdtemp leaves aside."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
