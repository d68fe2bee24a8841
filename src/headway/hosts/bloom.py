"""BLOOM: ALiBi, fused projection, attention and feed-forward part that add the residual."""

from typing import Any

import torch
from torch import Tensor

from headway.decoder.observer import MaskRule, encoded_columns, observed_attention
from headway.hosts.attention import Call, HostAttention
from headway.hosts.family import Family
from headway.hosts.host_pass import HostPass
from headway.hosts.layer import HostLayer
from headway.hosts.model import HostModel
from headway.hosts.scores import eager_scores
from headway.mechanisms.base import Mechanism
from headway.mechanisms.context import QKV


class BloomAttention(HostAttention):
    """Scores with a bias that grows with the column of the key."""

    dropout_add: Any

    @property
    def scaling(self) -> float:  # type: ignore[override]
        """Factor on the scores."""
        return self.inv_norm_factor

    def project(self, hidden: Tensor) -> QKV:
        heads = self.query_key_value(hidden).unflatten(-1, (self.num_heads, 3, self.head_dim))
        return QKV(*(x.transpose(1, 2) for x in heads.unbind(dim=-2)))

    def rotate(self, q: Tensor, k: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        return q, k

    def output(self, merged: Tensor) -> Tensor:
        return self.dense(merged)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, call: Call, need_lse: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        bias = call.options["alibi"].unflatten(0, (q.shape[0], q.shape[1]))
        if isinstance(call.mask, MaskRule):
            bias = encoded_columns(bias)
            out, lse = observed_attention(
                self, q, k, v, call.mask, self.scaling, position_bias=bias
            )
            return out.transpose(1, 2), lse, None
        return eager_scores(
            q,
            k,
            v,
            call.mask,
            self.scaling,
            dropout=self.attention_dropout.p,
            training=self.training,
            bias=bias[..., : k.shape[-2]],
        )

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, residual: Tensor, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        update, weights = super().forward(hidden_states, **options)
        summed = self.dropout_add(update, residual, self.hidden_dropout, self.training)
        return summed, weights


class BloomLayer(HostLayer):
    """Hands the pass on, which BLOOM's own layer does not."""

    run: HostPass | None = None

    def __call__(self, *args: Any, **options: Any) -> Any:
        # Bound here, before gradient checkpointing, so that a second computation has it too.
        return super().__call__(*args, **options, headway=self.run)

    def attention_update(self, x: Tensor, **options: Any) -> Tensor:
        run: HostPass = options["headway"]
        normed = self.attention_norm(x)
        update, weights = self.self_attention(normed, torch.zeros_like(x), **options)
        run.weights[self.headway.layer_idx] = weights
        return update

    def mlp_update(self, x: Tensor) -> Tensor:
        return self.mlp(self.post_attention_layernorm(x), torch.zeros_like(x))

    def whole(self, hidden_states: Tensor, *args: Any, **options: Any) -> Any:
        normed = self.attention_norm(hidden_states)
        attended, weights = self.self_attention(normed, hidden_states, **options)
        return self.mlp(self.post_attention_layernorm(attended), attended), weights

    def forward(self, hidden_states: Tensor, *args: Any, **options: Any) -> Any:
        out = super().forward(hidden_states, *args, **options)
        if isinstance(out, tuple):
            return out
        run: HostPass = options["headway"]
        return out, run.weights.pop(self.headway.layer_idx)


class BloomModel(HostModel):
    """Gives each layer the pass, as it takes no argument for it."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._hand_out(None)

    def start_pass(self, inputs: dict[str, Any]) -> HostPass:
        run = super().start_pass(inputs)
        self._hand_out(run)
        return run

    def _hand_out(self, run: HostPass | None) -> None:
        for block in self.h:
            block.run = run


def refuses(config: Any, mechanism: Mechanism) -> str | None:
    """Variants of BLOOM that few have seen."""
    if config.apply_residual_connection_post_layernorm:
        return "apply_residual_connection_post_layernorm=true norms the residual; accepted is false"
    if config.pretraining_tp > 1 and config.slow_but_exact:
        return "slow_but_exact=true is another output projection; accepted is false"
    return None


FAMILIES = (
    Family(
        name="BLOOM",
        model_types=("bloom",),
        attention=BloomAttention,
        layer=BloomLayer,
        model=BloomModel,
        stack="transformer",
        layers="h",
        attention_name="self_attention",
        always_layer=True,
        refuses=refuses,
    ),
)
