"""The attention that each key receives, of one long layer, beside one flash forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from headway.bench.decoders import device_here, dtype_on
from headway.bench.llama import free
from headway.bench.results import Line
from headway.bench.rounds import ratio, time_in_turns
from headway.ops.received import Scores, attend_with_lse, received_attention


@dataclass(frozen=True, kw_only=True)
class _Layer:
    heads: int
    width: int
    length: int
    rounds: int


LAYER = _Layer(heads=32, width=64, length=131_072, rounds=20)
SMALL_LAYER = _Layer(heads=4, width=16, length=512, rounds=5)
THRESHOLD = 0.3


def bench_received(small: bool) -> Iterator[Line]:
    """Time over a flash forward pass, memory beyond queries and keys, and how far weights reach.

    Args:
        small: the small shape, for a machine without a GPU.
    """
    asked, device = SMALL_LAYER if small else LAYER, device_here()
    yield from _beside_flash(asked, device)
    if device == "cuda":
        free()
        yield Line("tokens whose eager weights still fit", _longest_eager(asked, device))
        gib = torch.cuda.get_device_properties(0).total_memory / 2**30
        yield Line("GiB of this device", gib)


def _beside_flash(asked: _Layer, device: str) -> Iterator[Line]:
    size = (1, asked.heads, asked.length, asked.width)
    torch.manual_seed(0)
    q, k, v = (torch.randn(size, device=device, dtype=dtype_on(device)) for _ in range(3))
    scores = Scores(q, k, asked.width**-0.5, causal=True)
    lse = attend_with_lse(scores, v)[1]
    profile = partial(received_attention, scores, lse, THRESHOLD)

    def flash() -> None:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            F.scaled_dot_product_attention(q, k, v, is_causal=True)

    found = ratio(
        time_in_turns({"received": profile, "flash": flash}, asked.rounds, 2), "received", "flash"
    )
    yield Line.of_ratio(
        f"{asked.length} tokens: received over a flash forward pass, time", found, at_most=2.0
    )
    if device != "cuda":
        return
    free()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    profile()
    torch.cuda.synchronize()
    gib = (torch.cuda.max_memory_allocated() - before) / 2**30
    yield Line(f"{asked.length} tokens: GiB beyond queries and keys", gib, at_most=1.0)


def _longest_eager(asked: _Layer, device: str) -> int:
    """Longest power of two at which one layer's weights can be had whole."""
    length = 1024
    while length < asked.length and _eager_fits(asked, 2 * length, device):
        length *= 2
    return length


def _eager_fits(asked: _Layer, length: int, device: str) -> bool:
    size = (1, asked.heads, length, asked.width)
    try:
        q = torch.randn(size, device=device, dtype=dtype_on(device))
        torch.softmax((q @ q.transpose(-1, -2)).float(), dim=-1)
    except torch.OutOfMemoryError:
        return False
    finally:
        free()
    return True
