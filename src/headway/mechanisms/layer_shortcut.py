"""Layerwise attention shortcuts (arXiv 2409.10870)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor, nn

from headway.errors import HeadwayError
from headway.mechanisms.base import Dims, Learned, Mechanism, Place, fill
from headway.mechanisms.taps import Taps, check_taps, tap_indices
from headway.ops.attention import merge
from headway.ops.depth import depth_attention

FLOPS_A_NUMBER = 350
"""Multiplications and additions that a GPU does in bf16 while one number goes to memory or comes
from it: 700 TFLOP/s beside 4 TB/s."""

Attend = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""Rotates, caches under a slot number and attends: `(q, k, v, slot) -> (out, log-sum-exp)`."""


@dataclass(frozen=True, kw_only=True)
class LayerShortcut(Mechanism):
    """In the last layer, attention over learned features of earlier layers' outputs.

    Queries come from the last layer's normed input, keys and values from
    `F_m = features(norm(h_m))` of each tapped layer m, one softmax over layers and positions: our
    reconstruction of arXiv 2409.10870, whose equations we could not read.

    Attributes:
        taps: 'all' layers before the last, or a list (the paper: 2, 4, 6, 8 of 10); 0 is the
            embedding.
        features: 'mlp' one two-layer perceptron a tap, 'shared_mlp' one for all, 'none'.
        width: hidden width of the perceptron.
        reach: 'context' all earlier positions of every tap; 'token' the same position only.
        mode: 'replace' the last layer's self-attention (paper), and with it what other mechanisms
            do there, or 'add' to it.
        init: 'paper' draws all matrices as the host does; 'identity' starts the output projection
            at zero, which with mode='add' is exactly the plain model.
    """

    name = "layer_shortcut"
    place = Place.LAYER

    taps: Taps = "all"
    features: Literal["mlp", "shared_mlp", "none"] = "mlp"
    width: int = field(default=1024, metadata={"min": 1})
    reach: Literal["context", "token"] = "context"
    mode: Literal["replace", "add"] = "replace"
    init: Literal["paper", "identity"] = "paper"

    @property
    def starts_as_identity(self) -> bool:
        return self.init == "identity" and self.mode == "add"

    def check(self, dims: Dims) -> None:
        check_taps("layer_shortcut.taps", self.taps, dims)
        if (self.reach, self.mode, dims.num_hidden_layers) == ("token", "replace", 1):
            raise HeadwayError(
                "layer_shortcut.reach: 'token' with mode='replace' leaves no attention over tokens "
                "in a model of 1 layer; accepted are reach='context', mode='add', or more layers"
            )

    def cache_slots(self, dims: Dims) -> tuple[int, ...]:
        """One a tap; the first takes the slot of a self-attention that is replaced."""
        if self.reach == "token":
            return ()
        first = dims.num_hidden_layers - (self.mode == "replace")
        return tuple(range(first, first + len(tap_indices(self.taps, dims))))

    def build(self, dims: Dims, layer_idx: int) -> nn.Module | None:
        return ShortcutAttention(self, dims) if layer_idx == dims.num_hidden_layers - 1 else None


