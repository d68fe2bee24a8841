"""Attention of a host with mechanisms in it: project, prologue, rotate, attend, epilogue."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from headway.decoder.cache_name import NEW
from headway.errors import HeadwayError
from headway.hosts.host_pass import HostPass
from headway.hosts.mixin import FamilyMixin
from headway.hosts.parts import AttentionParts
from headway.hosts.scores import attend_with_lse
from headway.mechanisms.compose import Norm
from headway.mechanisms.context import QKV
from headway.ops.attention import merge
from headway.ops.choice import takes_kernel
from headway.ops.padding import without_padding


class Call(NamedTuple):
    """What the host's layer handed to its attention, beside the hidden states."""

    mask: Any
    cache: Any
    options: dict[str, Any]


class HostAttention(FamilyMixin):
    """Stands before a family's attention class in a class made of both; see docs/add-a-host.md.

    A family overrides what differs. The defaults are those of Llama.
    """

    headway: AttentionParts
    layer_idx: int
    config: Any
    scaling: float
    head_dim: int
    apply_rotary_pos_emb: Callable[..., tuple[Tensor, Tensor]]
    """The family's own function, borrowed from its module."""
    eager_attention_forward: Callable[..., tuple[Tensor, Tensor]]
    """The family's own function, borrowed from its module."""
    fuses: ClassVar[bool] = False
    """Whether shift, temperatures and rotation may run as one pass: nothing stands between them,
    and `position_embeddings` holds cosines and sines of pairs half of the channels apart."""

    def project(self, hidden: Tensor) -> QKV:
        """Raw queries `(B, H, T, D)`, keys and values `(B, G, T, D)` of `(B, T, C)`."""
        width = self.head_dim
        return QKV(
            split_heads(self.q_proj(hidden), width),
            split_heads(self.k_proj(hidden), width),
            split_heads(self.v_proj(hidden), width),
        )

    def qk_norms(self) -> tuple[Norm | None, Norm | None]:
        """The family's norms of queries and keys, on `(B, heads, T, D)`."""
        return None, None

    def rotate(self, q: Tensor, k: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        """Position encoding of queries and keys."""
        cos, sin = call.options["position_embeddings"]
        return self.apply_rotary_pos_emb(q, k, cos, sin)

    def output(self, merged: Tensor) -> Tensor:
        """From `(B, T, H D)` to the update `(B, T, C)`."""
        return self.o_proj(merged)

    def dropout_rate(self) -> float:
        """On the attention weights, in training."""
        return self.attention_dropout

    def interface_options(self) -> dict[str, Any]:
        """What the family passes to transformers' attention functions beside the usual."""
        if not self.headway.has_window:
            return {}
        own = getattr(self, "sliding_window", getattr(self.config, "sliding_window", None))
        return {"sliding_window": own}

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, call: Call, need_lse: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Output `(B, H, T, D)`, log-sum-exp if needed, and weights where the backend has them.

        Args:
            q: rotated, `(B, H, T, D)`.
            k: rotated, with the cached ones, `(B, G, S, D)`.
            v: `(B, G, S, D)`.
            call: the layer's call.
            need_lse: a mechanism reads the log-sum-exp.
        """
        dropout = self.dropout_rate() if self.training else 0.0
        options = self.interface_options()
        if need_lse:
            # transformers' sdpa leaves the cap out, where it does not refuse it.
            softcap = None if self.config._attn_implementation == "sdpa" else options.get("softcap")
            return attend_with_lse(
                self, q, k, v, call.mask, self.scaling, dropout=dropout, softcap=softcap
            )
        interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, self.eager_attention_forward
        )
        passed = dict(call.options)
        passed.pop("position_embeddings", None)
        out, weights = interface(
            self, q, k, v, call.mask, dropout=dropout, scaling=self.scaling, **options, **passed
        )
        return out.transpose(1, 2), None, weights

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any = None,
        past_key_values: Any = None,
        headway: HostPass | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """As the family's own, with the pass of the model in `headway`.

        Raises:
            HeadwayError: called apart from the model, whose pass the mechanisms need.
        """
        if headway is None:
            raise HeadwayError(
                f"{type(self).__name__}: with mechanisms attached it is called by its model only"
            )
        without_padding()
        cache = past_key_values
        for name in (NEW, "layer_past"):  # of later versions, and of families
            other = options.pop(name, None)
            cache = other if cache is None else cache
        call, parts = Call(attention_mask, cache, options), self.headway
        if parts.replaced:
            return self._shortcut(hidden_states, headway, call)
        raw, ctx = self.project(hidden_states), None
        if parts.fused is not None and self.fuses and takes_kernel(raw.q, parts.fused.choice):
            around = headway.positions_and_state(self.layer_idx, hidden_states.device, cache)
            source = headway.stream_of(parts.fused, self.layer_idx, hidden_states.device)
            cos, sin = options["position_embeddings"]
            # Not through __call__, whose hooks nobody sets and every layer would pay for.
            q, k, v = parts.fused.forward(raw, *around, cos, sin, source)
        else:
            ctx = headway.context(self.layer_idx, hidden_states, cache)
            q, k, v = parts.mechanisms.prologue(raw, ctx, *self.qk_norms())
            q, k = self.rotate(q, k, call)
        if parts.keep_raw:
            headway.check_checkpointing()
            headway.leave_raw(self.layer_idx, raw)
        out, lse, weights = self._remember_and_attend(
            q, k, v, self.layer_idx, call, parts.needs_lse
        )
        if parts.has_epilogue:
            if ctx is None:
                ctx = headway.context(self.layer_idx, hidden_states, cache)
            out = parts.mechanisms.epilogue(out, lse, ctx)
        update = self.output(out.transpose(1, 2).flatten(2))
        if parts.shortcut is not None:
            update = update + self._shortcut(hidden_states, headway, call)[0]
        return update, weights

    def _remember_and_attend(
        self, q: Tensor, k: Tensor, v: Tensor, slot: int, call: Call, need_lse: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if call.cache is not None:
            k, v = call.cache.update(k, v, slot)
        return self.attend(q, k, v, call, need_lse)

    def _shortcut(
        self, hidden: Tensor, headway: HostPass, call: Call
    ) -> tuple[Tensor, Tensor | None]:
        """The update, and the weights `(B, H, T, S)` of each position summed over layers."""
        shortcut = self.headway.shortcut
        assert shortcut is not None
        known: list[tuple[Tensor, Tensor]] = []

        def attend(q: Tensor, k: Tensor, v: Tensor, slot: int) -> tuple[Tensor, Tensor]:
            q, k = self.rotate(q, k, call)
            out, lse, weights = self._remember_and_attend(q, k, v, slot, call, need_lse=True)
            assert lse is not None
            if weights is not None:
                # Layer by layer, so that one layer's weights stand in memory and not all.
                known[:] = [merge([*known, (weights, lse)])]
            return out, lse

        update = shortcut(hidden, headway.tapped, attend, self.scaling)
        return update, known[0][0] if known else None


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """`(B, T, heads D)` to `(B, heads, T, D)`."""
    if x.shape[1] == 1:
        return x.view(x.shape[0], -1, 1, head_dim)
    return x.view(*x.shape[:-1], -1, head_dim).transpose(1, 2)
