"""The fused prologue beside a copy on the device that moves as many bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from headway.bench.decoders import M124, SMALL_DECODER, device_here, dtype_on
from headway.bench.llama import Shape, free
from headway.bench.results import Line
from headway.bench.rounds import ratio, time_in_turns
from headway.mechanisms import KVShift, Mechanism, ResidualStream, SelectiveAttention
from headway.mechanisms.base import Dims
from headway.mechanisms.compose import AttentionMechanisms
from headway.mechanisms.context import QKV, Context, Streams
from headway.mechanisms.fused import FusedPrologue
from headway.ops.rotary import Rotary

LISTS: dict[str, tuple[Mechanism, ...]] = {
    "KV shift": (KVShift(),),
    "SSA": (SelectiveAttention(),),
    "the three": (ResidualStream(), KVShift(), SelectiveAttention()),
}
PASSES = 20
"""In one timed call, as a single pass takes no longer than starting a timer."""


def bench_prologue(small: bool) -> Iterator[Line]:
    """Share of the copy's speed that each list of mechanisms reaches, forward and backward.

    Bytes are those that must move: what is read once, what is written once. Numbers that all tokens
    share, and angles, count as nothing. Without a GPU the reference is measured.

    Args:
        small: the small shape.
    """
    shape, device = SMALL_DECODER if small else M124, device_here()
    # A graph is captured apart from the default stream, and a backward runs where its forward did.
    with torch.cuda.stream(torch.cuda.Stream()) if device == "cuda" else nullcontext():
        for name, mechanisms in LISTS.items():
            for direction, work in _works(shape, device, mechanisms).items():
                yield from _beside_a_copy(f"{name}, {direction}", work, shape, device)
            free()


@dataclass(frozen=True)
class _Work:
    start: Callable[[], object]
    bytes: int


def _beside_a_copy(name: str, work: _Work, shape: Shape, device: str) -> Iterator[Line]:
    half = torch.empty(work.bytes // 2, dtype=torch.uint8, device=device)
    to = torch.empty_like(half)
    arms = {
        "pass": _captured(_repeated(work.start), device),
        # Not captured: in a graph a copy becomes a slower one.
        "copy": _repeated(partial(to.copy_, half)),
    }
    # Bytes are equal, so that the share of the speed is the inverse share of the time.
    share = ratio(time_in_turns(arms, shape.rounds, shape.warm_up), "copy", "pass")
    yield Line.of_ratio(f"{name}, of a copy's speed", share, at_least=0.85)
    if device == "cuda":
        speed = work.bytes * PASSES / share.seconds[0] / 1e12
        yield Line(f"{name}: copy, terabytes a second", speed)


def _works(shape: Shape, device: str, mechanisms: Sequence[Mechanism]) -> dict[str, _Work]:
    """Forward and backward of one layer's prologue, on projections in one piece."""
    heads, groups = shape.num_attention_heads, shape.num_key_value_heads
    width = shape.hidden_size // heads
    dims = Dims(
        hidden_size=shape.hidden_size,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=width,
    )
    torch.manual_seed(0)
    built = AttentionMechanisms(mechanisms, dims, 1).to(device)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    fused = FusedPrologue(built, "triton" if device == "cuda" else "reference")
    size, dtype = (shape.batch, shape.length), dtype_on(device)
    drawn = torch.randn(*size, heads + 2 * groups, width, device=device)
    whole = drawn.to(dtype).requires_grad_()
    source = None
    if fused.stream is not None:
        source = drawn[:, :, :groups].to(dtype).transpose(1, 2).contiguous().requires_grad_()
    positions = torch.arange(shape.length, device=device).expand(size)
    turns = torch.randn(1, shape.length, width, device=device)
    angles = (turns.cos(), turns.sin())
    run = partial(_forward, fused, built, whole, groups, source, positions, angles)
    out = run()
    grads = [torch.randn_like(x) for x in out]
    inputs = [x for x in (whole, source) if x is not None]
    learned = [*inputs, *built.parameters()]

    def backward() -> None:
        torch.autograd.grad(out, learned, grads, retain_graph=True)

    moved = [*inputs, *out[:3]]  # values that are left are the raw ones themselves
    return {
        "forward": _Work(run, _bytes(moved)),
        "backward": _Work(backward, _bytes([*grads, *inputs, *inputs])),
    }


def _forward(
    fused: FusedPrologue,
    built: AttentionMechanisms,
    whole: Tensor,
    groups: int,
    source: Tensor | None,
    positions: Tensor,
    angles: tuple[Tensor, Tensor],
) -> tuple[Tensor, ...]:
    counts = (whole.shape[2] - 2 * groups, groups, groups)
    raw = QKV(*whole.transpose(1, 2).split(counts, dim=1))
    if fused.choice == "triton":
        leaves = source is not None
        return fused.forward(raw, positions, None, *angles, source, whole, leaves=leaves)
    streams = Streams() if source is None else Streams(*[QKV(source, source, source)] * 2)
    q, k, v = built.prologue(raw, Context(positions=positions, streams=streams))
    turn = Rotary(*(x[:, None] for x in angles))
    out = (turn(q), turn(k), v)
    return out if source is None else (*out, raw.v)


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def _repeated(work: Callable[[], object]) -> Callable[[], object]:
    def repeat() -> None:
        for _ in range(PASSES):
            work()

    return repeat


def _captured(work: Callable[[], object], device: str) -> Callable[[], object]:
    """On a GPU without the host in between."""
    if device != "cuda":
        return work
    work()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        work()
    return cast(Callable[[], object], graph.replay)
