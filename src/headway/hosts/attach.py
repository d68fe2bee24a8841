"""Put mechanisms into a model of transformers, in place, and take them out again."""

import copy
import warnings
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, TypeVar, cast

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel

from headway.errors import HeadwayError
from headway.hosts.family import Family, family_of, host_class
from headway.hosts.model import HostForCausalLM
from headway.hosts.parts import PART, AttentionParts, LayerParts, ModelParts, settle
from headway.mechanisms.base import Dims, Learned, Mechanism, Place
from headway.mechanisms.compose import check_list
from headway.mechanisms.sizes import CONFIG_FIELD, dims_of, mechanisms_of

Model = TypeVar("Model", bound=nn.Module)


def attach(model: Model, mechanisms: Iterable[Mechanism]) -> Model:
    """Put mechanisms into a causal language model of transformers, in place.

    The model keeps its class name, its parameters and their names; new parameters stand in
    submodules called `headway`. With identity initialisation the logits stay as they are.

    Args:
        model: such as `AutoModelForCausalLM.from_pretrained` gives, or a peft model around one.
        mechanisms: in the order in which they act.

    Returns:
        The same model.

    Raises:
        HeadwayError: an unknown family, a mechanism without a place in it, a model that has
            mechanisms already, or one that was compiled. The model is then as it was.
    """
    host = bare(model)
    if isinstance(host, HostForCausalLM):
        names = ", ".join(m.name for m in attached(model))
        raise HeadwayError(
            f"model: it has mechanisms already ({names}); detach(model) first, and attach one list"
        )
    if torch.is_inference_mode_enabled():
        raise HeadwayError(
            "attach: new parameters made under torch.inference_mode() cannot be trained or saved; "
            "accepted is to attach outside of it"
        )
    listed = _listed(mechanisms)
    check_fit(host.config, listed)
    install(host, listed)
    moving = [m for m in listed if not m.starts_as_identity]
    if moving:
        warnings.warn(_change(moving), UserWarning, stacklevel=2)
    return model


def _change(moving: Sequence[Mechanism]) -> str:
    """What to know of mechanisms that do not start as the identity."""
    told = [
        f"the logits change at once, as {', '.join(m.name for m in moving)} start(s) away from the "
        "identity"
    ]
    for mechanism in moving:
        options = mechanism.identity_options()
        if options:
            written = ", ".join(f"{name}={value!r}" for name, value in options.items())
            told.append(f"{mechanism.name} starts there with {written}")
    return "; ".join(told)


def _listed(mechanisms: Any) -> list[Mechanism]:
    """Read once, as it may be a generator."""
    if isinstance(mechanisms, str) or not isinstance(mechanisms, Iterable):
        raise HeadwayError(
            f"mechanisms: a {type(mechanisms).__name__} is no list; accepted is a list, as in "
            "[KVShift()]"
        )
    return list(mechanisms)


def detach(model: Model) -> Model:
    """Take the mechanisms out again: the very model from before, with its weights of now.

    Its configuration stays the copy that attaching made, without the mechanisms: what was changed
    meanwhile, such as the size of the vocabulary, holds on.

    Raises:
        HeadwayError: there is nothing attached.
    """
    host = attached_host(model)
    for module in list(host.modules()):
        if isinstance(getattr(module, PART, None), (AttentionParts, LayerParts, ModelParts)):
            delattr(module, PART)
        original = getattr(type(module), "original_class", None)
        if original is not None:
            _change_class(module, original)
    delattr(host.config, CONFIG_FIELD)
    return model


def attached(model: nn.Module) -> list[Mechanism]:
    """The mechanisms in a model, or an empty list."""
    host = bare(model)
    return mechanisms_of(host.config) if isinstance(host, HostForCausalLM) else []


