"""A source as a corpus: one that was built already, or raw files, which are built once and kept."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from headway.corpora.build import build
from headway.corpora.kinds import Kind, kind_of
from headway.corpora.optional import optional_package
from headway.corpora.progress import silent
from headway.corpora.text import on_hub, source_digest
from headway.corpora.text_build import build_text
from headway.corpora.tokenizer import load_tokenizer
from headway.corpora.tokens import TokenCorpus, build_corpus, is_corpus, source_name
from headway.errors import HeadwayError
from headway_settings import CorpusBuildSettings

CACHE = "HEADWAY_CACHE"
"""Environment variable: the folder of what is built once; empty to keep nothing."""

_FORM = 2  # of what is kept; another one for other tokens of the same text


def text_corpus(
    source: str | None, tokenizer: str, vocab_size: int, max_characters: int
) -> TokenCorpus:
    """The tokens of `source`, which may also be a folder that `headway corpus build` wrote.

    A built corpus is taken whole. Raw text becomes the corpus that `build_corpus` makes; it is
    built once into the cache and found there by its content and the arguments, but for a data set
    of the hub, whose content cannot be known before it is read. Raw music and speech become what
    `headway corpus build` makes of them without further options, symbols of their own included.

    Arguments and errors as `build_corpus`; a built corpus of another tokenizer, or another size of
    a vocabulary than was asked for, raises HeadwayError too, and so does a tokenizer for music and
    speech.
    """
    if source is not None and is_corpus(Path(source)):
        corpus = TokenCorpus.load(source)
        _require_tokenizer(source, corpus, tokenizer, vocab_size)
        return _named(corpus, source)
    if source is not None and not on_hub(source) and (kind := kind_of(source)) != "text":
        return _recorded(source, kind, tokenizer)
    if tokenizer == "bpe":
        identity = f"bpe {vocab_size}"
    else:
        identity = load_tokenizer(tokenizer, (), vocab_size).to_str()

    made = built_once(
        source,
        ["corpus", identity, max_characters],
        lambda folder: build_text(
            source, tokenizer, vocab_size, max_characters, folder, None, 0.0, silent
        ),
    )
    if made is None:
        return build_corpus(source, tokenizer, vocab_size, max_characters)
    return _named(made, source)


def _recorded(source: str, kind: Kind, tokenizer: str) -> TokenCorpus:
    """Raw music or speech as a corpus."""
    if tokenizer != "bpe":
        raise HeadwayError(
            f"tokenizer={tokenizer!r}: {source!r} holds {kind}, which has symbols of its own; "
            f"accepted is to leave the setting out"
        )
    made = built_once(
        source,
        [kind],
        lambda out: build(CorpusBuildSettings(kind=kind, path=source, out=out), silent),
        kind,
    )
    if made is None:
        raise HeadwayError(
            f"{CACHE}: it is empty, so nothing is kept, and {source!r} holds {kind}; accepted is a "
            f"folder in {CACHE}, or what `headway corpus build {kind}` makes of it"
        )
    return _named(made, source)


def built_once(
    source: str | None, identity: Any, write: Callable[[Path], object], kind: Kind = "text"
) -> TokenCorpus | None:
    """The corpus of raw files in the cache, built there by whoever comes first; others wait for it.

    Args:
        source: of the files, as in `headway.corpora.read_documents`.
        identity: all else that its tokens depend on, as JSON holds it.
        write: writes the corpus as a new folder.
        kind: of the files.

    Returns:
        None where nothing is kept: a data set of the hub, or an empty `HEADWAY_CACHE`.

    Raises:
        HeadwayError: the cache cannot be written.
    """
    cache = cache_folder()
    if cache is None or on_hub(source):
        return None
    plan = json.dumps([_FORM, source_digest(source, kind), identity])
    folder = cache / "corpora" / hashlib.sha256(plan.encode()).hexdigest()[:32]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = (folder.parent / f".{folder.name}.lock").open("w")
    except OSError as error:
        raise HeadwayError(
            f"{CACHE}: {str(cache)!r} cannot be written ({error.strerror}); accepted is a folder "
            f"with write permission, or an empty value to keep nothing"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            write(folder)
    return TokenCorpus.load(folder)


def cache_folder() -> Path | None:
    """What `HEADWAY_CACHE` names, else `headway` in the caches of the user; None where it is empty.

    `XDG_CACHE_HOME` is the folder of caches, else `~/.cache`.
    """
    named = os.environ.get(CACHE)
    if named is not None:
        return Path(named).expanduser() if named else None
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "headway"


def same_tokens(one: Any, other: Any) -> bool:
    """Whether two tokenizers (of the tokenizers library) give every text the same ids.

    Equal are the vocabulary and all that works on text before and after it; not what a file says
    of padding and truncation, which a corpus has none of.
    """
    return _meaning(one) == _meaning(other)


def _named(corpus: TokenCorpus, source: str | None) -> TokenCorpus:
    """The corpus of `source`, however the same text was called when it was built."""
    return replace(corpus, description=replace(corpus.description, source=source_name(source)))


def _meaning(tokenizer: Any) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(tokenizer.to_str())
    return {name: told[name] for name in ("normalizer", "pre_tokenizer", "model", "added_tokens")}


def _require_tokenizer(source: str, corpus: TokenCorpus, tokenizer: str, vocab_size: int) -> None:
    """HeadwayError where a built corpus is not what was asked for."""
    if tokenizer == "bpe":
        if vocab_size != corpus.vocab_size:
            raise HeadwayError(
                f"vocab_size={vocab_size}: the corpus {source!r} has {corpus.vocab_size} symbols; "
                f"{corpus.vocab_size} is accepted, or a corpus of as many as were asked for"
            )
        return
    library = optional_package("tokenizers", "tokenizer")
    own = library.Tokenizer.from_str(corpus.tokenizer_json)
    if not same_tokens(own, load_tokenizer(tokenizer, (), vocab_size)):
        raise HeadwayError(
            f"tokenizer={tokenizer!r}: the corpus {source!r} was built with another one; the "
            f"tokenizer.json in that folder is accepted, or 'bpe' with "
            f"vocab_size={corpus.vocab_size}"
        )
