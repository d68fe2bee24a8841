"""A training run on many GPUs: memory of each, and time of a step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from headway.decoder import HeadwayConfig
from headway.errors import HeadwayError
from headway.planning.activations import kept_compiled, moved
from headway.planning.counts import Parameters, count_parameters, flops_a_token
from headway.planning.devices import Device
from headway.training.sharding import UNIT_PARAMETERS
from headway_plan_settings import EFFICIENCY

Sharding = Literal["none", "fsdp", "hsdp"]
"""A whole model on each GPU (DDP); one sharded over all (FSDP2); or sharded within a node and
copied to the others (HSDP)."""

ACTIVATION = 2
"""Bytes of a number of the forward pass, bfloat16."""
MOMENTS = 2
"""Of AdamW, of each parameter, in its dtype."""
ATTENTION = 0.37
"""Share that attention, its causal half, reaches of what matrix products do: in the profile that
`EFFICIENCY` is of, 3.71 TFLOP in 13.8 ms beside 21.6 in 29.6."""
UPDATE = 10
"""Numbers of each parameter that an update moves: AdamW reads weight, gradient and moments and
writes all but the gradient (7); clipping reads the gradient twice and writes it (3)."""
CLOSE = 0.95
"""Of the quickest plan's speed: nearer ones a plan cannot tell apart, as what sharding costs beside
communication is not in it (1.5 to 3.5 % of a step were measured, on two GPUs)."""
SPARE = 0.95
"""Share of a GPU's memory that a plan may fill: the rest is the context, the libraries' workspaces
and what the allocator cannot join."""
GATHERED = 2
"""Units that stand whole at once where a model is sharded: one computes, the next one arrives."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What computes.

    Attributes:
        device: each GPU.
        gpus: in all.
        node: GPUs that are linked.
        network: between nodes, bytes a second of each GPU in one direction.
        efficiency: share of the peak operations that matrix products reach.
        attention: share that attention, its causal half, reaches of what they do.
        wire: share of links and network that collective operations reach.
    """

    device: Device
    gpus: int
    node: int = 8
    network: float = 50e9
    efficiency: float = EFFICIENCY
    attention: float = ATTENTION
    wire: float = 0.8

    def gather_seconds(self, size: float, gpus: int, near: int) -> float:
        """Of an all-gather (or a reduce-scatter) of `size` bytes over `gpus` of them.

        Each node takes what it lacks through the network of its GPUs, each GPU what it lacks
        through its link; both at once, so that the slower one counts.

        Args:
            size: bytes of the whole.
            gpus: that take part.
            near: of them in one node, at most.
        """
        near = min(near, gpus)
        nodes = math.ceil(gpus / near)
        link = size * (gpus - 1) / gpus / self.device.link if near > 1 else 0.0
        network = size * (nodes - 1) / nodes / (near * self.network)
        return max(link, network) / self.wire


@dataclass(frozen=True, kw_only=True)
class Work:
    """How a run is shared out.

    Attributes:
        context: tokens a sequence.
        micro_batch_size: sequences that a GPU computes at a time.
        accumulation: of them, before an optimiser step.
        sharding: of the model.
        tensor_parallel: GPUs of a node that share the heads and feed-forward width of each layer.
        checkpointing: layers are computed again in the backward pass.
        weights: bytes of a number of weights, gradients and moments: 4, which the forward pass
            casts to bfloat16, or 2.
    """

    context: int
    micro_batch_size: int
    accumulation: int = 1
    sharding: Sharding = "none"
    tensor_parallel: int = 1
    checkpointing: bool = False
    weights: int = 4


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one GPU at the peak of a step.

    Attributes:
        weights: with the copies that the forward pass computes with.
        gradients: of all that the GPU holds.
        moments: of AdamW.
        activations: that wait for the backward pass, and what passes through its first layer.
        adding: whether gradients of several batches add up, so that they lie there all the time;
            else they come as activations go.
    """

    weights: float
    gradients: float
    moments: float
    activations: float
    adding: bool

    @property
    def total(self) -> float:
        """Of all at the peak."""
        passing = (self.gradients, self.activations)
        return self.weights + self.moments + (sum(passing) if self.adding else max(passing))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be expected.

    Attributes:
        parameters: of the model.
        work: as planned.
        memory: of one GPU.
        fits: whether the GPU holds it.
        compute: seconds of a step, in arithmetic and in passes over the GPU's memory.
        hidden: seconds of communication that goes on beside it.
        exposed: seconds of communication that it waits for.
        tokens: of a step, of all GPUs.
    """

    parameters: int
    work: Work
    memory: Memory
    fits: bool
    compute: float
    hidden: float
    exposed: float
    tokens: int

    @property
    def step(self) -> float:
        """Seconds."""
        return max(self.compute, self.hidden) + self.exposed

    @property
    def tokens_a_second(self) -> float:
        """Of all GPUs."""
        return self.tokens / self.step


def estimate(
    config: HeadwayConfig, cluster: Cluster, work: Work, counted: Parameters | None = None
) -> Plan:
    """Memory and time of a compiled training step with AdamW.

    Args:
        config: of the model.
        cluster: that computes.
        work: and how.
        counted: the parameters, where they are known.

    Raises:
        HeadwayError: the GPUs cannot be shared out so, or what the model keeps is not known.
    """
    _check(config, cluster, work)
    counted = counted or count_parameters(config)
    shares = cluster.gpus // work.tensor_parallel
    tokens = work.context * work.micro_batch_size
    memory = _memory(config, counted, cluster, work)
    hidden, exposed = _communication(config, counted, cluster, work)
    return Plan(
        parameters=counted.total,
        work=work,
        memory=memory,
        fits=memory.total <= SPARE * cluster.device.memory,
        compute=_compute(config, counted, cluster, work),
        hidden=hidden,
        exposed=exposed,
        tokens=tokens * work.accumulation * shares,
    )


def best(
    config: HeadwayConfig,
    cluster: Cluster,
    work: Work,
    shardings: tuple[Sharding, ...],
    checkpointing: tuple[bool, ...],
    sequences: int,
    micro_batch_size: int | None = None,
) -> Plan:
    """The simplest of the quickest plans that fit, for steps of `sequences`; the smallest where
    none does.

    Args:
        config: of the model.
        cluster: that computes.
        work: all that is not chosen here.
        shardings, checkpointing: to choose from.
        sequences: of a step, of all GPUs, or fewer for one on each; `accumulation` follows.
        micro_batch_size: or None, to choose it.

    Raises:
        HeadwayError: the GPUs or the sequences cannot be shared out so.
    """
    _check(config, cluster, work)
    part = _part(cluster, work, sequences, micro_batch_size)
    found, counted = [], count_parameters(config)
    for sharding in shardings:
        for again in checkpointing:
            for micro in _divisors(part) if micro_batch_size is None else (micro_batch_size,):
                chosen = replace(
                    work,
                    sharding=sharding,
                    checkpointing=again,
                    micro_batch_size=micro,
                    accumulation=part // micro,
                )
                found.append(estimate(config, cluster, chosen, counted))
    fitting = [plan for plan in found if plan.fits]
    if not fitting:
        return min(found, key=lambda plan: plan.memory.total)
    quickest = max(plan.tokens_a_second for plan in fitting)
    # The first: of the simplest sharding, with the largest batch at a time.
    return next(plan for plan in fitting if plan.tokens_a_second >= CLOSE * quickest)


def _part(cluster: Cluster, work: Work, sequences: int, micro_batch_size: int | None) -> int:
    """Sequences of a step that each GPU computes, or each group that shares layers."""
    shares = cluster.gpus // work.tensor_parallel
    those = "GPUs" if work.tensor_parallel == 1 else f"groups of {work.tensor_parallel} GPUs"
    if sequences > shares and sequences % shares:
        raise HeadwayError(
            f"batch_size: {sequences} sequences cannot be shared out evenly to {shares} {those}; "
            f"accepted are multiples of {shares}, or fewer for one on each"
        )
    part = max(1, sequences // shares)
    if micro_batch_size is not None and part % micro_batch_size:
        raise HeadwayError(
            f"micro_batch_size: {micro_batch_size} does not divide the {part} sequence(s) that "
            f"each of {shares} {those} computes of a batch of {sequences}; accepted are divisors "
            f"of {part}"
        )
    return part


def _divisors(number: int) -> list[int]:
    """The largest first."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)}, reverse=True)


