"""Training steps of our decoder: mechanisms over plain, plain beside Llama, share of the peak."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from headway.bench.decoders import (
    M124,
    M350,
    PLAIN,
    SMALL_DECODER,
    arms,
    causal_lm_loss,
    decoder,
    device_here,
    tokens,
    tokens_a_second,
    training_step,
)
from headway.bench.flops import device_peak, flops_a_token, relative_flops
from headway.bench.llama import Shape, free, llama
from headway.bench.memory import Made, made_and_measured
from headway.bench.results import Line
from headway.bench.rounds import ratio, time_in_turns
from headway.ops.loss import reference_cross_entropy
from headway.training.graphs import many_graphs

PARTS = ("mechanisms", "llama", "wide")
LLAMA, KEPT = "transformers' Llama", "all logits kept"
TARGETS = {
    "KV shift": 1.015,
    "SSA": 1.02,
    "value stream": 1.01,
    "the three": 1.03,
    "the three and a depth read": 1.06,
    "recommended": 1.05,
}
"""Step time over plain."""


def bench_train(small: bool, only: Sequence[str] = PARTS) -> Iterator[Line]:
    """Each line as soon as it is measured.

    Weights are bfloat16 on a GPU, of every arm alike, and so are AdamW's moments. Memory is
    beside transformers' Llama, the straightforward model: it keeps what autograd keeps, and all
    logits; and beside the same model of ours with all logits.

    Args:
        small: the small shape.
        only: 'mechanisms' over plain, plain beside transformers' 'llama', and a 'wide' plain model
            of 350 million parameters.
    """
    shape, device = SMALL_DECODER if small else M124, device_here()
    if "mechanisms" in only:
        yield from _mechanisms(shape, device)
    if "llama" in only:
        yield from _beside_llama(shape, device)
    if "wide" in only:
        yield from _wide(shape if small else M350, device)


def _mechanisms(shape: Shape, device: str) -> Iterator[Line]:
    ids, listed = tokens(shape, device), arms(shape.num_hidden_layers)
    with many_graphs():
        steps = {}
        for name, mechanisms in listed.items():
            model = decoder(shape, device, mechanisms)
            steps[name] = training_step(model, ids)
        taken = time_in_turns(steps, shape.rounds, shape.warm_up)
    for name in listed:
        if name != PLAIN:
            found = ratio(taken, name, PLAIN)
            yield Line.of_ratio(f"step over plain: {name}", found, at_most=TARGETS.get(name))
    paper = next(name for name in listed if name.startswith("shortcut"))
    yield Line(f"operations over plain: {paper}", relative_flops(shape, listed[paper]))
    steps.clear()
    free()


def _beside_llama(shape: Shape, device: str) -> Iterator[Line]:
    ids, steps, peaks = tokens(shape, device), {}, {}
    theirs = llama(shape, device)
    makers: dict[str, Callable[[], Any]] = {
        PLAIN: partial(_with_weights_of, theirs, shape, device),
        KEPT: partial(_with_weights_of, theirs, shape, device),
        LLAMA: lambda: llama(shape, device).train(),
    }
    yield Line("loss beside Llama's, same weights", _same_loss(makers[PLAIN](), theirs, ids))
    with many_graphs():
        for name, maker in makers.items():

            def make(name=name, maker=maker) -> Made:  # type: ignore[no-untyped-def]
                model = maker()
                loss_of = all_logits_loss if name == KEPT else causal_lm_loss
                return model, training_step(model, ids, loss_of)

            steps[name], peaks[name] = made_and_measured(make, ids)
        taken = time_in_turns(steps, shape.rounds, shape.warm_up)
    beside = ratio(taken, LLAMA, PLAIN)
    yield Line.of_ratio(f"tokens a second over {LLAMA}: plain", beside, at_least=1.5)
    yield Line.of_ratio(f"step over {KEPT}: plain", ratio(taken, PLAIN, KEPT))
    for name, target in ((LLAMA, 0.8), (KEPT, None)):
        share = peaks[PLAIN] / peaks[name]
        yield Line(f"peak memory over {name}: plain", share, at_most=target)
    yield from _speed("plain", theirs, shape, beside.seconds[1], at_least=0.50)
    steps.clear()
    free()


def _wide(shape: Shape, device: str) -> Iterator[Line]:
    model = decoder(shape, device)
    step = training_step(model, tokens(shape, device))
    with many_graphs():
        taken = time_in_turns({PLAIN: step}, shape.rounds, shape.warm_up)
    found = ratio(taken, PLAIN, PLAIN)
    yield from _speed("wide plain", model, shape, found.seconds[0], at_least=0.55)
    free()


def _speed(name: str, model: Any, shape: Shape, seconds: float, at_least: float) -> Iterator[Line]:
    """Tokens a second and, where the peak is known, both shares of it.

    The target is PaLM's count, which takes attention in full.
    """
    speed = tokens_a_second(shape, seconds)
    yield Line(f"tokens a second: {name}", speed)
    peak = device_peak()
    if peak is not None:
        full, half = (speed * flops_a_token(model, shape.length, c) / peak for c in (False, True))
        yield Line(f"share of peak operations, attention in full: {name}", full, at_least=at_least)
        yield Line(f"share of peak operations, causal half: {name}", half)


def all_logits_loss(model: Any, ids: Tensor) -> Tensor:
    """The same loss, straightforward: all logits stand in memory."""
    hidden = model.model(ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    labels = ids[:, 1:].flatten()
    return reference_cross_entropy(hidden, model.lm_head.weight, labels) / labels.numel()


def _with_weights_of(theirs: Any, shape: Shape, device: str) -> Any:
    model = decoder(shape, device)
    model.load_state_dict(theirs.state_dict())
    return model


@torch.no_grad()
def _same_loss(ours: Any, theirs: Any, ids: Tensor) -> float:
    """Ours over theirs.

    Raises:
        ArithmeticError: they are not the same function.
    """
    mine, other = (causal_lm_loss(model, ids[:2]).item() for model in (ours, theirs))
    if not math.isclose(mine, other, rel_tol=1e-3):
        raise ArithmeticError(f"the losses under the same weights are {mine} and {other}")
    return mine / other
