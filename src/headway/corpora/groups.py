"""Which files belong together, and so to one split."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from headway.corpora.sources import RawFile
from headway.corpora.splits import SPLITS, SplitName, split_documents
from headway.errors import HeadwayError

Grouping = Literal["file", "folder", "top"]


def group_names(
    files: Sequence[RawFile], by: Grouping, table: Path | None = None
) -> dict[str, list[RawFile]]:
    """The files by group; a group is never divided between splits.

    by       a group is
    file     one file
    folder   the files of one folder (those in no folder are groups of their own)
    top      the files below one folder of the first level (likewise)

    `table`, a CSV file, comes before `by`: columns `file` and `group`, or those of MAESTRO's own
    table (`midi_filename`, `canonical_composer`, `canonical_title`).

    Raises HeadwayError when the table cannot be read or lacks the columns.
    """
    named = {} if table is None else _table(table)
    groups: dict[str, list[RawFile]] = {}
    for file in files:
        folder, _, _ = file.name.rpartition("/")
        top, _, _ = file.name.partition("/")
        own = {"file": file.name, "folder": folder or file.name, "top": top}[by]
        groups.setdefault(named.get(file.name, own), []).append(file)
    return groups


def _table(path: Path) -> dict[str, str]:
    """The group of each file, from a CSV file."""
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, ValueError, csv.Error) as error:
        raise HeadwayError(
            f"groups: {str(path)!r} cannot be read ({error}); a CSV file is accepted"
        ) from error
    columns = set(rows[0]) if rows else set()
    if {"file", "group"} <= columns:
        return {row["file"]: row["group"] for row in rows}
    if {"midi_filename", "canonical_composer", "canonical_title"} <= columns:
        return {
            row["midi_filename"]: f"{row['canonical_composer']}: {row['canonical_title']}"
            for row in rows
        }
    raise HeadwayError(
        f"groups: {str(path)!r} has the columns {', '.join(sorted(columns)) or 'none'}; 'file' and "
        f"'group' are accepted, or 'midi_filename', 'canonical_composer' and 'canonical_title'"
    )


def split_groups(groups: Mapping[str, Sequence[RawFile]]) -> dict[SplitName, list[RawFile]]:
    """About 90 : 5 : 5 of the groups, by a hash of their names; files sorted by name.

    Raises HeadwayError when there are fewer than three groups.
    """
    if len(groups) < len(SPLITS):
        raise HeadwayError(
            f"path: its files make {len(groups)} group(s), pieces or recordings; at least "
            f"{len(SPLITS)} are accepted (train, validation, test)"
        )
    return {
        split: sorted((file for name in names for file in groups[name]), key=lambda f: f.name)
        for split, names in split_documents(sorted(groups)).items()
    }
