"""Files to tokens in parallel, part by part: a build that is interrupted goes on where it was."""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from headway.corpora.sources import BadFile, RawFile
from headway.corpora.splits import SPLITS, SplitName, split_documents
from headway.corpora.storage import read_array, read_json, write_array, write_json
from headway.corpora.tokens import (
    CorpusDescription,
    Integers,
    Skipped,
    SplitDescription,
    Tokens,
    hash_tokens,
    write_corpus,
)
from headway.errors import HeadwayError
from headway.files import writing_to

Report = Callable[[int, int, str], None]
"""Told after each part: files done, files in all, and a sentence."""
Grouping = Literal["file", "folder", "top"]

_PART_BYTES, _PART_FILES = 4 << 20, 256
_ALONE = 32 << 20  # bytes of files below which starting processes costs more than it saves


class Encoder(Protocol):
    """What turns one file into documents of tokens; it travels to other processes."""

    @property
    def symbols(self) -> Sequence[str]:
        """The name of each token; the end of a document comes after them."""

    @property
    def code(self) -> Mapping[str, Any]:
        """All that the tokens depend on beside the files, as JSON holds it."""

    def documents(self, file: RawFile, training: bool) -> Iterable[tuple[Integers, float]]:
        """The tokens of each document in `file` and how many seconds it lasts.

        Raises BadFile for a file to skip, before the first document or after.
        """


@dataclass(frozen=True)
class _Part:
    """Files that are encoded together, all of one split."""

    number: int
    split: SplitName
    files: tuple[RawFile, ...]


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


def encode_corpus(
    source: str,
    kind: str,
    encoder: Encoder,
    splits: Mapping[SplitName, Sequence[RawFile]],
    tokenizer_json: str,
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
    parts = list(_parts(splits))
    eot = len(encoder.symbols)
    waiting = _waiting_folder(out, encoder, parts)
    with writing_to(waiting):
        _encode_parts(encoder, parts, waiting, workers, report)
        records = {part.number: _finished(part, waiting) for part in parts}
        skipped = tuple(
            Skipped(**item) for part in parts for item in (records[part.number] or {})["skipped"]
        )
        require_few(skipped, sum(len(part.files) for part in parts), max_skipped)
        arrays: dict[SplitName, list[Tokens]] = {split: [] for split in SPLITS}
        for part in parts:
            if (records[part.number] or {})["documents"]:
                arrays[part.split].append(read_array(_array(part, waiting)))
        described: dict[str, Any] = {}
        for split in SPLITS:
            own = [records[part.number] or {} for part in parts if part.split == split]
            if not arrays[split]:
                raise HeadwayError(
                    f"path: the files of the {split} split were all skipped "
                    f"({skipped[0].reason}); at least one whole file a split is accepted"
                )
            described[split] = SplitDescription(
                documents=sum(record["documents"] for record in own),
                characters=0,
                sha256=hash_tokens(*arrays[split]),
                seconds=sum(record["seconds"] for record in own),
            )
        description = CorpusDescription(
            source=source, **described, kind=kind, code=dict(encoder.code), skipped=skipped
        )
        write_corpus(out, arrays, eot + 1, eot, tokenizer_json, description, files)
    shutil.rmtree(waiting, ignore_errors=True)


def _parts(splits: Mapping[SplitName, Sequence[RawFile]]) -> Iterator[_Part]:
    number = 0
    for split in SPLITS:
        held: list[RawFile] = []
        for file in splits[split]:
            held.append(file)
            if sum(one.size for one in held) >= _PART_BYTES or len(held) >= _PART_FILES:
                yield _Part(number, split, tuple(held))
                number, held = number + 1, []
        if held:
            yield _Part(number, split, tuple(held))
            number += 1


def _waiting_folder(out: Path, encoder: Encoder, parts: Sequence[_Part]) -> Path:
    """Where finished parts wait: another name for other files or another code; old ones go."""
    plan = [dict(encoder.code), [[part.split, *map(_identity, part.files)] for part in parts]]
    name = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]
    waiting = out.parent / f".{out.name}.parts-{name}"
    for other in out.parent.glob(f".{out.name}.parts-*"):
        if other != waiting:
            shutil.rmtree(other, ignore_errors=True)
    return waiting


