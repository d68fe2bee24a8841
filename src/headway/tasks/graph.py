"""A walk on a graph: the next token is the last one or a neighbour of it.

The experiment of Selective Attention (arXiv 2411.12892, section 3.4, figure 3).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from headway.tasks.base import Sample, Task
from headway.tasks.draws import distinct

EDGES = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (4, 5), (5, 6), (6, 7))
"""Ours: eight nodes with 1, 2, 3 and 4 neighbours. The paper's list stands in a figure alone."""


@dataclass(frozen=True, kw_only=True)
class Graph(Task):
    """All nodes in random order; what follows is uniform over the last one and its neighbours.

    No model can be right each time: see `entropy` for the least loss and `best` for the best
    accuracy. A node with few neighbours needs sharp attention, one with many needs flat attention.

    Attributes:
        nodes: N = L; each stands in a row once.
        edges: pairs of nodes, each pair once, in any order.
    """

    name = "graph"

    nodes: int = field(default=8, metadata={"min": 1})
    edges: tuple[tuple[int, int], ...] = EDGES

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "edges", tuple(tuple(edge) for edge in self.edges))
        pairs = {frozenset(edge) for edge in self.edges}
        inside = all(len(e) == 2 and min(e) >= 0 and max(e) < self.nodes for e in self.edges)
        if not inside or len(pairs) < len(self.edges) or any(len(pair) == 1 for pair in pairs):
            raise self.refuse("edges", f"are different pairs of two nodes below {self.nodes}")

    @property
    def chance(self) -> float:
        """Of the node that follows most often."""
        return float(self.transitions().mean(0).max())

    @property
    def best(self) -> float:
        """Accuracy of a model that knows the graph."""
        return float(self.transitions().max(1).values.mean())

    @property
    def entropy(self) -> float:
        """Loss of a model that knows the graph, in nats."""
        return float(torch.special.entr(self.transitions()).sum(1).mean())

    def transitions(self, device: torch.device | str = "cpu") -> Tensor:
        """`(N, N)`, float64: row i is the distribution of what follows node i."""
        return _transitions(self, str(device))

    def sample(self, batch: int, generator: torch.Generator) -> Sample:
        """Ids `(B, N)`, and the next token `(B,)`.

        Slices `(B,)`: `neighbours_n`: the last node has n of them.
        """
        rows = self.transitions(generator.device)
        inputs = distinct(batch, self.nodes, self.nodes, generator)
        last = rows[inputs[:, -1]]
        uniform = torch.rand(batch, 1, generator=generator, device=generator.device)
        # Inversion among the k equal shares of a row: the first node at which they exceed u.
        share = last.gt(0).cumsum(1)
        passed = share > (uniform * share[:, -1:]).floor()
        targets = passed.long().argmax(1)
        count = share[:, -1] - 1
        found = {f"neighbours_{n}": count == n for n in self.degrees()}
        return Sample(inputs=inputs, targets=targets, slices=found)

    def degrees(self) -> list[int]:
        """The numbers of neighbours that occur, in order."""
        return sorted({int(n) - 1 for n in self.transitions().gt(0).sum(1)})

    def map_error(self, weights: Tensor, sample: Sample) -> Tensor:
        """Mean l1 distance of the last token's attention `(B, N)` to the true distribution.

        The paper names the measure without its formula: ours sums over positions and is the mean
        over rows, so it lies between 0 and 2.
        """
        last = self.transitions(weights.device)[sample.inputs[:, -1]]
        wanted = last.gather(1, sample.inputs).to(weights.dtype)
        return (weights - wanted).abs().sum(1).mean()


@lru_cache(maxsize=64)
def _transitions(task: Graph, device: str) -> Tensor:
    reached = torch.eye(task.nodes, dtype=torch.float64)
    for a, b in task.edges:
        reached[a, b] = reached[b, a] = 1
    return (reached / reached.sum(1, keepdim=True)).to(device)
