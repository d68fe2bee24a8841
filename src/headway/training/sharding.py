"""Which parts of a model are sharded over processes: the policy; torch and transformers do it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from headway.decoder import HeadwayForCausalLM
from headway.decoder.tensor_parallel import share_out
from headway.training.processes import Processes
from headway_train_settings import TrainSettings

UNIT_PARAMETERS = 2**25
"""That a unit has at least. Each takes the host some milliseconds a step, however small it is, and
a GPU would wait for that."""


def shard(
    model: nn.Module, settings: TrainSettings, processes: Processes, device: torch.device
) -> nn.Module:
    """Shard a model in place, on its device.

    A unit is a layer, or several small ones, and the rest: streams and depth reads, which cross
    layers, are activations and pass between units as they are.

    Args:
        model: on the CPU, the same in every process.
        settings: of the run.
        processes: that there are.
        device: of this process.
    """
    mesh = _mesh(settings, processes, device)
    if settings.tensor_parallel > 1:
        share_out(cast(HeadwayForCausalLM, model.to(device)), mesh["tensor"])
    if settings.sharding == "none":
        return model
    mesh = mesh["replicate", "shard"] if settings.sharding == "hsdp" else mesh["shard"]
    policy = MixedPrecisionPolicy()
    if settings.dtype == "bfloat16":
        # Half of the bytes between GPUs; what is sharded, and sums of gradients, stay float32.
        # Inputs are left alone, or each layer would get copies of what layers share.
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    if settings.compile:
        compile_layers(model)
    for unit in units(_layers(model)):
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def units(layers: Sequence[nn.Module]) -> list[list[nn.Module]]:
    """Neighbouring layers that are gathered together, each with `UNIT_PARAMETERS` or more."""
    found: list[list[nn.Module]] = []
    size = UNIT_PARAMETERS
    for layer in layers:
        if size >= UNIT_PARAMETERS:
            found.append([])
            size = 0
        found[-1].append(layer)
        size += sum(parameter.numel() for parameter in layer.parameters())
    return found


def compile_layers(model: nn.Module) -> None:
    """Compile each layer by itself, in place: no graph crosses where weights are gathered."""
    for layer in _layers(model):
        layer.compile()


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Layers compiled one by one as they are without that: torch keeps few programs of a layer, and
    those of passes that are seldom would leave none to training.
    """
    programs = {layer: layer._compiled_call_impl for layer in _layers(model)}
    for layer in programs:
        layer._compiled_call_impl = None
    try:
        yield
    finally:
        for layer, program in programs.items():
            layer._compiled_call_impl = program


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """A sharded model with all its weights in every process, for who reads them beside a forward;
    any other model as it is.
    """
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            # The rest of the model is kept whole between passes anyway: all of it is needed again.
            module.set_reshard_after_forward(module is not model, recurse=False)
            module.reshard()


def _layers(model: nn.Module) -> list[nn.Module]:
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    # What is sharded has a class of its own, derived from the layer's.
    return [
        module
        for module in model.modules()
        if any(kind.__name__ in kinds for kind in type(module).__mro__)
    ]


def _mesh(settings: TrainSettings, processes: Processes, device: torch.device) -> DeviceMesh:
    copies = settings.replicas if settings.sharding == "hsdp" else 1
    shape = (copies, processes.shares // copies, settings.tensor_parallel)
    return init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard", "tensor"))
