"""The step of an ensemble as one program: traced, compiled, and on a GPU replayed many at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

Update = Callable[[Any, Any, Tensor], Tensor]
"""One step: state (tensors, changed in place), batch with tensors `(S, ...)`, rate `()`; gives
losses `(S,)`."""


def compile_update(update: Update, state: Any, batch: Any, rate: Tensor) -> Update:
    """`update` for states and batches of these shapes, forward, backward and update in one graph.

    The step is traced to the operations of all copies before it is compiled: what is compiled is
    a fixed list of operations, so that the graph is whole whatever Python the model runs, and every
    ensemble has code, and a count of recompilations, of its own.
    """
    given, structure = tree_flatten((_clone(state), batch, rate))

    def step(*tensors: Tensor) -> Tensor:
        return update(*tree_unflatten(list(tensors), structure))

    with torch.no_grad():
        program = torch.compile(make_fx(step)(*given), fullgraph=True, dynamic=False)

    def compiled(state: Any, batch: Any, rate: Tensor) -> Tensor:
        losses: Tensor = program(*tree_leaves((state, batch, rate)))
        return losses

    return compiled


@dataclass(frozen=True)
class Recording:
    """Steps that a GPU replays from one CUDA graph.

    Attributes:
        graph: the steps.
        batches: what they read, `(N, S, ...)`.
        rates: `(N, LANE)`; learning rates stand in the first column.
        losses: what they leave, `(N, S)`.
    """

    graph: torch.cuda.CUDAGraph
    batches: Any
    rates: Tensor
    losses: Tensor

    @staticmethod
    def of(update: Update, state: Any, batches: Any, rates: Tensor) -> Recording:
        """Record N steps without taking any.

        Args:
            update: compiled.
            state: the tensors that the steps change; they must stay where they are.
            batches: of N steps, tensors `(N, S, ...)`.
            rates: `(N,)`.
        """
        held = _clone(batches)
        lanes = torch.zeros(len(rates), LANE, device=rates.device)
        # Kernels are compiled and chosen at their first calls, which must not be recorded, and
        # must not train.
        aside, stream = _clone(state), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                update(aside, at(held, 0), lanes[0, 0])
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            taken = [update(state, at(held, n), lanes[n, 0]) for n in range(len(lanes))]
            losses = torch.stack(taken)
        return Recording(graph, held, lanes, losses)

    def replay(self, batches: Any, rates: Tensor) -> Tensor:
        """Take the steps on these batches; losses `(N, S)`."""
        for own, given in zip(tree_leaves(self.batches), tree_leaves(batches), strict=True):
            own.copy_(given, non_blocking=True)
        self.rates[:, 0].copy_(rates)
        self.graph.replay()
        return self.losses.clone()


LANE = 4
"""Each rate has 16 bytes of its own, the alignment that compiled code takes without a copy."""


def signature(batch: Any) -> tuple[object, ...]:
    """What a program was made for: structure, shapes and dtypes."""
    leaves, structure = tree_flatten(batch)
    return str(structure), *((tuple(t.shape), t.dtype) for t in leaves)


def at(batches: Any, number: int) -> Any:
    """The batch of one step out of `(N, S, ...)`."""
    return tree_map(lambda t: t[number], batches)


def _clone(tensors: Any) -> Any:
    return tree_map(lambda t: t.clone(memory_format=torch.contiguous_format), tensors)
