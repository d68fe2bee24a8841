"""Which documents are trained on, validated on and tested on: decided by the text of each alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Literal

from headway.errors import HeadwayError

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

_SHARE = 0.05  # of validation, and of test


def split_documents(documents: Sequence[str]) -> dict[SplitName, list[str]]:
    """Split by document, about 90 : 5 : 5, in the order given; equal documents stay together.

    A hash of the text decides, so a document keeps its split when others come or go, except that a
    split left empty takes from the largest one the document with the smallest hash.

    Raises HeadwayError when there are fewer than three different documents.
    """
    hashes = [fraction(document) for document in documents]
    names = split_names(hashes)
    splits: dict[SplitName, list[str]] = {name: [] for name in SPLITS}
    for value, document in zip(hashes, documents, strict=True):
        splits[names[value]].append(document)
    return splits


def split_names(hashes: Iterable[float]) -> dict[float, SplitName]:
    """The split of every hash (of `fraction`), none of them empty.

    Raises HeadwayError when there are fewer than three different hashes.
    """
    names = {value: split_of(value) for value in sorted(set(hashes))}
    if len(names) < len(SPLITS):
        raise HeadwayError(
            f"text: it holds {len(names)} different document(s) in what is read of it; accepted "
            f"are at least three, one each for train, validation and test"
        )
    _fill_empty(names)
    return names


def fraction(document: str) -> float:
    """A number in [0, 1) that the text alone determines, or the name of a file, of any bytes."""
    digest = blake2b(document.encode(errors="surrogateescape"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def split_of(value: float) -> SplitName:
    """The split of a hash, where no split is empty."""
    if value < _SHARE:
        return "test"
    return "validation" if value < 2 * _SHARE else "train"


def _fill_empty(names: dict[float, SplitName]) -> None:
    """Give every split a document; `names` (split of each hash) has at least three, sorted."""
    for split in SPLITS:
        members = list(names.values())
        if split not in members:
            largest = max(SPLITS, key=members.count)
            names[next(value for value, name in names.items() if name == largest)] = split
