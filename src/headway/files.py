"""Whole files or none: a reader never sees half a report."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headway.errors import HeadwayError

_DENIED = (PermissionError, NotADirectoryError, FileExistsError)


@contextmanager
def writing_to(folder: Path) -> Iterator[Path]:
    """The folder that a command writes its results to, made if it is missing.

    Raises:
        HeadwayError: it, or what is written into it inside, is not permitted.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (*_DENIED, FileNotFoundError) as error:  # the last below /proc, say
        raise _unwritable(folder, error) from error
    try:
        yield folder
    except _DENIED as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> HeadwayError:
    return HeadwayError(
        f"out: {str(folder)!r} cannot be written ({error.strerror}); accepted is a folder "
        "with write permission"
    )


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write bytes, or text as UTF-8, beside the path, then move it there in one step.

    Nothing is left behind when writing fails, and the old file stays as it was.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    written = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        written.chmod(0o644)
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)
    return path