def _memory(config: HeadwayConfig, counted: Parameters, cluster: Cluster, work: Work) -> Memory:
    layers = sum(counted.layers) / work.tensor_parallel
    rest = counted.total - sum(counted.layers)
    held, group = layers + rest, _group(cluster, work)
    kept = kept_compiled(config, ACTIVATION, work.checkpointing, work.tensor_parallel)
    activations = kept.peak(work.context * work.micro_batch_size, config.num_hidden_layers)
    weights = work.weights * held / group
    casts = work.weights > ACTIVATION
    if group > 1:
        # Gathered in the dtype of the forward pass: embedding and head, and some layers.
        unit = _unit(counted, work)
        weights += ACTIVATION * (rest + min(GATHERED * unit, layers))
        # Gradients of a unit, before they are scattered.
        activations += ACTIVATION * max(unit, rest)
    elif casts:
        # Autocast's copies wait for the backward pass with the activations.
        weights += ACTIVATION * (max(counted.layers) if work.checkpointing else held)
    return Memory(
        weights=weights,
        gradients=work.weights * held / group,
        moments=MOMENTS * work.weights * held / group,
        activations=activations,
        adding=work.accumulation > 1,
    )


def _unit(counted: Parameters, work: Work) -> float:
    """Parameters that are gathered together: those of a layer, or of several small ones."""
    layer = max(counted.layers)
    together = layer * math.ceil(UNIT_PARAMETERS / layer)
    return min(together, sum(counted.layers)) / work.tensor_parallel


