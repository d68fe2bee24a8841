"""Reading one long text in several ways: everything, a window, kept tokens and a window."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headway.decoder.cache_name import CACHE
from headway.errors import HeadwayError
from headway.waiver.cache import WaiverCache, cache_bytes

CHUNK = 256
"""Tokens that the whole cache reads at once."""
AT_ONCE = 16_384
"""Tokens in the windows that are computed anew at once."""
AFFORDABLE = 1e13
"""Parameters times tokens up to which every token's window is computed anew."""

FULL, WINDOW, WAIVERS, RANDOM, RECOMPUTE = WAYS = (
    "full",
    "window",
    "waivers + window",
    "random + window",
    "recompute",
)


@dataclass(frozen=True)
class Reading:
    """One way of reading a text of N tokens.

    Attributes:
        way: of `WAYS`.
        kept: positions kept beside the window.
        sees: most tokens that a token sees, itself counted; None is all.
        nats: `(N - 1,)`, minus log-likelihood of each token but the first, float64 on the CPU; None
            where it did not run.
        seconds: for all of them.
        bytes: of the cache at the end; None where there is none.
        reason: why it did not run.
    """

    way: str
    kept: tuple[int, ...]
    sees: int | None
    nats: Tensor | None = field(repr=False)
    seconds: float = 0.0
    bytes: int | None = None
    reason: str = ""


def read_stream(
    model: nn.Module,
    ids: Tensor,
    window: int,
    keep: Sequence[int],
    stride: int = 1,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Reading]:
    """Read one text in all ways, each of which holds as many tokens as the waivers' way does.

    'recompute' gives every token the last `window + len(keep)` tokens as a text of its own: the
    upper line of StreamingLLM (arXiv 2309.17453, figure 1d). With a stride s that is so for every
    s-th token, and those between see up to s - 1 fewer.

    Args:
        model: as `WaiverCache` takes it.
        ids: `(N,)`, on the model's device.
        window: recent tokens beside the kept ones.
        keep: positions to keep.
        stride: of 'recompute', at most what is held.
        seed: of the random positions, drawn from those of the first window that are not kept.
        say: told what is read next.

    Raises:
        HeadwayError: see `WaiverCache`; and a text that is no longer than what is held.
    """
    held = window + len(keep)
    if not 1 <= stride <= held:
        raise HeadwayError(f"stride: value is {stride}; accepted are 1 to the {held} tokens held")
    if len(ids) <= held + 1:
        raise HeadwayError(
            f"tokens: {len(ids)} are too few, as {held} are held; accepted are {held + 2} and more"
        )
    drawn = drawn_positions(window, keep, seed)
    caches = {
        WINDOW: WaiverCache(model, held, 0),
        WAIVERS: WaiverCache(model, window, tuple(keep)),
        RANDOM: WaiverCache(model, window, drawn),
    }
    say(FULL)
    yield _full(model, ids)
    for way, cache in caches.items():
        if way == RANDOM and not keep:
            yield Reading(way, (), held, None, reason="nothing is kept")
            continue
        say(way)
        started = time.perf_counter()
        nats = streamed_nats(model, ids, cache)
        seconds = time.perf_counter() - started
        assert cache.keep is not None
        yield Reading(way, cache.keep, held, nats, seconds, cache_bytes(cache))
    say(f"{RECOMPUTE}, stride {stride}")
    started = time.perf_counter()
    nats = recomputed_nats(model, ids, held, stride)
    yield Reading(RECOMPUTE, (), held, nats, time.perf_counter() - started)


def drawn_positions(window: int, keep: Sequence[int], seed: int) -> tuple[int, ...]:
    """As many positions as are kept, from those of the first window that are not."""
    others = sorted(set(range(1, window)) - set(keep))
    return tuple(sorted(random.Random(seed).sample(others, min(len(keep), len(others)))))


def affordable_stride(model: nn.Module, tokens: int, held: int) -> int:
    """The least stride at which windows computed anew cost no more than `AFFORDABLE`."""
    parameters = sum(p.numel() for p in model.parameters())
    return max(1, min(held, round(parameters * tokens * held / AFFORDABLE)))


@torch.no_grad()
def streamed_nats(model: Any, ids: Tensor, cache: WaiverCache) -> Tensor:
    """`(N - 1,)`, with a bounded cache: the first window together, then token by token."""
    first = min(cache.window, len(ids) - 1)
    found = [_nats(model(input_ids=ids[None, :first], **{CACHE: cache}), ids[1 : first + 1])]
    for at in range(first, len(ids) - 1):
        out = model(input_ids=ids[None, at : at + 1], **{CACHE: cache})
        found.append(_nats(out, ids[at + 1 : at + 2]))
    return torch.cat(found).to("cpu", torch.float64)


@torch.no_grad()
def recomputed_nats(model: Any, ids: Tensor, held: int, stride: int) -> Tensor:
    """`(N - 1,)`, from windows of `held` tokens that are texts of their own."""
    found = [_nats(model(input_ids=ids[None, :held], use_cache=False), ids[1 : held + 1])]
    ends = list(range(held + stride, len(ids), stride))
    # The last window ends with the text, and its first queries may be known already.
    left = len(ids) - 1 - (ends[-1] if ends else held)
    windows = max(1, AT_ONCE // held)
    for start in range(0, len(ends), windows):
        part = ends[start : start + windows]
        batch = torch.stack([ids[end - held : end] for end in part])
        targets = torch.stack([ids[end - stride + 1 : end + 1] for end in part])
        out = model(input_ids=batch, use_cache=False, logits_to_keep=stride)
        found.append(_nats(out, targets.flatten()))
    if left:
        batch = ids[None, len(ids) - 1 - held : -1]
        out = model(input_ids=batch, use_cache=False, logits_to_keep=left)
        found.append(_nats(out, ids[-left:]))
    return torch.cat(found).to("cpu", torch.float64)


@torch.no_grad()
def _full(model: Any, ids: Tensor) -> Reading:
    found: list[Tensor] = []
    cache: Any = None
    started = time.perf_counter()
    try:
        for start in range(0, len(ids) - 1, CHUNK):
            end = min(start + CHUNK, len(ids) - 1)
            out = model(input_ids=ids[None, start:end], use_cache=True, **{CACHE: cache})
            found.append(_nats(out, ids[start + 1 : end + 1]))
            cache = getattr(out, CACHE)
    except torch.OutOfMemoryError:
        read = sum(len(part) for part in found)
        return Reading(FULL, (), None, None, reason=f"out of memory after {read:,} tokens")
    nats = torch.cat(found).to("cpu", torch.float64)
    return Reading(FULL, (), None, nats, time.perf_counter() - started, cache_bytes(cache))


def _nats(out: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(out.logits.flatten(0, 1).float(), targets, reduction="none")
