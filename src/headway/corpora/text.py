"""Where text comes from: Python's own sources, a file, a folder, the Hugging Face hub."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from headway.corpora.formats import TEXT_SUFFIXES, bare_suffix, file_documents, text_of
from headway.corpora.kinds import SUFFIXES, Kind
from headway.corpora.optional import optional_package
from headway.corpora.sources import LINKED, RawFile, folder_files, raw_files, refuse_folder
from headway.corpora.streams import Place, read_text, told_errors
from headway.errors import HeadwayError

FileRead = Callable[[str, str | None], None]
Holds = Callable[[str], bool]
LeftOut = Callable[[str], object]

BLANK, UNKNOWN = "empty", "empty to the tokenizer"
"""Why a file of a folder is left out that is whole and holds no text, or none that is encoded."""
_HUB = "hf:"
_HELD = 1 << 20  # bytes of a file of a folder up to which its text is held
_NOT_LIBRARY = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages"}
    | {"encodings"}  # generated tables of characters, a tenth of all, and no prose
)
_TOPICS = "pydoc_data"  # read as topics, so not once more as source


def holds_text(document: str) -> bool:
    """Whether a document is more than white space."""
    return bool(document.strip())


def read_documents(
    source: str | None,
    max_characters: int,
    told: FileRead | None = None,
    holds: Holds = holds_text,
    left_out: LeftOut | None = None,
) -> list[str]:
    """Read whole documents from `source` until the next one would pass `max_characters`.

    source          documents
    None            Python's own: the topics of its documentation, then each .py file of the
                    standard library (no tests, no installed packages), both in sorted order
    a file          plain UTF-8 text, cut into pieces of about 4,000 characters: a piece ends at the
                    first blank line after 4,000 characters, else (none before 8,000) at the first
                    line end, else at the first white space, else at 8,000; a piece is a document
    *.jsonl         each line's `text`
    a folder        all .txt, .md, .py, .rst and .jsonl files below it, sorted by path, each read as
                    above; hidden files and folders are left out, and links to folders, links that
                    lead out of the folder or to nothing, and pipes are files that cannot be read
    *.zip           its members as those of a folder, in memory; the only one, whatever its name
    hf:NAME         `text` of the train split of that data set, streamed from the Hugging Face hub

    Each file of a folder or an archive that was read is told to `told`, if there is one, with the
    reason why it had to be left out or None; without it, such a file is an error.

    Files may end in .xz, .gz or .zst besides. Documents that do not hold text, as `holds` tells,
    are left out and given to `left_out`. Memory is bounded by the documents that are returned and
    the longest one, however large the file.

    Raises HeadwayError for a source that is missing, unreadable, damaged, binary, malformed or
    without text, and for `max_characters` below 1 or below the length of the first document.
    """
    return list(stream_documents(source, max_characters, told, holds, left_out))


def stream_documents(
    source: str | None,
    max_characters: int,
    told: FileRead | None = None,
    holds: Holds = holds_text,
    left_out: LeftOut | None = None,
) -> Iterator[str]:
    """The documents of `read_documents` one by one: memory is bounded by the longest one.

    Errors as there, when the first document is asked for or later.
    """
    if max_characters < 1:
        raise HeadwayError(f"max_characters={max_characters}: at least 1 is accepted")
    read = _documents(source, told, holds)
    texts = _filled(_holding(read, holds_text, left_out), source, BLANK)
    stream = _filled(_holding(texts, holds, left_out), source, UNKNOWN)
    first = next(stream)
    if len(first) > max_characters:
        raise HeadwayError(
            f"max_characters={max_characters}: the first document of text={source!r} has "
            f"{len(first)} characters; at least as many are accepted"
        )
    yield from _until(chain((first,), stream), max_characters)


def source_digest(source: str | None, kind: Kind = "text") -> str:
    """What the content of `source` is known by: a sha256 of its files of a kind, or of the data
    set's name.

    Raises HeadwayError for a source that is missing or unreadable.
    """
    digest = hashlib.sha256()
    if source is not None and on_hub(source):
        return hashlib.sha256(os.fsencode(source)).hexdigest()
    inside, places = _files_of(source, kind)
    for place in places:
        path = str(place)
        digest.update(os.fsencode(os.path.relpath(path, inside)) + b"\0")
        if isinstance(place, RawFile) and place.refused:
            continue
        with told_errors(path), open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def on_hub(source: str | None) -> bool:
    """Whether `source` names a data set."""
    return source is not None and source.startswith(_HUB)


def _files_of(source: str | None, kind: Kind) -> tuple[str, Sequence[Place]]:
    """A folder, and the files below it that a source of a kind reads, or lists as refused."""
    if source is None:
        paths = _walk(sysconfig.get_path("stdlib"), _NOT_LIBRARY)
        return sysconfig.get_path("stdlib"), [path for path in paths if path.endswith(".py")]
    if not os.path.isdir(source):
        return os.path.dirname(source), [source]
    if kind == "text":
        return source, _folder_files(source)
    return source, raw_files(Path(source), SUFFIXES[kind])


def _filled(documents: Iterator[str], source: str | None, empty: str) -> Iterator[str]:
    """The documents; HeadwayError where there is none, which `empty` says."""
    for first in documents:
        return chain((first,), documents)
    raise HeadwayError(f"text={source!r} is {empty}; a source that holds text is accepted")


def _holding(documents: Iterator[str], holds: Holds, left_out: LeftOut | None) -> Iterator[str]:
    """The documents that hold text."""
    for document in documents:
        if holds(document):
            yield document
        elif left_out is not None:
            left_out(document)


def _until(documents: Iterator[str], max_characters: int) -> Iterator[str]:
    """Yield documents as long as their lengths sum up to at most `max_characters`."""
    characters = 0
    for document in documents:
        characters += len(document)
        if characters > max_characters:
            return
        yield document


def _documents(source: str | None, told: FileRead | None, holds: Holds) -> Iterator[str]:
    if source is None:
        return _python_documents()
    if on_hub(source):
        return _hub_documents(source.removeprefix(_HUB))
    if os.path.isdir(source):
        return _documents_of(_folder_files(source), told, holds)
    if os.path.isfile(source) and source.lower().endswith(".zip"):
        return _documents_of(_archive_files(source), told, holds)
    return file_documents(source)


def _documents_of(files: Sequence[RawFile], told: FileRead | None, holds: Holds) -> Iterator[str]:
    for file in files:
        if told is None:
            yield from file_documents(file)
            continue
        path = str(file)
        try:
            # A file that is broken somewhere is left out whole, so it is read to its end before
            # anything of it is taken: into memory, or twice where it is large.
            small = file.size <= _HELD
            documents: Iterable[str] = list(file_documents(file)) if small else _checked(file)
        except HeadwayError as error:
            told(path, str(error))
        else:
            blank, unknown = True, True
            for document in documents:
                blank = blank and not holds_text(document)
                unknown = unknown and not holds(document)
                yield document
            told(path, BLANK if blank else UNKNOWN if unknown else None)


def _checked(file: Place) -> Iterator[str]:
    deque(file_documents(file), maxlen=0)
    return file_documents(file)


def _python_documents() -> Iterator[str]:
    """Yield the topics of Python's documentation, then the files of its standard library."""
    from pydoc_data.topics import topics  # large, and needed for this source alone

    for name in sorted(topics):
        yield topics[name]
    for path in _walk(sysconfig.get_path("stdlib"), _NOT_LIBRARY | {_TOPICS}):
        if path.endswith(".py"):
            yield "".join(read_text(path))


