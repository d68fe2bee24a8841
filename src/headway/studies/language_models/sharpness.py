"""How sharply a language model attends, and what its temperatures follow."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from headway.decoder import HeadwayForCausalLM
from headway.mechanisms.selective_attention import SelectiveAttentionModule, Temperature
from headway.ops.attention import scores
from headway.ops.visibility import Visibility

BINS = 5
"""Of tokens by how frequent they are, each with as much of the text."""
ROWS = 64
"""Of the attention matrix that are made at once."""


@dataclass
class Spikiness:
    """Adds up ||s||_1 / (n ||s||_2^2) of rows s of attention over n keys (arXiv 2411.12892,
    Figure 2): 1 where attention is even, 1 / n where it is on one token. Call it as a probe of
    `headway.decoder.forward_pass`.

    Attributes:
        by_position: `(T,)`, sums over layers, heads and samples.
        rows: how many were added at each position.
    """

    by_position: Tensor | None = None
    rows: int = 0

    def __call__(self, slot: int, q: Tensor, k: Tensor, visible: Visibility, scale: float) -> None:
        tiles = []
        for start in range(0, q.shape[2], ROWS):
            at = torch.arange(start, min(start + ROWS, q.shape[2]), device=q.device)
            seen = Visibility(visible.positions[:, at], start, visible.keys, False, visible.slopes)
            weights = scores(q[:, :, at], k, seen, scale).softmax(-1).double()
            tiles.append((1 / ((at + 1) * weights.square().sum(-1))).sum((0, 1)))
        total = torch.cat(tiles).cpu()
        self.by_position = total if self.by_position is None else self.by_position + total
        self.rows += q.shape[0] * q.shape[1]

    def means(self) -> Tensor:
        """`(T,)`, means over layers, heads and samples."""
        assert self.by_position is not None
        return self.by_position / self.rows


@dataclass
class Temperatures:
    """Gathers the temperatures of a model's projections while it runs.

    Attributes:
        tau: by projection, one tensor `(B, T)` a layer, means over heads.
        norm: the same, of the norm of the projection before any temperature.
    """

    tau: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    norm: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def of(self, model: HeadwayForCausalLM) -> Iterator[None]:
        """Gather while this is entered."""
        modules = [m for m in model.modules() if isinstance(m, SelectiveAttentionModule)]
        hooks = [
            m.get_submodule(target).register_forward_hook(self._see(target))
            for m in modules
            for target in m.targets
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _see(self, target: str) -> Any:
        def see(_module: Temperature, given: tuple[Any, ...], tau: Tensor) -> None:
            raw: Tensor = given[0]
            self.tau[target].append(tau.mean(1).double().cpu())
            self.norm[target].append(raw.double().square().sum((1, 3)).sqrt().cpu())

        return see

    def sharpening(self) -> Tensor:
        """`(L,)` or a 1, by how much temperatures sharpen scores: means over tokens, of queries
        times those of keys."""
        factors = [
            torch.stack([tau.mean() for tau in self.tau[target]])
            for target in ("query", "key")
            if target in self.tau
        ]
        return math.prod(factors, start=torch.ones((), dtype=torch.float64))

    def told(self, target: str, log_frequency: Tensor) -> dict[str, Any]:
        """Mean, spread, correlations, and means by frequency, over layers.

        Args:
            target: the projection.
            log_frequency: `(B, T)`, of each token.
        """
        tau, norm = torch.stack(self.tau[target]), torch.stack(self.norm[target])
        rank = log_frequency.flatten().argsort(stable=True)
        flat = tau.mean(0).flatten()[rank]
        return {
            "mean": float(tau.mean()),
            "deviation": float(tau.std(correction=0)),
            "with_norm": _mean_correlation(tau, norm),
            "with_frequency": _mean_correlation(tau, log_frequency.double().expand_as(tau)),
            "by_frequency": [float(part.mean()) for part in flat.tensor_split(BINS)],
        }


def _mean_correlation(x: Tensor, y: Tensor) -> float:
    """Mean over layers of Pearson's correlation over tokens, `(L, B, T)`; 0 where one is flat."""
    a, b = (t.flatten(1) - t.flatten(1).mean(1, keepdim=True) for t in (x, y))
    spread = (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-12)
    return float(((a * b).sum(1) / spread).mean())


def operator_norms(model: HeadwayForCausalLM) -> Tensor:
    """`(L,)`, the largest singular value of W_q W_k^T in each layer, mean over heads."""
    config, found = model.config, []
    dims = config.dims()
    for layer in model.model.layers:
        attention: Any = layer.self_attn
        q = attention.q_proj.weight.detach().double().unflatten(0, (-1, dims.head_dim))
        k = attention.k_proj.weight.detach().double().unflatten(0, (-1, dims.head_dim))
        k = k.repeat_interleave(len(q) // len(k), dim=0)
        found.append(torch.linalg.matrix_norm(q.transpose(1, 2) @ k, 2).mean())
    return torch.stack(found)
