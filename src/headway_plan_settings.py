"""What `headway plan` is asked: plain data, importable in milliseconds, as `headway_settings`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from headway_help import own_default

EFFICIENCY = 0.74
"""Share of the peak operations that matrix products reach: a profile of the 124M step on one H200
has 21.6 TFLOP in 29.6 ms (`benchmarks/RESULTS.md`, 'train')."""


CONTEXT = 4096
"""Tokens a sequence, unless a model has fewer positions."""


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """Tell memory and time of a training run before it is started."""

    shapes: tuple[str, ...]
    """Models: 124m, 350m, 1b, 3b, 8b, 13b, 34b, 70b, or a folder with a config.json."""
    gpus: tuple[int, ...] = (8,)
    """GPUs in all; a table has a row for each model and number."""
    gpu: Literal["a100", "h100", "h200", "b200"] = "h200"
    """Of what kind, as the data sheets describe them."""
    gpus_a_node: int = 8
    """GPUs that are linked with each other."""
    network: float = 50.0
    """Gigabytes a second of each GPU to other nodes, in one direction (50 is 400 Gb/s)."""
    sharding: Literal["auto", "none", "fsdp", "hsdp"] = "auto"
    """A whole model a GPU (DDP), one sharded over all (FSDP2), or over each node (HSDP); auto takes
    the first that fits and is within 5 % of the quickest."""
    tensor_parallel: int = 1
    """GPUs of a node that share the heads and the feed-forward width of each layer."""
    activation_checkpointing: Literal["auto", "yes", "no"] = "auto"
    """Compute layers again in the backward pass; auto where it is needed to fit."""
    context: Annotated[int | None, own_default()] = None
    """Tokens a sequence (default: 4096, or as many as the positions of a folder's model where those
    are fewer)."""
    batch_size: int = 256
    """Sequences a step, of all GPUs: a multiple of their number, or fewer for one on each."""
    micro_batch_size: Annotated[int | None, own_default()] = None
    """Sequences that a GPU computes at a time, a divisor of its share of a step (default: the
    quickest that fits)."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """Of weights, gradients and moments of AdamW; the forward pass is in bfloat16."""
    mechanisms: str = "vanilla"
    """Presets joined by '+'."""
    efficiency: float = EFFICIENCY
    """Share of the peak operations that matrix products reach; attention keeps its measured
    proportion to it."""
    format: Literal["table", "markdown", "json"] = "table"
    """What to print on standard output."""
