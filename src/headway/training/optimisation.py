"""How `headway train` optimises: groups of parameters, and schedules by transformers' names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement
from torch.nn.utils import get_total_norm

from headway.mechanisms.base import Learned
from headway_train_settings import TrainSettings

FLOOR = 0.1
"""Share of the peak that both schedules reach after the last step."""


def adamw(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW (0.9, 0.95) over what is not frozen, in three groups (for each mesh that there is).

    Decayed are matrices; norms and biases are not, and neither is what mechanisms learn outside
    matrices, which has a rate of its own.
    """
    own = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, Learned)
        for parameter in module.parameters(recurse=False)
    }
    # One call updates a group, and takes tensors of one mesh only.
    groups: dict[tuple[str, Any], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = "matrices" if parameter.dim() > 1 else "vectors"
            kind = "mechanisms" if id(parameter) in own else kind
            groups.setdefault((kind, mesh_of(parameter)), []).append(parameter)
    apart = settings.mechanism_learning_rate or settings.learning_rate
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": apart if kind == "mechanisms" else settings.learning_rate,
                "weight_decay": settings.weight_decay if kind == "matrices" else 0.0,
            }
            for (kind, _), parameters in groups.items()
        ],
        betas=(0.9, 0.95),
        fused=next(model.parameters()).is_cuda,
    )


@torch.no_grad()
def clip_gradients(model: nn.Module, largest: float) -> Tensor:
    """Clip to a global norm over all meshes; the norm before.

    Each process adds up what it holds, so that sums cross processes once for all tensors that are
    shared out alike: torch's own function takes tensors of one mesh, and each through DTensor.
    """
    held: dict[Any, list[Tensor]] = {}
    for parameter in model.parameters():
        if (gradient := parameter.grad) is not None:
            alike = None
            if isinstance(gradient, DTensor):
                alike = gradient.device_mesh, gradient.placements
                gradient = gradient.to_local()
            held.setdefault(alike, []).append(gradient)
    squares = [_summed(get_total_norm(own).square(), alike) for alike, own in held.items()]
    total = torch.stack(squares).sum().sqrt()
    scale = (largest / (total + 1e-6)).clamp(max=1.0)
    for own in held.values():
        torch._foreach_mul_(own, scale)
    return total


def _summed(square: Tensor, alike: tuple[DeviceMesh, Sequence[Placement]] | None) -> Tensor:
    """A sum of squares over all processes that hold parts of what was squared."""
    if alike is None:
        return square
    mesh, placements = alike
    parts = [placement if placement.is_replicate() else Partial() for placement in placements]
    whole: Tensor = DTensor.from_local(square, mesh, parts, run_check=False).full_tensor()
    return whole


def mesh_of(tensor: Tensor) -> DeviceMesh | None:
    """Over which a tensor is distributed, or None."""
    return tensor.device_mesh if isinstance(tensor, DTensor) else None


def schedule(settings: TrainSettings) -> dict[str, Any]:
    """The arguments of `TrainingArguments` that say how the learning rate goes."""
    rise = round(settings.warmup * settings.steps)
    options: dict[str, Any]
    if settings.schedule == "cosine":
        kind, options = "cosine_with_min_lr", {"min_lr_rate": FLOOR}
    else:
        kind, options = "warmup_stable_decay", {"min_lr_ratio": FLOOR, "decay_type": "linear"}
        options["num_decay_steps"] = round(settings.decay * settings.steps)
    return {"lr_scheduler_type": kind, "lr_scheduler_kwargs": options, "warmup_steps": rise}
