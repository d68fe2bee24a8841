"""A corpus made part by part, in parallel: a build that is interrupted goes on where it was."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from headway.corpora.splits import SPLITS, SplitName
from headway.corpora.storage import read_array, read_json, write_array, write_json
from headway.corpora.tokens import (
    CorpusDescription,
    Integers,
    Skipped,
    SplitDescription,
    Tokens,
    hash_tokens,
    token_type,
    write_corpus,
)
from headway.errors import HeadwayError

Report = Callable[[int, int, str], None]
"""Told after each part: files or documents done, all of them, and a sentence."""

_ALONE = 32 << 20  # bytes below which starting processes costs more than it saves


@dataclass(frozen=True)
class Encoded:
    """What a part became.

    Attributes:
        pieces: its tokens, to be joined.
        documents, characters, seconds: in them.
        skipped: files that could not be read.
    """

    pieces: Sequence[Integers]
    documents: int
    characters: int = 0
    seconds: float = 0.0
    skipped: tuple[Skipped, ...] = ()


class Part(Protocol):
    """A stretch of one split that is encoded at a time, here or in another process."""

    @property
    def split(self) -> SplitName:
        """Whose tokens it holds."""

    @property
    def count(self) -> int:
        """Files or documents, for telling how far a build is."""

    @property
    def size(self) -> int:
        """Bytes to read."""

    def encode(self) -> Encoded:
        """Its tokens, every document ended."""


def waiting_folder(out: Path, plan: Any) -> Path:
    """Where finished parts of the corpus `out` wait: hidden, beside it.

    Another plan (any JSON value: the files, the code) has another folder, and those of earlier
    plans are removed.
    """
    name = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]
    waiting = out.parent / f".{out.name}.parts-{name}"
    for other in out.parent.glob(f".{out.name}.parts-*"):
        if other != waiting:
            shutil.rmtree(other, ignore_errors=True)
    return waiting


@contextmanager
def encoding_ahead(
    vocab_size: int, waiting: Path, workers: int | None
) -> Iterator[Callable[[int, Part], object]]:
    """Give a function that has a part, by its number, encoded in threads: parts of a source that is
    still being read. All are finished at the end, and `encode_parts` finds them done.

    Arguments as there.
    """
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    running: list[Future[int]] = []
    try:
        yield lambda number, part: running.append(
            pool.submit(_encode_part, part, number, vocab_size, waiting)
        )
        for future in running:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def forget_parts(waiting: Path) -> None:
    """Remove what was encoded, where parts are others than they were."""
    for path in waiting.glob("[0-9]*"):
        path.unlink()


def encode_parts(
    parts: Sequence[Part],
    vocab_size: int,
    waiting: Path,
    workers: int | None,
    in_threads: bool,
    report: Report,
    earlier: bool = True,
) -> list[dict[str, Any]]:
    """Encode those parts that do not wait finished in `waiting`; the records of all, in order.

    Args:
        parts: numbered by their order.
        vocab_size: decides the type of the tokens.
        waiting: folder, which exists.
        workers: parts at a time; None is one a core.
        in_threads: whether threads of this process suffice; else processes are started.
        report: told after each part.
        earlier: whether what waits is an earlier run's, which is told; else `encoding_ahead`'s.

    Raises:
        HeadwayError: a process was killed.
    """
    total = sum(part.count for part in parts)
    missing = [number for number in range(len(parts)) if _finished(number, waiting) is None]
    done = total - sum(parts[number].count for number in missing)
    if done:
        report(done, total, f"{done} of {total}{' were done already' if earlier else ''}")
    if workers is None:
        small = sum(parts[number].size for number in missing) < _ALONE
        workers = 1 if small and not in_threads else (os.cpu_count() or 1)
    work = {number: parts[number] for number in missing}
    for number, skipped in _encoded(work, vocab_size, waiting, workers, in_threads):
        done += parts[number].count
        told = f", {skipped} skipped" if skipped else ""
        report(done, total, f"{parts[number].split}: {done:,} of {total:,}{told}")
    return [read_json(_record(number, waiting)) for number in range(len(parts))]


def write_parts(
    parts: Sequence[Part],
    records: Sequence[Mapping[str, Any]],
    waiting: Path,
    out: Path,
    tokenizer_json: str,
    vocab_size: int,
    eot: int,
    description: Mapping[str, Any],
    files: Mapping[str, bytes],
) -> None:
    """Join finished parts to the corpus `out`, which appears whole, and remove the folder of parts.

    Args:
        parts: all of them.
        records: of `encode_parts`.
        waiting: where they wait.
        out: the new folder.
        tokenizer_json, vocab_size, eot: as in `TokenCorpus`.
        description: of `CorpusDescription`, all but the splits.
        files: written into the folder beside the tokens.

    Raises:
        HeadwayError: a split is left without tokens, or `out` cannot be written.
    """
    arrays: dict[SplitName, list[Tokens]] = {split: [] for split in SPLITS}
    for number, (part, record) in enumerate(zip(parts, records, strict=True)):
        if record["documents"]:
            arrays[part.split].append(read_array(_array(number, waiting)))
    described: dict[str, Any] = {}
    for split in SPLITS:
        own = [r for part, r in zip(parts, records, strict=True) if part.split == split]
        if not arrays[split]:
            reason = next(item["reason"] for record in own for item in record["skipped"])
            raise HeadwayError(
                f"path: the files of the {split} split were all skipped ({reason}); at least one "
                f"whole file a split is accepted"
            )
        described[split] = SplitDescription(
            documents=sum(record["documents"] for record in own),
            characters=sum(record["characters"] for record in own),
            sha256=hash_tokens(*arrays[split]),
            seconds=sum(record["seconds"] for record in own),
        )
    told = CorpusDescription(**description, **described)
    write_corpus(out, arrays, vocab_size, eot, tokenizer_json, told, files, waiting)
    shutil.rmtree(waiting, ignore_errors=True)


def require_few(skipped: Sequence[Skipped], total: int, max_skipped: float) -> None:
    """HeadwayError, with three reasons, when more than the share `max_skipped` was skipped."""
    if len(skipped) > max_skipped * total:
        told = "; ".join(f"{item.file}: {item.reason}" for item in skipped[:3])
        raise HeadwayError(
            f"max_skipped={max_skipped}: {len(skipped)} of {total} files had to be skipped "
            f"({told}{' ...' if len(skipped) > 3 else ''}); a larger share or whole files are "
            f"accepted"
        )


def _encoded(
    parts: Mapping[int, Part], vocab_size: int, waiting: Path, workers: int, in_threads: bool
) -> Iterator[tuple[int, int]]:
    """Encode `parts` by number; number and skipped files of each when it is finished."""
    workers = min(workers, len(parts))
    if workers <= 1:
        for number, part in parts.items():
            yield number, _encode_part(part, number, vocab_size, waiting)
        return
    pool: Executor
    if in_threads:
        pool = ThreadPoolExecutor(workers)
    else:
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _one_thread)
    try:
        running: dict[Future[int], int] = {
            pool.submit(_encode_part, part, number, vocab_size, waiting): number
            for number, part in parts.items()
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


def _encode_part(part: Part, number: int, vocab_size: int, waiting: Path) -> int:
    """Encode one part; its record, written last, says that it is finished. How many it skipped."""
    made = part.encode()
    kind = token_type(vocab_size)
    pieces = [piece.astype(kind, copy=False) for piece in made.pieces]
    if pieces:
        write_array(_array(number, waiting), *pieces)
    record = {
        "documents": made.documents,
        "characters": made.characters,
        "seconds": made.seconds,
        "tokens_sha256": hash_tokens(*pieces),
        "skipped": [asdict(item) for item in made.skipped],
    }
    write_json(_record(number, waiting), record)
    return len(made.skipped)


def _finished(number: int, waiting: Path) -> dict[str, Any] | None:
    """The record of a finished part; None when it is missing, cut short or not what it says."""
    try:
        record = read_json(_record(number, waiting))
        if record["documents"]:
            tokens: np.ndarray[Any, Any] = read_array(_array(number, waiting))
            if hash_tokens(tokens) != record["tokens_sha256"]:
                return None
    except HeadwayError:
        return None
    return record


def _array(number: int, waiting: Path) -> Path:
    return waiting / f"{number:06d}.npy"


def _record(number: int, waiting: Path) -> Path:
    return waiting / f"{number:06d}.json"
