"""The form of every mechanism: a frozen dataclass that a person writes, and what it builds."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain, combinations
from typing import Any, ClassVar, get_type_hints

import torch
from torch import Tensor, nn

from headway.errors import HeadwayError
from headway.mechanisms.context import QKV, Context
from headway.mechanisms.fields import checked_fields, choices, nearest


class Place(IntEnum):
    """Where in the model a mechanism acts, in the order of the data."""

    PROJECTED = 0
    """q, k, v as projected, before QK-norm."""
    NORMED = 1
    """q, k, v after QK-norm, before rotation."""
    TEMPERED = 2
    """Scales of q, k, v; a norm after them would undo them."""
    OUTPUT = 3
    """The attention output and its log-sum-exp."""
    SUBLAYER = 4
    """What every attention and feed-forward sublayer reads."""
    LAYER = 5
    """A whole layer's attention."""
    FINAL = 6
    """What the final norm reads."""


PLACE_WORDS = {
    Place.PROJECTED: "the projections before QK-norm",
    Place.NORMED: "the projections after QK-norm",
    Place.TEMPERED: "the temperatures, which come after QK-norm and every mixing",
    Place.OUTPUT: "the attention output",
    Place.SUBLAYER: "the input of every sublayer",
    Place.LAYER: "a whole layer",
    Place.FINAL: "the input of the final norm",
}


@dataclass(frozen=True, kw_only=True)
class Dims:
    """Sizes that a mechanism is built for; transformers' names.

    Raises:
        HeadwayError: a size is below 1, or heads are not divisible by key-value heads.
    """

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_hidden_layers: int = 1
    norm_eps: float = 1e-6
    qk_norm: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and value < 1:
                raise HeadwayError(f"{field.name}: {value} is too small; accepted are 1 and more")
        if self.num_attention_heads % self.num_key_value_heads:
            raise HeadwayError(
                f"num_key_value_heads: {self.num_key_value_heads} does not divide "
                f"num_attention_heads={self.num_attention_heads}"
            )

    def heads(self, target: str) -> int:
        """Heads of a projection: 'query' | 'key' | 'value'."""
        return self.num_attention_heads if target == "query" else self.num_key_value_heads


class Learned(nn.Module):
    """A module with parameters of its own, outside linear layers and norms."""

    def reset_parameters(self) -> None:
        """Draw the initial parameters; called by the constructor and by the host."""


class MechanismModule(Learned):
    """What a mechanism builds for one layer's attention; each hook may be left as it is."""

    needs_lse: ClassVar[bool] = False
    """Whether `epilogue` reads the log-sum-exp."""

    def prologue(self, qkv: QKV, ctx: Context) -> QKV:
        """Change the projections before rotation: `(B, H, T, D)` and twice `(B, G, T, D)`."""
        return qkv

    def epilogue(self, out: Tensor, lse: Tensor | None, ctx: Context) -> Tensor:
        """Change the attention output `(B, H, T, D)`, given its log-sum-exp `(B, H, T)`."""
        return out

    def learned(self) -> dict[str, Tensor]:
        """The learned numbers worth showing, by readable name."""
        return {}

    @property
    def num_new_parameters(self) -> int:
        """How many parameters the mechanism adds."""
        return sum(p.numel() for p in self.parameters())


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """Base of all mechanisms. Subclasses are frozen keyword-only dataclasses of plain values.

    Every value is checked on construction: types, choices (`Literal`) and bounds.

    Raises:
        HeadwayError: a field has a value that is not accepted.
    """

    name: ClassVar[str]
    """The name in JSON and on the command line."""
    place: ClassVar[Place]
    """Where it acts; a list of mechanisms stands in this order."""
    streams: ClassVar[bool] = False
    """Whether it reads what earlier layers projected."""
    registry: ClassVar[dict[str, type[Mechanism]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Mechanism.registry[cls.name] = cls

    def __post_init__(self) -> None:
        for field, value in checked_fields(self).items():
            object.__setattr__(self, field, value)

    @property
    def needs_frequency(self) -> bool:
        """Whether it reads token frequencies."""
        return False

    @property
    def starts_as_identity(self) -> bool:
        """Whether a fresh one leaves a model's logits as they are.

        One that has another option for it than `init` says so itself.
        """
        return getattr(self, "init", None) == "identity"

    def identity_options(self) -> dict[str, Any]:
        """The fewest options, one or two, with which it would start as the identity, or none."""
        hints = get_type_hints(type(self))
        known = [(f.name, v) for f in dataclasses.fields(self) for v in choices(hints[f.name])]
        for options in map(dict, chain(combinations(known, 1), combinations(known, 2))):
            with suppress(HeadwayError):  # two that do not go together
                if dataclasses.replace(self, **options).starts_as_identity:
                    return options
        return {}

    def check(self, dims: Dims) -> None:
        """Raise HeadwayError where the mechanism does not fit a model of these sizes."""

    def clash(self, other: Mechanism) -> str | None:
        """Why this and `other` have no meaning together, or None. Asked both ways."""
        if other.name == self.name:
            return "it is written twice; write it once with all its options"
        return None

    def cache_slots(self, dims: Dims) -> tuple[int, ...]:
        """Cache layers that it fills itself; numbers from num_hidden_layers on are new layers."""
        return ()

    def build(self, dims: Dims, layer_idx: int) -> nn.Module | None:
        """The module for layer `layer_idx`, or None where there is nothing to do in that layer."""
        raise HeadwayError(f"mechanism: {type(self).__name__} has no build method")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: `{"name": ..., option: value, ...}`."""
        values = dataclasses.asdict(self)
        return {"name": self.name} | {
            k: list(v) if isinstance(v, tuple) else v for k, v in values.items()
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Mechanism:
        """The mechanism of `to_dict`; options that are missing take their defaults.

        Raises:
            HeadwayError: unknown mechanism or option.
        """
        if not isinstance(data, dict) or not isinstance(data.get("name"), str):
            raise HeadwayError(
                f"mechanism: {data!r} is not accepted; write an object with a 'name', one of "
                f"{', '.join(sorted(Mechanism.registry))}"
            )
        name = data["name"]
        if name not in Mechanism.registry:
            raise HeadwayError(
                f"mechanism: {name!r} is unknown{nearest(name, Mechanism.registry)}; accepted are "
                f"{', '.join(sorted(Mechanism.registry))}"
            )
        cls = Mechanism.registry[name]
        options = {k: v for k, v in data.items() if k != "name"}
        accepted = [f.name for f in dataclasses.fields(cls)]
        for option in options:
            if option not in accepted:
                raise HeadwayError(
                    f"{name}.{option}: unknown option{nearest(option, accepted)}; accepted are "
                    f"{', '.join(accepted) or 'none'}"
                )
        return cls(**options)


def fill(target: Tensor, value: Tensor | float) -> None:
    """Set an initial value, unless transformers has loaded the parameter from a checkpoint."""
    if not getattr(target, "_is_hf_initialized", False):
        with torch.no_grad():
            target.copy_(torch.as_tensor(value, device=target.device).expand(target.shape))


def parameter(*shape: int) -> nn.Parameter:
    """An uninitialised float32 parameter, to be drawn by `reset_parameters`."""
    return nn.Parameter(torch.empty(*shape))
