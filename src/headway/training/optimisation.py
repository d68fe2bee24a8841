"""How `headway train` optimises: groups of parameters, and schedules by transformers' names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from headway.mechanisms.base import Learned
from headway_train_settings import TrainSettings

FLOOR = 0.1
"""Share of the peak at which both schedules end."""


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


def clip_gradients(model: nn.Module, largest: float) -> Tensor:
    """Clip to a global norm over all meshes; the norm before.

    torch's own function takes gradients of one mesh only.
    """
    meshes: dict[Any, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.grad is not None:
            meshes.setdefault(mesh_of(parameter), []).append(parameter)
    norms = []
    for listed in meshes.values():
        norm = get_total_norm([p.grad for p in listed if p.grad is not None])
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    for listed in meshes.values():
        clip_grads_with_norm_(listed, largest, total)
    return total


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