class ShortcutAttention(Learned):
    """The last layer's attention over depth."""

    def __init__(self, spec: LayerShortcut, dims: Dims) -> None:
        super().__init__()
        self.spec, self.head_dim = spec, dims.head_dim
        self.needs_lse = spec.reach == "context"
        self.taps = tap_indices(spec.taps, dims)
        self.slots = spec.cache_slots(dims)
        self.absorbs = (
            spec.reach == "token" and not dims.qk_norm and _absorbing_pays(len(self.taps), dims)
        )
        inner, outer = dims.num_attention_heads, dims.num_key_value_heads
        self.q_proj = nn.Linear(dims.hidden_size, inner * dims.head_dim, bias=False)
        self.k_proj = nn.Linear(dims.hidden_size, outer * dims.head_dim, bias=False)
        self.v_proj = nn.Linear(dims.hidden_size, outer * dims.head_dim, bias=False)
        self.o_proj = nn.Linear(inner * dims.head_dim, dims.hidden_size, bias=False)
        if dims.qk_norm:
            self.q_norm = nn.RMSNorm(dims.head_dim, eps=dims.norm_eps)
            self.k_norm = nn.RMSNorm(dims.head_dim, eps=dims.norm_eps)
        count = {"mlp": len(self.taps), "shared_mlp": 1, "none": 0}[spec.features]
        self.features = nn.ModuleList(
            _perceptron(dims.hidden_size, spec.width) for _ in range(count)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.spec.init == "identity":
            fill(self.o_proj.weight, 0.0)

    def forward(
        self,
        x: Tensor,
        tapped: Sequence[Tensor],
        attend: Attend,
        scale: float,
        norm: nn.Module | None = None,
    ) -> Tensor:
        """The attention update `(B, T, C)`.

        Args:
            x: `(B, T, C)`, the layer's normed input.
            tapped: the outputs of the tapped layers, each `(B, T, C)`, normed.
            attend: the host's attention, which needs to give the log-sum-exp.
            scale: the host's factor on the scores.
            norm: of `tapped`, where they come without; then it may be part of the reading.
        """
        q = self._heads(self.q_proj(x), "q_norm")
        # Absorbing needs the two matrices themselves, which quantised and adapted layers hide.
        absorbs = self.absorbs and type(self.k_proj) is type(self.v_proj) is nn.Linear
        folded = norm if absorbs and self.spec.features == "none" and _is_rms(norm) else None
        if norm is not None and folded is None:
            tapped = [norm(h) for h in tapped]
        tapped = [self._features(i, h) for i, h in enumerate(tapped)]
        if absorbs:
            out = self._absorbed(q, tapped, scale, folded)
        elif self.spec.reach == "token":
            out = _same_position(q, [self._key_value(h) for h in tapped], scale)
        else:
            pairs = zip(map(self._key_value, tapped), self.slots, strict=True)
            out, _ = merge([attend(q, k, v, slot) for (k, v), slot in pairs])
        update: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return update

    def _features(self, tap: int, hidden: Tensor) -> Tensor:
        if self.spec.features == "none":
            return hidden
        found: Tensor = self.features[tap if self.spec.features == "mlp" else 0](hidden)
        return found

    def _key_value(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self._heads(self.k_proj(hidden), "k_norm"), self._heads(self.v_proj(hidden))

    def _absorbed(
        self, q: Tensor, tapped: Sequence[Tensor], scale: float, norm: nn.RMSNorm | None
    ) -> Tensor:
        """What `_same_position` gives, with each projection on the side where there is one of it.

        `q . W_k x = (W_k^T q) . x` and `sum a W_v x = W_v sum a x`; a norm's weight goes along.
        """
        batch, heads, length, width = q.shape
        keys, values = (p.weight.view(-1, width, p.in_features) for p in (self.k_proj, self.v_proj))
        options: dict[str, Any] = {"scale": scale}
        if norm is not None:
            keys, values = keys * norm.weight, values * norm.weight
            options |= {"normed": "both", "eps": norm.eps}
        # Heads first, group by group: what a product of many matrices reads and writes.
        by_group = q.transpose(0, 1).reshape(keys.shape[0], -1, width)
        query = (by_group @ keys).view(heads, batch, length, -1)
        mixed = depth_attention(query, tapped, **options)
        out = mixed.reshape(keys.shape[0], -1, mixed.shape[-1]) @ values.transpose(1, 2)
        return out.view(heads, batch, length, width).transpose(0, 1)

    def _heads(self, x: Tensor, norm: str = "") -> Tensor:
        x = x.unflatten(-1, (-1, self.head_dim))
        if norm and hasattr(self, norm):
            x = getattr(self, norm)(x)
        return x.transpose(1, 2)


def _absorbing_pays(taps: int, dims: Dims) -> bool:
    """Whether two projections of channels by heads cost less than two of every tap.

    Counted as a GPU spends time: a projection of `C` by `D` takes `C D` multiplications and moves
    `C` or `D` numbers, whichever side is the many.
    """
    size, width = dims.hidden_size, dims.head_dim
    projecting = taps * dims.num_key_value_heads * width * (size + FLOPS_A_NUMBER)
    absorbing = dims.num_attention_heads * size * (width + FLOPS_A_NUMBER)
    return projecting > absorbing


def _is_rms(norm: nn.Module | None) -> TypeGuard[nn.RMSNorm]:
    return type(norm) is nn.RMSNorm and norm.elementwise_affine and norm.eps is not None


def _perceptron(size: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(size, width, bias=False), nn.GELU(), nn.Linear(width, size, bias=False)
    )


def _same_position(q: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], scale: float) -> Tensor:
    repeats = q.shape[1] // pairs[0][0].shape[1]
    logits = [(q * k.repeat_interleave(repeats, dim=1)).sum(-1) for k, _ in pairs]
    weights = (torch.stack(logits, dim=-1) * scale).softmax(dim=-1)
    out = torch.zeros_like(q)
    for tap, (_, v) in enumerate(pairs):
        out = out + weights[..., tap, None] * v.repeat_interleave(repeats, dim=1)
    return out