def _identity(file: RawFile) -> list[Any]:
    return [file.name, file.size, file.stamp]


def _encode_parts(
    encoder: Encoder, parts: Sequence[_Part], waiting: Path, workers: int | None, report: Report
) -> None:
    """Encode those parts that do not wait finished."""
    total = sum(len(part.files) for part in parts)
    missing = [part for part in parts if _finished(part, waiting) is None]
    done = total - sum(len(part.files) for part in missing)
    if done:
        report(done, total, f"{done} files of an interrupted build taken over")
    if workers is None:
        work = sum(file.size for part in missing for file in part.files)
        workers = 1 if work < _ALONE else (os.cpu_count() or 1)
    for part, skipped in _encoded(encoder, missing, waiting, workers):
        done += len(part.files)
        report(done, total, f"{part.split}: {part.files[-1].name}, {skipped} skipped of this part")


def _encoded(
    encoder: Encoder, parts: Sequence[_Part], waiting: Path, workers: int
) -> Iterator[tuple[_Part, int]]:
    """Encode `parts` here, or in processes that are started anew; each when it is finished."""
    if workers <= 1 or len(parts) <= 1:
        for part in parts:
            yield part, _encode_part(encoder, part, waiting)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(parts)), multiprocessing.get_context("spawn"), _one_thread
    )
    try:
        running: dict[Future[int], _Part] = {
            pool.submit(_encode_part, encoder, part, waiting): part for part in parts
        }
        for future in as_completed(running):
            yield running[future], future.result()
    except BrokenProcessPool as error:
        raise HeadwayError(
            "workers: a process that read the files was killed (out of memory?); the same command "
            "with --workers 1 continues"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    """Processes share the cores already."""
    import torch

    torch.set_num_threads(1)


def _encode_part(encoder: Encoder, part: _Part, waiting: Path) -> int:
    """Encode one part; its record, written last, says that it is finished. How many it skipped."""
    eot = len(encoder.symbols)
    kind = np.dtype("<u2" if eot < 1 << 16 else "<u4")
    end = np.array([eot], kind)
    pieces: list[Tokens] = []
    skipped: list[Skipped] = []
    seconds, documents = 0.0, 0
    for file in part.files:
        try:
            found = list(encoder.documents(file, part.split == "train"))
        except BadFile as reason:
            skipped.append(Skipped(file.name, str(reason)))
            continue
        for tokens, duration in found:
            pieces += [tokens.astype(kind, copy=False), end]
            seconds += duration
            documents += 1
    if pieces:
        write_array(_array(part, waiting), *pieces)
    record = {
        "documents": documents,
        "seconds": seconds,
        "tokens_sha256": hash_tokens(*pieces),
        "skipped": [asdict(item) for item in skipped],
    }
    write_json(_record(part, waiting), record)
    return len(skipped)


def _finished(part: _Part, waiting: Path) -> dict[str, Any] | None:
    """The record of a finished part; None when it is missing, cut short or not what it says."""
    try:
        record = read_json(_record(part, waiting))
        if record["documents"]:
            tokens = read_array(_array(part, waiting))
            if hash_tokens(tokens) != record["tokens_sha256"]:
                return None
    except HeadwayError:
        return None
    return record


def _array(part: _Part, waiting: Path) -> Path:
    return waiting / f"{part.number:06d}.npy"


def _record(part: _Part, waiting: Path) -> Path:
    return waiting / f"{part.number:06d}.json"


def require_few(skipped: Sequence[Skipped], total: int, max_skipped: float) -> None:
    """HeadwayError, with three reasons, when more than the share `max_skipped` was skipped."""
    if len(skipped) > max_skipped * total:
        told = "; ".join(f"{item.file}: {item.reason}" for item in skipped[:3])
        raise HeadwayError(
            f"max_skipped={max_skipped}: {len(skipped)} of {total} files had to be skipped "
            f"({told}{' ...' if len(skipped) > 3 else ''}); a larger share or whole files are "
            f"accepted"
        )
