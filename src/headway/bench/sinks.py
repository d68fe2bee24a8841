"""The sink profile beside `output_attentions=True`, at growing length, until the latter fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from headway.bench.llama import SMALL, Shape, free, llama
from headway.bench.results import Line
from headway.bench.rounds import ratio, time_in_turns
from headway.waiver.profile import profile_sinks

PROFILE, WEIGHTS = "profile", "output_attentions"
LENGTHS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768)
SMALL_LENGTHS = (64, 128, 256)


def bench_sinks(small: bool) -> Iterator[Line]:
    """Time and peak memory of both at each length, one row of tokens.

    Times are ratios inside one run, memory is what a pass needs beyond the model, on a GPU. Where
    the weights do not fit, the profile's own seconds and memory stand alone.

    Args:
        small: the small shape and lengths, for a machine without a GPU.
    """
    shape, lengths = (SMALL, SMALL_LENGTHS) if small else (Shape(), LENGTHS)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = llama(shape, device, longest=max(lengths)).eval()
    fits = True
    for length in lengths:
        ids = torch.randint(shape.vocab_size, (1, length), device=device)
        arms: dict[str, Callable[[], object]] = {PROFILE: partial(profile_sinks, model, ids)}
        if fits:
            arms[WEIGHTS] = partial(column_means, model, ids)
            fits = _runs(arms[WEIGHTS])
        if fits:
            taken = time_in_turns(arms, 5, 1)
            found = ratio(taken, PROFILE, WEIGHTS)
            yield Line.of_ratio(f"{length} tokens: profile over {WEIGHTS}, time", found)
        else:
            taken = time_in_turns({PROFILE: arms[PROFILE]}, 3, 1)
            yield Line(f"{length} tokens: profile, seconds", sorted(taken[PROFILE])[1])
        if device == "cuda":
            for name in arms if fits else (PROFILE,):
                yield Line(f"{length} tokens: {name}, peak MiB", _peak_mib(arms[name]))
            if not fits:
                yield Line(f"{length} tokens: {WEIGHTS} ran out of memory, GiB there", _gib())
    free()


def column_means(model: Any, ids: Tensor) -> list[Tensor]:
    """What the profile's `received` is, from the weights that the model gives out."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            out = model.model(ids, output_attentions=True, use_cache=False)
    finally:
        model.set_attn_implementation(before)
    viewers = torch.arange(ids.shape[1], 0, -1, device=ids.device)
    return [weights.float().sum(-2).mean(0) / viewers for weights in out.attentions]


def _runs(arm: Callable[[], object]) -> bool:
    try:
        arm()
    except torch.OutOfMemoryError:
        free()
        return False
    return True


def _peak_mib(arm: Callable[[], object]) -> float:
    free()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    arm()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _gib() -> float:
    return torch.cuda.get_device_properties(0).total_memory / 2**30
