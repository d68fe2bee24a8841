"""What a document is in each kind of file: a piece of plain text, or the `text` of a JSON line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from headway.corpora.streams import COMPRESSIONS, Place, read_lines, read_text
from headway.errors import HeadwayError

TEXT_SUFFIXES = (".txt", ".md", ".py", ".rst", ".jsonl")

_SHORTEST, _LONGEST = 4_000, 8_000  # characters of a piece of plain text
_CUTS = (re.compile(r"\n[ \t\r]*\n"), re.compile(r"\n"), re.compile(r"\s"))


def file_documents(place: Place) -> Iterator[str]:
    """Yield the documents of one file: JSON lines for .jsonl (also compressed), else plain text."""
    reader = _json_documents if bare_suffix(str(place)) == ".jsonl" else _plain_documents
    yield from reader(place)


def bare_suffix(path: str) -> str:
    """The suffix of `path` before that of a compression: 'a.JSONL.xz' -> '.jsonl'."""
    name = path.lower()
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    match = re.search(r"\.[^./\\]*$", name)
    return match.group() if match else ""


def text_of(row: object, where: str) -> str:
    """The `text` of one record; `where` names the record in the error.

    Raises HeadwayError when `row` is no object, lacks a string `text`, or holds half of a surrogate
    pair, which no UTF-8 text can hold.
    """
    if not isinstance(row, Mapping):
        raise HeadwayError(
            f'text: {where} is a {type(row).__name__}; an object {{"text": "..."}} is accepted'
        )
    text = row.get("text")
    if "text" in row and not isinstance(text, str):
        raise HeadwayError(
            f'text: the field "text" of {where} is of type {type(text).__name__}, no string; '
            f'an object {{"text": "..."}} is accepted'
        )
    if not isinstance(text, str):
        fields = ", ".join(map(str, row)) or "none"
        raise HeadwayError(
            f'text: {where} has no string field "text" (its fields: {fields}); '
            f'an object {{"text": "..."}} is accepted'
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise HeadwayError(
            f"text: {where} holds half of a surrogate pair at character {error.start}; "
            f"valid Unicode is accepted"
        ) from error
    return text


def _json_documents(place: Place) -> Iterator[str]:
    """Yield the `text` of every line that is not blank."""
    for number, line in enumerate(read_lines(place), 1):
        if not line.strip():
            continue
        where = f"line {number} of {str(place)!r}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise HeadwayError(
                f'text: {where} is no JSON ({error}); an object {{"text": "..."}} is accepted'
            ) from error
        yield text_of(row, where)


def _plain_documents(place: Place) -> Iterator[str]:
    """Yield pieces of about 4,000 characters, which joined are the text."""
    buffer = ""
    for text in read_text(place):
        buffer += text
        start = 0
        while len(buffer) - start >= _LONGEST:
            cut = _cut(buffer, start)
            yield buffer[start:cut]
            start = cut
        buffer = buffer[start:]
    start = 0
    while start < len(buffer):
        cut = _cut(buffer, start)
        yield buffer[start:cut]
        start = cut


def _cut(buffer: str, start: int) -> int:
    """Where the piece of `buffer` that begins at `start` ends (see `read_documents`)."""
    end = min(start + _LONGEST, len(buffer))
    if end - start <= _SHORTEST:
        return end
    for pattern in _CUTS:
        if match := pattern.search(buffer, start + _SHORTEST, end):
            return match.end()
    return end