def _folder_files(folder: str) -> list[RawFile]:
    """The files of `folder` that may hold text; HeadwayError when there is none."""
    files = [
        file
        for file in folder_files(Path(folder))
        if file.refused == LINKED or bare_suffix(file.name) in TEXT_SUFFIXES
    ]
    if not files:
        raise HeadwayError(
            f"text={folder!r} is a folder without text; files ending in "
            f"{', '.join(TEXT_SUFFIXES)} (also .xz, .gz, .zst) are accepted"
        )
    return sorted(files, key=lambda file: file.name)


def _archive_files(archive: str) -> list[RawFile]:
    """The members of an archive that may hold text; HeadwayError when there is none."""
    members = [
        file
        for file in raw_files(Path(archive), ("",))
        if not any(_hidden(part) for part in file.name.split("/"))
    ]
    texts = [file for file in members if bare_suffix(file.name) in TEXT_SUFFIXES]
    if not texts and len(members) == 1:
        return members
    if not texts:
        raise HeadwayError(
            f"text={archive!r} is an archive without text; members ending in "
            f"{', '.join(TEXT_SUFFIXES)} (also .xz, .gz, .zst) are accepted, or a single one"
        )
    return texts


def _hidden(part: str) -> bool:
    return part == "__MACOSX" or (part.startswith(".") and part not in (".", ".."))


def _walk(folder: str, without: frozenset[str]) -> list[str]:
    """All files below `folder`, sorted; hidden ones and folders in `without` are left out."""
    paths: list[str] = []
    for root, folders, files in os.walk(folder, onerror=refuse_folder):
        folders[:] = [name for name in folders if name not in without and name[0] != "."]
        paths += [os.path.join(root, name) for name in files if name[0] != "."]
    return sorted(paths)


def _hub_documents(name: str) -> Iterator[str]:
    for number, row in enumerate(_hub_rows(name), 1):
        yield text_of(row, f"row {number} of {_HUB}{name}")


def _hub_rows(name: str) -> Iterator[object]:
    """Yield the rows of the train split of data set `name`.

    Raises HeadwayError when the data set cannot be reached, has no train split or breaks off.
    """
    if not name.strip("/"):
        raise HeadwayError(f"text={_HUB + name!r} names no data set; {_HUB}NAME is accepted")
    datasets = optional_package("datasets", f"text: {_HUB}{name}")
    try:
        yield from datasets.load_dataset(name, split="train", streaming=True)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).partition("\n")[0]
        raise HeadwayError(
            f"text: {_HUB}{name} cannot be read ({reason}); the name of a data set "
            f"on the Hugging Face hub with a train split is accepted"
        ) from error
