"""A Llama with KV shift and selective attention attached, beside the same model untouched."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from headway.bench.llama import SMALL, Shape, free, llama
from headway.bench.results import Line
from headway.bench.rounds import ratio, time_in_turns
from headway.hosts import attach, attached, mechanism_parameters
from headway.mechanisms import KVShift, SelectiveAttention

MECHANISMS = (KVShift(init="identity"), SelectiveAttention(init="identity"))
PLAIN, ATTACHED = "untouched", "attached"


def bench_host(
    small: bool, compiled: bool = True, only: Sequence[str] = ("attach", "train", "decode")
) -> Iterator[Line]:
    """Training step, decoding, memory and attaching, each line as soon as it is measured.

    Args:
        small: the small shape.
        compiled: measure under `torch.compile` too.
        only: which parts.
    """
    shape = SMALL if small else Shape()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if "attach" in only:
        yield from _attaching(shape, device)
    for compile_it in (False, True) if compiled else (False,):
        if "train" in only:
            yield from _training(shape, device, compile_it)
    for cache in (None, "static") if compiled else (None,):
        if "decode" in only:
            yield from _decoding(shape, device, cache)


def _attaching(shape: Shape, device: str) -> list[Line]:
    model = _model(shape, device)
    before, start = _held(model), time.perf_counter()
    attach(model, MECHANISMS)
    seconds = time.perf_counter() - start
    added = (_held(model) - before) / 2**20
    return [
        Line("attach: seconds", seconds, at_most=2.0),
        Line("attach: MiB", added, at_most=50.0),
    ]


def _training(shape: Shape, device: str, compile_it: bool) -> list[Line]:
    steps: dict[str, Callable[[], object]] = {}
    memory: dict[str, int] = {}
    ids = torch.randint(shape.vocab_size, (shape.batch, shape.length), device=device)
    for name in (PLAIN, ATTACHED):
        model = _model(shape, device, name == ATTACHED).train()
        steps[name] = _step(model, ids, compile_it)
        with _peak(memory, name, model):
            for _ in range(2):
                steps[name]()
    taken = time_in_turns(steps, shape.rounds, shape.warm_up)
    steps.clear()
    how = "compiled" if compile_it else "eager"
    found = ratio(taken, ATTACHED, PLAIN)
    lines = [Line.of_ratio(f"training step, {how}", found, at_most=1.05)]
    if device == "cuda":
        share = memory[ATTACHED] / memory[PLAIN]
        lines.append(Line(f"training peak memory, {how}", share, at_most=1.02))
    free()
    return lines


def _decoding(shape: Shape, device: str, cache: str | None) -> list[Line]:
    ids = torch.randint(shape.vocab_size, (1, shape.prompt), device=device)
    arms = {}
    for name in (PLAIN, ATTACHED):
        arms[name] = _writer(_model(shape, device, name == ATTACHED), ids, shape, cache)
    # A compiled token takes a quarter of the time, and its rounds spread as widely.
    rounds = shape.static_rounds if cache else shape.decode_rounds
    taken = time_in_turns(arms, rounds, 2)
    # Tokens a second: the untouched model's time over the attached one's.
    found = ratio(taken, PLAIN, ATTACHED)
    how = "static cache, compiled" if cache else "growing cache, eager"
    arms.clear()
    free()
    return [Line.of_ratio(f"decoding, tokens a second, {how}", found, at_least=0.95)]


def _model(shape: Shape, device: str, with_mechanisms: bool = False) -> Any:
    model = llama(shape, device)
    return attach(model, MECHANISMS) if with_mechanisms else model


def _step(model: Any, ids: Tensor, compile_it: bool) -> Callable[[], object]:
    fused = ids.is_cuda
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=fused)
    called = torch.compile(model, fullgraph=True) if compile_it else model

    def step() -> None:
        called(ids, labels=ids, use_cache=False).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def _writer(model: Any, ids: Tensor, shape: Shape, cache: str | None) -> Callable[[], object]:
    model.eval()
    if attached(model):
        _move_from_identity(model)

    def write() -> None:
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=shape.new_tokens,
            max_new_tokens=shape.new_tokens,
            cache_implementation=cache,
        )

    return write


@torch.no_grad()
def _move_from_identity(model: Any) -> None:
    for _, parameter in mechanism_parameters(model):
        parameter.add_(0.01)


@contextmanager
def _peak(memory: dict[str, int], name: str, model: Any) -> Iterator[None]:
    """Peak of one arm alone: what lies on the GPU for the others is taken off."""
    if not torch.cuda.is_available():
        yield
        return
    gc.collect()
    others = torch.cuda.memory_allocated() - _held(model)
    torch.cuda.reset_peak_memory_stats()
    yield
    torch.cuda.synchronize()
    memory[name] = torch.cuda.max_memory_allocated() - others


def _held(model: Any) -> int:
    """Bytes of a model's parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors)
