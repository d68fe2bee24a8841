"""Self-attention of one layer: project, mechanisms, rotate, attend, mechanisms."""

from collections.abc import Sequence

from torch import Tensor, nn

from headway.decoder.configuration import HeadwayConfig
from headway.decoder.forward_pass import ForwardPass
from headway.mechanisms.base import Mechanism
from headway.mechanisms.compose import AttentionMechanisms
from headway.mechanisms.context import QKV, Context, Streams


class Attention(nn.Module):
    """Grouped-query attention with a list of mechanisms.

    Args:
        config: of the model.
        layer_idx: which layer, also the cache slot.
        mechanisms: the model's list.
    """

    def __init__(
        self, config: HeadwayConfig, layer_idx: int, mechanisms: Sequence[Mechanism]
    ) -> None:
        super().__init__()
        dims, bias = config.dims(), config.attention_bias
        self.layer_idx, self.head_dim = layer_idx, dims.head_dim
        queries, keys = dims.num_attention_heads, dims.num_key_value_heads
        self.q_proj = nn.Linear(dims.hidden_size, queries * dims.head_dim, bias=bias)
        self.k_proj = nn.Linear(dims.hidden_size, keys * dims.head_dim, bias=bias)
        self.v_proj = nn.Linear(dims.hidden_size, keys * dims.head_dim, bias=bias)
        self.o_proj = nn.Linear(queries * dims.head_dim, dims.hidden_size, bias=bias)
        self.q_norm = nn.RMSNorm(dims.head_dim, eps=dims.norm_eps) if config.qk_norm else None
        self.k_norm = nn.RMSNorm(dims.head_dim, eps=dims.norm_eps) if config.qk_norm else None
        self.mechanisms = AttentionMechanisms(mechanisms, dims, layer_idx)

    def forward(self, x: Tensor, streams: Streams, run: ForwardPass) -> tuple[Tensor, Streams]:
        """Attend.

        Args:
            x: `(B, T, hidden_size)`, normed.
            streams: raw projections of earlier layers.
            run: the forward pass.

        Returns:
            The update `(B, T, hidden_size)`, and the streams for the next layer.
        """
        raw = QKV(
            self._heads(self.q_proj(x)), self._heads(self.k_proj(x)), self._heads(self.v_proj(x))
        )
        ctx = Context(
            positions=run.positions,
            layer_idx=self.layer_idx,
            hidden=x,
            streams=streams,
            state=run.state(self.layer_idx),
            log_frequency=run.log_frequency,
        )
        q, k, v = self.mechanisms.prologue(raw, ctx, self.q_norm, self.k_norm)
        out, lse = run.attend(q, k, v, self.layer_idx, self.mechanisms.needs_lse)
        out = self.mechanisms.epilogue(out, lse, ctx)
        return self.o_proj(out.transpose(1, 2).flatten(2)), streams.push(raw)

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        return heads
