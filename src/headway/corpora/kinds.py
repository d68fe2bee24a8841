"""What raw files hold, as the ends of their names tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from headway.corpora.formats import TEXT_SUFFIXES, bare_suffix
from headway.corpora.sources import raw_files
from headway.errors import HeadwayError

Kind = Literal["text", "music", "speech"]
SUFFIXES: Mapping[Kind, tuple[str, ...]] = {
    "text": TEXT_SUFFIXES,
    "music": (".mid", ".midi"),
    "speech": (".wav", ".flac", ".ogg", ".opus", ".mp3"),
}


def kind_of(source: str) -> Kind:
    """What most files of a folder or an archive hold, or a file; text where nothing tells.

    A source that cannot be listed is text as well: reading it says what is wrong with it.
    """
    try:
        names = [file.name for file in raw_files(Path(source), ("",))]
    except HeadwayError:
        return "text"
    ends = [bare_suffix(name) for name in names]
    counts = {kind: sum(end in suffixes for end in ends) for kind, suffixes in SUFFIXES.items()}
    return max(counts, key=counts.__getitem__)
