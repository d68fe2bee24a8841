"""What a training step costs beside the plain model's: time in turn, memory by allocation."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that operators make and that are still alive.

    Attributes:
        peak: most bytes alive at once since the mode was entered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        # A view of an argument, or an argument changed in place, is no memory of its own.
        given = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(out):
            key = storage._cdata
            if key not in self._alive and key not in given:
                self._alive[key] = storage.nbytes()
                weakref.finalize(storage, self._alive.pop, key, None)
        self.peak = max(self.peak, sum(self._alive.values()))
        return out


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [t.untyped_storage() for t in tree_leaves(tree) if isinstance(t, torch.Tensor)]


def step_times(
    steps: Mapping[str, Callable[[], object]], device: torch.device, rounds: int, warm: int = 2
) -> dict[str, list[float]]:
    """Seconds of each step, all of them in turn `rounds` times after `warm` rounds uncounted.

    Taking turns puts every arm through the same drift of the machine's speed, so that ratios within
    a round can be trusted where single times cannot.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(warm + rounds):
        for name, step in steps.items():
            _wait(device)
            started = time.perf_counter()
            step()
            _wait(device)
            if number >= warm:
                times[name].append(time.perf_counter() - started)
    return times


def peak_bytes(step: Callable[[], object], resident: int, device: torch.device) -> int:
    """Most memory in use during `step`.

    Args:
        step: one training step.
        resident: bytes that lie there before it (weights, optimiser); counted on a CPU, where
            operators' allocations are followed; a GPU's allocator knows them itself.
        device: where it runs.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        _wait(device)
        return int(torch.cuda.max_memory_allocated(device))
    memory = PeakMemory()
    with memory:
        step()
    return memory.peak + resident


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
