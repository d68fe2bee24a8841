"""Perplexity on text of one's own, by the same code and rules as lm-eval's task wikitext."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headway.corpora import read_documents
from headway.errors import HeadwayError


@dataclass(frozen=True, kw_only=True)
class TextScore:
    """What a model makes of a text; all sums go over documents, none is an average of averages."""

    source: str
    documents: int
    words: int
    """Pieces between white space, as wikitext counts them: empty ones at the ends count too."""
    bytes: int
    """Of the text in UTF-8."""
    nats: float
    """Minus the log-likelihood of the whole text."""
    word_perplexity: float
    """Infinity where no float holds it (text without spaces)."""
    byte_perplexity: float
    bits_per_byte: float


def read_text(source: str, limit: int | None) -> list[str]:
    """The documents of a source (see `headway.corpora.read_documents`), the first `limit` of them.

    Raises:
        HeadwayError: there is no text to read.
    """
    return read_documents(source, sys.maxsize)[:limit]


def score_text(lm: Any, documents: Sequence[str], source: str) -> TextScore:
    """The perplexity of whole documents, each in windows of the model's context.

    Args:
        lm: an lm-eval model; its `loglikelihood_rolling` is asked.
        documents: at least one, none of them empty.
        source: what to call them.

    Raises:
        HeadwayError: the log-likelihood is no number.
    """
    from lm_eval.api.instance import Instance

    requests = [
        Instance(request_type="loglikelihood_rolling", doc={}, arguments=(document,), idx=i)
        for i, document in enumerate(documents)
    ]
    nats = -math.fsum(lm.loglikelihood_rolling(requests))
    if not math.isfinite(nats):
        raise HeadwayError(
            f"offline_text: the log-likelihood of {source!r} is {-nats}; accepted is a model that "
            "gives every token a finite one (dtype float32 has the widest range)"
        )
    words = sum(len(re.split(r"\s+", document)) for document in documents)
    size = sum(len(document.encode()) for document in documents)
    return TextScore(
        source=source,
        documents=len(documents),
        words=words,
        bytes=size,
        nats=nats,
        word_perplexity=_exp(nats / words),
        byte_perplexity=_exp(nats / size),
        bits_per_byte=nats / size / math.log(2),
    )


def _exp(power: float) -> float:
    try:
        return math.exp(power)
    except OverflowError:
        return math.inf