def mechanism_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that attaching added, for optimizers and for freezing the rest."""
    for name, parameter in attached_host(model).named_parameters():
        if belongs_to_headway(name):
            yield name, parameter


def belongs_to_headway(name: str) -> bool:
    """Whether a name in a state dict is one that attaching added."""
    return PART in name.split(".")


def check_fit(config: Any, mechanisms: Sequence[Mechanism]) -> tuple[Family, Dims]:
    """The family and sizes of a configuration, once it is clear that the mechanisms fit.

    Raises:
        HeadwayError: they do not.
    """
    family = family_of(config)
    dims = dims_of(config, family.qk_norm)
    if not mechanisms:
        raise HeadwayError("mechanisms: the list is empty; accepted is at least one mechanism")
    check_list(mechanisms, dims)
    family.check(config, mechanisms)
    return family, dims


def bare(model: nn.Module) -> PreTrainedModel:
    """The model of transformers itself, also inside a peft model.

    Raises:
        HeadwayError: it is none, or was compiled.
    """
    compiled = isinstance(model, torch._dynamo.OptimizedModule)
    if compiled or getattr(model, "_compiled_call_impl", None) is not None:
        raise HeadwayError(
            "model: it was compiled, and a compiled model keeps the attention it was compiled "
            "with; attach first and compile then"
        )
    if not isinstance(model, PreTrainedModel) and hasattr(model, "get_base_model"):
        model = cast(Any, model).get_base_model()
    if not isinstance(model, PreTrainedModel) or not isinstance(model, GenerationMixin):
        raise HeadwayError(
            f"model: a {type(model).__name__} is not accepted; accepted are causal language "
            "models of transformers"
        )
    return model


def attached_host(model: nn.Module) -> PreTrainedModel:
    """The same, where mechanisms are attached.

    Raises:
        HeadwayError: none are.
    """
    host = bare(model)
    if not isinstance(host, HostForCausalLM):
        raise HeadwayError("model: no mechanisms are attached; attach(model, [...]) first")
    return cast(PreTrainedModel, host)


def install(host: PreTrainedModel, mechanisms: Sequence[Mechanism]) -> None:
    """Put a checked list in, and into the model's configuration."""
    build_in(host, mechanisms)
    _own_config(host)
    setattr(host.config, CONFIG_FIELD, [m.to_dict() for m in mechanisms])


def _own_config(host: PreTrainedModel) -> None:
    """Give a model a copy of its configuration, as other models may be made from the same one.

    Caches are built from `model.config` alone, so the mechanisms have to stand in it.
    """
    copies: dict[int, Any] = {}
    copy.deepcopy(host.config, copies)
    for module in host.modules():
        # Layers hold on to it, or to a part of it.
        known = copies.get(id(vars(module).get("config")))
        if known is not None:
            vars(module)["config"] = known


def build_in(host: PreTrainedModel, mechanisms: Sequence[Mechanism]) -> None:
    """Build what a checked list needs and change the classes of the modules that take part."""
    family, dims = check_fit(host.config, mechanisms)
    try:
        stack = attrgetter(family.stack)(host)
    except AttributeError as error:
        raise HeadwayError(
            f"model: a {type(host).__name__} has no {family.stack!r}, where {family.name} keeps "
            "its layers; accepted are causal language models"
        ) from error
    in_depth = any(m.place > Place.OUTPUT for m in mechanisms) or family.always_layer
    built: list[tuple[nn.Module, nn.Module | None, type[nn.Module]]] = [
        (stack, ModelParts(mechanisms, dims, host.config.vocab_size), family.model),
    ]
    for layer_idx, layer in enumerate(getattr(stack, family.layers)):
        attention = getattr(layer, family.attention_name)
        inner = AttentionParts(mechanisms, dims, layer_idx)
        inner.has_window = any(hasattr(x, "sliding_window") for x in (attention, host.config))
        built.append((attention, inner, family.attention))
        if in_depth:
            built.append((layer, LayerParts(mechanisms, dims, layer_idx), family.layer))
    if not isinstance(host, HostForCausalLM):
        built.append((host, None, HostForCausalLM))
    for module, parts, _ in built:
        if parts is not None:
            _initialise(host, parts)
            settle(parts, _device(module, host.device), host.dtype)
            parts.train(module.training)
    for module, parts, mixin in built:
        if parts is not None:
            module.add_module(PART, parts)
        _change_class(module, host_class(cast(Any, mixin), cast(Any, type(module))))


def _initialise(host: PreTrainedModel, parts: nn.Module) -> None:
    """Matrices as the host draws its own, then what mechanisms say."""
    modules = list(parts.modules())
    for matrix in [m for m in modules if isinstance(m, nn.Linear)]:
        cast(Any, host)._init_weights(matrix)
    for learned in reversed([m for m in modules if isinstance(m, Learned)]):
        learned.reset_parameters()


def _device(module: nn.Module, otherwise: torch.device) -> torch.device:
    """Where a module computes; a weight that was offloaded lies elsewhere (accelerate's hook).

    Quantised linear maps may have no parameters.
    """
    for child in module.modules():
        hook = getattr(child, "_hf_hook", None)
        where: Any = getattr(hook, "execution_device", None)
        if where is not None:
            return torch.device(where)
    return next((p.device for p in module.parameters()), otherwise)


def _change_class(module: nn.Module, new: type[nn.Module]) -> None:
    module.__class__ = new
    if "_old_forward" in vars(module):
        # accelerate's hooks call the forward that they found: hand them the one of the new class.
        vars(module)["_old_forward"] = cast(Any, new).forward.__get__(module)
