"""A list of mechanisms: what may stand together, and what one layer's attention gets of it."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import cast

from torch import Tensor, nn

from headway.errors import HeadwayError
from headway.mechanisms.base import PLACE_WORDS, Dims, Mechanism, MechanismModule, Place
from headway.mechanisms.context import QKV, Context

Norm = Callable[[Tensor], Tensor]


def check_list(mechanisms: Sequence[Mechanism], dims: Dims) -> None:
    """Refuse an order or a pair without meaning, and mechanisms that do not fit the sizes.

    Raises:
        HeadwayError: one sentence that says which and why.
    """
    for mechanism in mechanisms:
        if not isinstance(mechanism, Mechanism):
            raise HeadwayError(
                f"mechanisms: {mechanism!r} is not a mechanism; accepted are objects such as "
                "KVShift(), or Mechanism.from_dict(...)"
            )
        mechanism.check(dims)
    for first, second in combinations(mechanisms, 2):
        if first.place > second.place:
            raise HeadwayError(
                f"mechanisms: {first.name!r} stands before {second.name!r}, but it acts on "
                f"{PLACE_WORDS[first.place]} and {second.name!r} on {PLACE_WORDS[second.place]}, "
                "which comes earlier in the layer; swap them"
            )
        reason = first.clash(second) or second.clash(first)
        if reason:
            raise HeadwayError(
                f"mechanisms: {first.name!r} and {second.name!r} cannot stand together: {reason}"
            )


class AttentionMechanisms(nn.Module):
    """The mechanisms inside one layer's attention, in order.

    Args:
        mechanisms: a checked list; those that act outside attention are left to the host.
        dims: sizes.
        layer_idx: which layer.

    Attributes:
        needs_lse: whether `epilogue` must be given the log-sum-exp of attention.
        has_epilogue: whether `epilogue` changes anything.
    """

    def __init__(self, mechanisms: Sequence[Mechanism], dims: Dims, layer_idx: int) -> None:
        super().__init__()
        self.places: list[Place] = []
        self.members = nn.ModuleDict()
        for mechanism in mechanisms:
            if mechanism.place > Place.OUTPUT:
                continue
            module = mechanism.build(dims, layer_idx)
            if module is not None:
                twin = sum(name.startswith(mechanism.name) for name in self.members)
                self.members[f"{mechanism.name}_{twin + 1}" if twin else mechanism.name] = module
                self.places.append(mechanism.place)
        self.needs_lse = any(cast(MechanismModule, m).needs_lse for m in self.members.values())
        self.has_epilogue = Place.OUTPUT in self.places

    def prologue(
        self, qkv: QKV, ctx: Context, q_norm: Norm | None = None, k_norm: Norm | None = None
    ) -> QKV:
        """Everything between projection and rotation.

        Args:
            qkv: queries `(B, H, T, D)`, keys and values `(B, G, T, D)`, not rotated.
            ctx: the layer's surroundings; `raw` is filled in here.
            q_norm: QK-norm of the queries, if the model has one.
            k_norm: QK-norm of the keys.
        """
        ctx = ctx.with_raw(qkv)
        for module in self._modules_at(Place.PROJECTED):
            qkv = module.prologue(qkv, ctx)
        if q_norm is not None and k_norm is not None:
            qkv = QKV(q_norm(qkv.q), k_norm(qkv.k), qkv.v)
        for module in self._modules_at(Place.NORMED, Place.TEMPERED):
            qkv = module.prologue(qkv, ctx)
        return qkv

    def epilogue(self, out: Tensor, lse: Tensor | None, ctx: Context) -> Tensor:
        """Everything between attention and the output projection.

        Args:
            out: `(B, H, T, D)`.
            lse: `(B, H, T)`, natural log-sum-exp of the scores; may be None unless `needs_lse`.
            ctx: the layer's surroundings.
        """
        for module in self._modules_at(Place.OUTPUT):
            out = module.epilogue(out, lse, ctx)
        return out

    def _modules_at(self, *places: Place) -> list[MechanismModule]:
        pairs = zip(self.members.values(), self.places, strict=True)
        return [cast(MechanismModule, module) for module, place in pairs if place in places]


def build_mechanisms(
    mechanisms: Sequence[Mechanism],
    *,
    hidden_size: int,
    num_attention_heads: int,
    num_key_value_heads: int | None = None,
    head_dim: int | None = None,
    num_hidden_layers: int = 1,
) -> list[AttentionMechanisms]:
    """Mechanisms for somebody's own attention, one `AttentionMechanisms` a layer.

    Put each into its layer as a submodule, call `prologue` on the projected q, k, v before
    rotation and `epilogue` on the attention output. With a decode state, give every layer's
    `Context` a `DecodeState` of its own.

    Raises:
        HeadwayError: the list has no meaning, or holds a mechanism that needs a whole model.
    """
    dims = Dims(
        hidden_size=hidden_size,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=num_key_value_heads or num_attention_heads,
        head_dim=head_dim or hidden_size // num_attention_heads,
        num_hidden_layers=num_hidden_layers,
    )
    for mechanism in mechanisms:
        if isinstance(mechanism, Mechanism) and mechanism.place > Place.OUTPUT:
            raise HeadwayError(
                f"mechanisms: {mechanism.name!r} acts on {PLACE_WORDS[mechanism.place]}, which "
                "one attention cannot give; build it into HeadwayForCausalLM"
            )
    check_list(mechanisms, dims)
    return [AttentionMechanisms(mechanisms, dims, layer) for layer in range(num_hidden_layers)]
