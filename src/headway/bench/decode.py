"""Tokens a second of decoding with a static cache, three mechanisms over plain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import StaticLayer

from headway.bench.decoders import (
    M124,
    PLAIN,
    SMALL_DECODER,
    THREE,
    decoder,
    device_here,
)
from headway.bench.llama import Shape, free
from headway.bench.results import Line
from headway.bench.rounds import ratio, time_in_turns
from headway.decoder import HeadwayCache, HeadwayForCausalLM
from headway.training.graphs import many_graphs

BATCHES = (1, 64)
ARMS = {PLAIN: (), "the three": THREE}


def bench_decode(small: bool) -> Iterator[Line]:
    """The last tokens of a 2k context, greedily, compiled with CUDA graphs; and the cache's bytes.

    Args:
        small: the small shape.
    """
    shape, device = SMALL_DECODER if small else M124, device_here()
    new_tokens = shape.new_tokens if small else 64
    for batch in BATCHES:
        steps, held = {}, {}
        with many_graphs():
            for name, mechanisms in ARMS.items():
                model = decoder(shape, device, mechanisms)
                writer = Writer(model, shape, batch, new_tokens)
                steps[name], held[name] = writer.write, cache_bytes(writer.cache)
            taken = time_in_turns(steps, shape.rounds, shape.warm_up)
        # Tokens a second: plain's time over the other's.
        found = ratio(taken, PLAIN, "the three")
        yield Line.of_ratio(f"tokens a second over plain, batch of {batch}", found, at_least=0.97)
        for name, seconds in zip(ARMS, found.seconds, strict=True):
            yield Line(f"tokens a second, batch of {batch}: {name}", batch * new_tokens / seconds)
        share = held["the three"] / held[PLAIN]
        yield Line(f"cache bytes over plain, batch of {batch}", share, at_most=1.001)
        steps.clear()
        free()


class Writer:
    """Writes the same stretch of a text again and again.

    Args:
        model: set to evaluation.
        shape: `length` is the whole context.
        batch: rows.
        new_tokens: of each stretch.
    """

    def __init__(
        self, model: HeadwayForCausalLM, shape: Shape, batch: int, new_tokens: int
    ) -> None:
        self.model, self.new_tokens = model, new_tokens
        model.train(False)
        self.prompt = shape.length - new_tokens
        self.cache = HeadwayCache(model.config, max_cache_len=shape.length)
        self.step: Callable[[Any, Tensor, HeadwayCache], Tensor] = next_token
        if model.device.type == "cuda":
            self.step = torch.compile(
                next_token, fullgraph=True, dynamic=False, mode="reduce-overhead"
            )
        torch.manual_seed(2)
        ids = torch.randint(shape.vocab_size, (batch, self.prompt), device=model.device)
        with torch.no_grad():
            self.token = next_token(model, ids, self.cache)

    @torch.no_grad()
    def write(self) -> None:
        """Behind the prompt, over what was written there before."""
        for layer in cast(list[StaticLayer], self.cache.layers):
            layer.cumulative_length.fill_(self.prompt)
        for _ in range(self.new_tokens):
            torch.compiler.cudagraph_mark_step_begin()
            self.token.copy_(self.step(self.model, self.token, self.cache))


def next_token(model: Any, ids: Tensor, cache: HeadwayCache) -> Tensor:
    """The likeliest one `(B, 1)` after `ids` `(B, T)`."""
    logits = model(ids, past_key_values=cache, logits_to_keep=1).logits
    likeliest: Tensor = logits[:, -1:].argmax(-1)
    return likeliest


def cache_bytes(cache: HeadwayCache) -> int:
    """Of keys, values and what mechanisms carry beside them."""
    tensors: list[Tensor] = []
    for number, layer in enumerate(cast(list[Any], cache.layers)):
        tensors += [layer.keys, layer.values, *cache.state(number).rows.values()]
    return sum(t.numel() * t.element_size() for t in tensors)
