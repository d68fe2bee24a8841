"""A decoder whose layers are shared out to several processes, heads by heads.

The plan is one of transformers, `HeadwayConfig.base_model_tp_plan`, and so are the styles of
matrices; what is added is the style of what mechanisms learn for each head, which goes where the
head goes. `from_pretrained` takes the plan as it is, to generate with a model that is shared out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor
from transformers.distributed import tensor_parallel
from transformers.distributed.tensor_parallel import TensorParallelLayer

from headway.decoder.attention import Attention
from headway.decoder.configuration import HeadwayConfig
from headway.decoder.model import HeadwayForCausalLM
from headway.errors import HeadwayError
from headway.mechanisms.compose import AttentionMechanisms, Norm
from headway.mechanisms.context import QKV, Context
from headway.mechanisms.selective_attention import Temperature

# transformers keeps them elsewhere today, where this name still leads.
STYLES: Any = tensor_parallel.__dict__["ALL_PARALLEL_STYLES"]

LAYER = "layers.*."
"""What names of the plan begin with that stand for the parts of a layer."""


def share_out(model: HeadwayForCausalLM, mesh: DeviceMesh) -> None:
    """Share the layers of a model out, in place; every process holds the same whole model before.

    Embedding and head stay whole, so that the loss can be computed without all logits.

    Args:
        model: our decoder.
        mesh: of one dimension.

    Raises:
        HeadwayError: heads or widths cannot be shared out evenly, or ALiBi, which has slopes of
            all heads.
    """
    check_shares(model.config, mesh.size())
    for layer in model.model.layers:
        # Attention over depth reads whole hidden states; a layer that it replaces keeps it whole.
        replaced = not isinstance(layer.self_attn, Attention)
        for rule_name, style in model.config.base_model_tp_plan.items():
            name = rule_name.removeprefix(LAYER)
            if name == rule_name or (replaced and name.startswith("self_attn")):
                continue
            try:
                module = layer.get_submodule(name)
            except AttributeError:
                continue  # a feed-forward part without a gate
            if module is None:
                continue
            rule: Any = STYLES[style]
            for parameter in [n for n, _ in module.named_parameters(recurse=False)]:
                rule.shard_param(module, parameter, mesh)
            rule.install_forward(module, mesh)


def check_shares(config: HeadwayConfig, processes: int) -> None:
    """Refuse a decoder that cannot be shared out.

    Raises:
        HeadwayError: see `share_out`.
    """
    for field in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        if getattr(config, field) % processes:
            raise HeadwayError(
                f"tensor_parallel: {processes} processes cannot share {field}="
                f"{getattr(config, field)} evenly; accepted are its divisors"
            )
    if config.position == "alibi":
        raise HeadwayError(
            "tensor_parallel: position='alibi' has slopes of all heads; accepted are rope, learned "
            "and none"
        )


class HeadsParallel(TensorParallelLayer):
    """An attention that computes some of the heads, with what mechanisms learn for them.

    A tensor with a dimension of heads is sharded along it; any other is whole in every process,
    where its gradient comes from the local heads alone and is summed.
    """

    def install_forward(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        """Build the mechanisms of the local heads, and let the forward see local tensors."""
        if not isinstance(module, Attention):
            raise HeadwayError(
                "tp_plan: layer_shortcut with mode='replace' is not accepted; accepted is "
                "mode='add', or training it with --tensor-parallel"
            )
        module.mechanisms = _local_mechanisms(module.mechanisms, module.built_for, mesh)
        module.fused = None
        for norm in (module.q_norm, module.k_norm):
            if norm is not None:
                norm.weight = nn.Parameter(distribute_tensor(norm.weight, mesh, [Replicate()]))
        installed: nn.Module = super().install_forward(module, mesh)
        return installed

    @contextmanager
    def context_around_forward(self, module: nn.Module, mesh: DeviceMesh) -> Iterator[None]:
        """Local tensors in the place of distributed ones, but in the projections."""
        replaced: list[tuple[nn.Module, str, Any]] = []
        parts = [p for n, p in module.named_children() if n in ("mechanisms", "q_norm", "k_norm")]
        for part in (inner for p in parts for inner in p.modules()):
            for name, parameter in list(part._parameters.items()):
                if isinstance(parameter, DTensor):
                    replaced.append((part, name, parameter))
                    slot: dict[str, Any] = part._parameters
                    slot[name] = _local(parameter, mesh)
        try:
            yield
        finally:
            for part, name, parameter in replaced:
                part._parameters[name] = parameter


class LocalMechanisms(AttentionMechanisms):
    """Those of a process's heads. What they read of hidden states gets a gradient from these heads
    alone, and all of them are summed; projections do that themselves.

    Attributes:
        group: of the processes that share the heads.
    """

    group: dist.ProcessGroup

    def prologue(
        self, qkv: QKV, ctx: Context, q_norm: Norm | None = None, k_norm: Norm | None = None
    ) -> QKV:
        """As of all heads."""
        return super().prologue(qkv, self._summed(ctx), q_norm, k_norm)

    def epilogue(self, out: Tensor, lse: Tensor | None, ctx: Context) -> Tensor:
        """As of all heads."""
        return super().epilogue(out, lse, self._summed(ctx))

    def _summed(self, ctx: Context) -> Context:
        assert ctx.hidden is not None
        return replace(ctx, hidden=_SumOfGradients.apply(ctx.hidden, self.group))


def _local_mechanisms(
    whole: AttentionMechanisms, built_for: tuple[Any, ...], mesh: DeviceMesh
) -> AttentionMechanisms:
    """The mechanisms of a process's heads; which dimension is one of heads, their sizes tell."""
    mechanisms, dims, layer_idx = built_for
    share = replace(
        dims,
        num_attention_heads=dims.num_attention_heads // mesh.size(),
        num_key_value_heads=dims.num_key_value_heads // mesh.size(),
    )
    local = LocalMechanisms(mechanisms, share, layer_idx)
    local.group = mesh.get_group()
    for module in local.modules():
        if isinstance(module, Temperature):
            module.across = lambda score: _SumOfBoth.apply(score, local.group)
    values = dict(whole.named_parameters())
    for name, parameter in list(local.named_parameters()):
        value = values[name]
        placement: Placement = Replicate()
        for dim, (all_heads, some) in enumerate(zip(value.shape, parameter.shape, strict=True)):
            if all_heads != some:
                placement = Shard(dim)
        path, _, last = name.rpartition(".")
        owner = local.get_submodule(path)
        shared = distribute_tensor(value.detach(), mesh, [placement], src_data_rank=None)
        owner.register_parameter(last, nn.Parameter(shared, value.requires_grad))
    return local


def _local(parameter: DTensor, mesh: DeviceMesh) -> Tensor:
    local: Tensor = parameter.to_local()
    if parameter.placements[-1].is_replicate():
        local = _SumOfGradients.apply(local, mesh.get_group())
    return local


class _SumOfBoth(torch.autograd.Function):
    """The sum over all processes, forward and backward: each goes on with it for its own heads."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _all_reduced(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _all_reduced(gradients[0], ctx.group), None


class _SumOfGradients(torch.autograd.Function):
    """Nothing forward; backward the sum over all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _all_reduced(gradients[0], ctx.group), None


def _all_reduced(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    total = x.contiguous().clone()
    dist.all_reduce(total, group=group)
    return total