def _compute(config: HeadwayConfig, counted: Parameters, cluster: Cluster, work: Work) -> float:
    """Seconds of a step, in matrix products, in attention and in what waits for memory alone."""
    bandwidth, parallel = cluster.device.bandwidth, work.tensor_parallel
    flops = flops_a_token(config, work.context, counted)
    rate = cluster.device.flops * cluster.efficiency * parallel
    passes = config.num_hidden_layers * moved(config, ACTIVATION, work.weights, parallel)
    a_token = (flops.products + flops.attention / cluster.attention) / rate + passes / bandwidth
    a_token *= 4 / 3 if work.checkpointing else 1
    # For each batch weights are cast, or copied from where they are gathered, and gradients back.
    casts = 2 * (ACTIVATION + work.weights) if work.weights > ACTIVATION else 0
    weights = casts * work.accumulation + UPDATE * work.weights / _group(cluster, work)
    held = sum(counted.layers) / parallel + counted.total - sum(counted.layers)
    tokens = work.context * work.micro_batch_size * work.accumulation
    return tokens * a_token + weights * held / bandwidth


def _communication(
    config: HeadwayConfig, counted: Parameters, cluster: Cluster, work: Work
) -> tuple[float, float]:
    """Seconds of a step: beside the arithmetic, and before it can go on."""
    layers = sum(counted.layers) / work.tensor_parallel
    rest = counted.total - sum(counted.layers)
    held, group = layers + rest, _group(cluster, work)
    shares, steps = cluster.gpus // work.tensor_parallel, work.accumulation
    near = max(1, cluster.node // work.tensor_parallel)
    hidden = exposed = 0.0
    if group > 1:
        # Weights are gathered for the forward and for the backward pass, gradients scattered; the
        # first unit's have nothing to hide behind.
        first = rest + _unit(counted, work)
        hidden += 3 * steps * cluster.gather_seconds(ACTIVATION * held, group, near)
        exposed += steps * cluster.gather_seconds(ACTIVATION * first, group, near)
    if shares > group:
        # Gradients are summed once a step: a reduce-scatter and an all-gather, over all GPUs or,
        # of each one's part, over the copies, one a node.
        size = (ACTIVATION if group > 1 else work.weights) * held / group
        hidden += 2 * cluster.gather_seconds(size, shares // group, near if group == 1 else 1)
    if work.tensor_parallel > 1:
        # Two sums a layer in each direction (arXiv 1909.08053, section 3), twice the first where
        # layers are computed again.
        passes = 3 if work.checkpointing else 2
        size = ACTIVATION * work.context * work.micro_batch_size * config.hidden_size
        once = 2 * cluster.gather_seconds(size, work.tensor_parallel, cluster.node)
        exposed += steps * passes * 2 * config.num_hidden_layers * once
    return hidden, exposed


def _group(cluster: Cluster, work: Work) -> int:
    """GPUs that hold one copy of the optimiser's state, tensor parallelism apart."""
    shares = cluster.gpus // work.tensor_parallel
    match work.sharding:
        case "none":
            return 1
        case "hsdp":
            return min(shares, max(1, cluster.node // work.tensor_parallel))
        case _:
            return shares


def _check(config: HeadwayConfig, cluster: Cluster, work: Work) -> None:
    for name, value in (("gpus", cluster.gpus), ("gpus_a_node", cluster.node)):
        if value < 1:
            raise HeadwayError(f"{name}: {value} is too small; accepted are 1 and more")
    if cluster.gpus > cluster.node and cluster.gpus % cluster.node:
        raise HeadwayError(
            f"gpus: {cluster.gpus} are no whole nodes of {cluster.node}; accepted are multiples "
            "of it, or fewer"
        )
    parallel, dims = work.tensor_parallel, config.dims()
    for name, whole in (
        ("the GPUs of a node", min(cluster.gpus, cluster.node)),
        ("the key-value heads", dims.num_key_value_heads),
        ("the feed-forward width", config.intermediate_size or 1),
    ):
        if parallel < 1 or whole % parallel:
            raise HeadwayError(
                f"tensor_parallel: {parallel} does not divide {name}, {whole}; accepted are its "
                "divisors"
            )
