"""Where a model's attentions are: names, layers, output projections, learned sinks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from headway.decoder import HeadwayModel
from headway.decoder.block import Depth
from headway.decoder.observer import Attending, Observer
from headway.errors import HeadwayError
from headway.mechanisms.compose import AttentionMechanisms
from headway.mechanisms.layer_shortcut import ShortcutAttention
from headway.mechanisms.sink_logit import SinkLogitModule
from headway.waiver.watch import run, stack_of, watching

OUTPUT_NAMES = ("o_proj", "out_proj", "c_proj", "dense", "wo", "out_lin")
"""Names that models give to the projection behind attention."""


@dataclass(frozen=True)
class Site:
    """One attention of a model.

    A pass runs the attentions of a model in the same order each time, so the place in the list is
    what an observer knows one by.

    Attributes:
        name: of the module, from the model's stack; a module that attends several times gets a
            number.
        layer: the module whose output is the hidden state after it.
        projection: `(H D, C)`, from the heads' outputs to the residual stream, or None where no
            projection was found.
        sink: our learned sink, which acts behind attention, or None.
    """

    name: str
    layer: nn.Module
    projection: Tensor | None
    sink: SinkLogitModule | None


def sites_of(model: nn.Module, input_ids: Tensor) -> list[Site]:
    """The attentions of `model`, in the order in which they run.

    Args:
        model: see `stack_of`.
        input_ids: `(B, T)`; two tokens of one row are tried.

    Raises:
        HeadwayError: the model has no attention that can be observed.
    """
    stack = stack_of(model)
    seen: list[Attending] = []
    with watching(model, Observer(see=seen.append)):
        run(stack, input_ids[:1, :2].to(stack.device))
    if not seen:
        raise HeadwayError(
            f"model: no attention was observed in {type(stack).__name__} "
            f"({stack.config.model_type}); accepted are models with softmax attention"
        )
    names = {id(module): name for name, module in stack.named_modules()}
    sites: list[Site] = []
    for attending in seen:
        site = _site(stack, names, attending)
        twins = sum(site.name == other.name.partition("#")[0] for other in sites)
        sites.append(replace(site, name=f"{site.name}#{twins + 1}") if twins else site)
    return sites


def hidden_of(output: Any) -> Tensor:
    """The hidden states `(B, T, C)` in what a layer gives."""
    if isinstance(output, Tensor):
        return output
    first = output[0]
    return first.hidden if isinstance(first, Depth) else hidden_of(first)


def _site(stack: Any, names: dict[int, str], attending: Attending) -> Site:
    if isinstance(stack, HeadwayModel):
        return _own_site(stack, attending)
    name = names[id(attending.module)]
    projection = _projection(stack, name)
    heads = attending.scores.q.shape[1] * attending.v.shape[-1]
    if projection is not None and projection.shape[0] != heads:
        projection = None
    parts = getattr(attending.module, "headway", None)
    mechanisms = getattr(parts, "mechanisms", None)
    return Site(name, _layer(stack, name), projection, _sink(mechanisms))


def _own_site(stack: HeadwayModel, attending: Attending) -> Site:
    slot, last = attending.slot, len(stack.layers) - 1
    assert slot is not None
    layer: Any = stack.layers[min(slot, last)]
    attention = layer.self_attn
    if slot > last or isinstance(attention, ShortcutAttention):
        return Site(f"layers.{last}.shortcut", layer, None, None)
    weight = attention.o_proj.weight.T
    return Site(f"layers.{slot}.self_attn", layer, weight, _sink(attention.mechanisms))


def _layer(stack: nn.Module, name: str) -> nn.Module:
    """The member of a list of layers that holds the attention, or the attention itself."""
    words = name.split(".")
    for end in range(1, len(words) + 1):
        if isinstance(stack.get_submodule(".".join(words[: end - 1])), nn.ModuleList):
            return stack.get_submodule(".".join(words[:end]))
    return stack.get_submodule(name)


def _projection(stack: nn.Module, name: str) -> Tensor | None:
    """`(H D, C)`; BERT keeps it beside the attention, in the parent's `output`."""
    attention = stack.get_submodule(name)
    parent = stack.get_submodule(name.rpartition(".")[0]) if "." in name else stack
    for owner in (attention, getattr(parent, "output", None)):
        for word in OUTPUT_NAMES:
            found = getattr(owner, word, None)
            weight = getattr(found, "weight", None)
            if isinstance(weight, Tensor) and weight.dim() == 2 and weight.is_floating_point():
                # Conv1D of GPT-2 stores inputs first, Linear stores outputs first.
                return weight if type(found).__name__ == "Conv1D" else weight.T
    return None


def _sink(mechanisms: Any) -> SinkLogitModule | None:
    if not isinstance(mechanisms, AttentionMechanisms):
        return None
    found = [m for m in mechanisms.members.values() if isinstance(m, SinkLogitModule)]
    return found[0] if found else None


def with_sink(site: Site, lse: Tensor) -> Tensor:
    """The log-sum-exp `(B, H, T)` that a row's weights are taken with, our sink included."""
    if site.sink is None:
        return lse
    logit = (
        site.sink.logit if site.sink.spec.learned else torch.zeros(lse.shape[1], device=lse.device)
    )
    return torch.logaddexp(lse, logit.to(lse)[:, None].expand_as(lse))
