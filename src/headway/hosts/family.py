"""What a family of hosts has to say, and the list of families."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from torch import nn
from transformers import AutoModelForMaskedLM

from headway.errors import HeadwayError
from headway.hosts.attention import HostAttention
from headway.hosts.layer import HostLayer
from headway.hosts.model import HostModel
from headway.mechanisms.base import Mechanism
from headway.pickling import reduce_by

FILES = ("llama", "gemma", "phi3", "gpt_neox", "gpt2", "opt", "bloom", "gpt_oss")
"""One module each in this package, with a `FAMILIES` tuple."""

Refusal = Callable[[Any, Mechanism], str | None]
"""From a configuration and a mechanism to the reason why it has no place there, or None."""


def _welcome(config: Any, mechanism: Mechanism) -> str | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Family:
    """How Headway meets one family of transformers' models.

    Attributes:
        name: for tables and messages.
        model_types: transformers' `config.model_type` values.
        attention: mixin for the attention class.
        layer: mixin for the layer class.
        model: mixin for the class of the stack.
        stack: path from the model with a head to the stack of layers.
        layers: name of the list of layers in the stack.
        attention_name: name of the attention in a layer.
        qk_norm: whether queries and keys are normed per head.
        always_layer: swap the layer class even where no mechanism reads over depth.
        refuses: why a mechanism has no place there.
    """

    name: str
    model_types: tuple[str, ...]
    attention: type[HostAttention]
    layer: type[HostLayer]
    model: type[HostModel] = HostModel
    stack: str = "model"
    layers: str = "layers"
    attention_name: str = "self_attn"
    qk_norm: bool = False
    always_layer: bool = False
    refuses: Refusal = _welcome

    def check(self, config: Any, mechanisms: Sequence[Mechanism]) -> None:
        """Raise HeadwayError where a mechanism has no place in this family."""
        for mechanism in mechanisms:
            reason = self.refuses(config, mechanism)
            if reason:
                raise HeadwayError(
                    f"mechanisms: {mechanism.name!r} has no place in {config.model_type!r}: "
                    f"{reason}"
                )


_registered: dict[str, Family] = {}


def register_family(family: Family) -> None:
    """Make a family known to `attach` and loading, in this process; see docs/add-a-host.md.

    One that was registered before under the same model type gives way.

    Raises:
        HeadwayError: no model type is named, or Headway has a family for one of them itself.
    """
    if not family.model_types:
        raise HeadwayError("model_types: it is empty; accepted is at least one model type")
    for model_type in family.model_types:
        if model_type in own_families():
            raise HeadwayError(
                f"model_types: {model_type!r} has a family in Headway itself; accepted are "
                "model types without one"
            )
    _registered.update(dict.fromkeys(family.model_types, family))


@cache
def own_families() -> dict[str, Family]:
    """The families that Headway itself has, by transformers' model type."""
    known: dict[str, Family] = {}
    for file in FILES:
        for family in import_module(f"headway.hosts.{file}").FAMILIES:
            known |= dict.fromkeys(family.model_types, family)
    return known


def families() -> dict[str, Family]:
    """All families by transformers' model type, those that were registered with them."""
    return own_families() | _registered


def family_of(config: Any) -> Family:
    """The family of a configuration.

    Raises:
        HeadwayError: it is not listed.
    """
    model_type = getattr(config, "model_type", None)
    if model_type not in families():
        raise HeadwayError(
            f"model_type: {model_type!r} is not a host that Headway knows; accepted are "
            f"{', '.join(sorted(families()))}; {_instead(config)}"
        )
    return families()[model_type]


def is_encoder(config: Any) -> bool:
    """Whether each token sees those after it, as in BERT unless its `is_decoder` is true."""
    decodes = getattr(config, "is_decoder", getattr(config, "causal", False))
    if decodes or getattr(config, "is_encoder_decoder", False):
        return False
    return type(config) in AutoModelForMaskedLM._model_mapping


def _instead(config: Any) -> str:
    """What to do with a model type without a family."""
    if getattr(config, "model_type", None) == "headway":
        return "our own decoder takes mechanisms in its HeadwayConfig(mechanisms=[...])"
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder, and hosts are decoders"
    if is_encoder(config):
        return "it is an encoder, and hosts are decoders"
    return "docs/add-a-host.md shows how to add one"


BORROWED = ("apply_rotary_pos_emb", "eager_attention_forward", "dropout_add")


@cache
def host_class(mixin: type[nn.Module], original: type[nn.Module]) -> type[nn.Module]:
    """`original` with `mixin` before it, under the same name.

    Libraries look classes up by name (`_no_split_modules`, pipelines, FSDP's wrapping), so the
    class made here keeps it.
    """
    space = vars(sys.modules[original.__module__])
    body: dict[str, Any] = {n: staticmethod(space[n]) for n in BORROWED if n in space}
    body["__module__"], body["__qualname__"] = original.__module__, original.__qualname__
    body["original_class"] = original
    body["__reduce_ex__"] = reduce_by(host_class, mixin, original)
    if issubclass(mixin, HostModel):
        forward: Any = original.forward
        code = getattr(forward, "__wrapped__", forward)
        while hasattr(code, "__wrapped__"):
            code = code.__wrapped__
        body["input_names"] = code.__code__.co_varnames[1 : code.__code__.co_argcount]
    made: Any = type(original)
    return made(original.__name__, (mixin, original), body)
