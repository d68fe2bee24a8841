"""Self-attention of one layer: project, mechanisms, rotate, attend, mechanisms."""

from collections.abc import Sequence

from torch import Tensor, nn

from headway.decoder.configuration import HeadwayConfig
from headway.decoder.forward_pass import ForwardPass
from headway.decoder.projection import in_one_piece
from headway.mechanisms.base import Mechanism
from headway.mechanisms.compose import AttentionMechanisms
from headway.mechanisms.context import QKV, Context, Streams
from headway.mechanisms.fused import FusedPrologue, fusible
from headway.ops.choice import ops_choice, takes_kernel


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
        self.built_for = (tuple(mechanisms), dims, layer_idx)
        self.mechanisms = AttentionMechanisms(mechanisms, dims, layer_idx)
        self.fused: FusedPrologue | None = None
        if fusible(mechanisms, dims.head_dim):
            self.fused = FusedPrologue(self.mechanisms, ops_choice(), self.q_norm, self.k_norm)
        streamed = any(m.streams for m in mechanisms)
        self.leaves = streamed and layer_idx < config.num_hidden_layers - 1

    def forward(self, x: Tensor, streams: Streams, run: ForwardPass) -> tuple[Tensor, Streams]:
        """Attend.

        Args:
            x: `(B, T, hidden_size)`, normed.
            streams: raw projections of earlier layers.
            run: the forward pass.

        Returns:
            The update `(B, T, hidden_size)`, and the streams for the next layer.
        """
        whole, raw = self._project(x)
        ctx = Context(
            positions=run.positions,
            hidden=x,
            streams=streams,
            state=run.state(self.layer_idx),
            log_frequency=run.log_frequency,
        )
        if self.fused is not None and takes_kernel(x, self.fused.choice):
            q, k, v, raw = self._fused(self.fused, raw, whole, ctx, run)
        else:
            q, k, v = run.rotate(*self.mechanisms.prologue(raw, ctx, self.q_norm, self.k_norm))
            if whole is not None and v is raw.v and q is not raw.q:
                # A view would keep all three alive until the backward, for a third of them.
                v = v.transpose(1, 2).contiguous().transpose(1, 2)
        out, lse = run.attend(q, k, v, self.layer_idx, self.mechanisms.needs_lse)
        out = self.mechanisms.epilogue(out, lse, ctx)
        return self.o_proj(out.transpose(1, 2).flatten(2)), streams.push(raw)

    def _project(self, x: Tensor) -> tuple[Tensor | None, QKV]:
        """The three projections, and the one piece `(B, T, H + 2 G, D)` they lie in, if they do."""
        linears = [self.q_proj, self.k_proj, self.v_proj]
        whole = in_one_piece(linears, x)
        if whole is None:
            return None, QKV(*(self._heads(linear(x)) for linear in linears))
        whole = whole.unflatten(-1, (-1, self.head_dim))
        counts = [linear.out_features // self.head_dim for linear in linears]
        # Split token by token: so the gradients are put together as the product reads them.
        return whole, QKV(*(x.transpose(1, 2) for x in whole.split(counts, dim=2)))

    def _fused(
        self, fused: FusedPrologue, raw: QKV, whole: Tensor | None, ctx: Context, run: ForwardPass
    ) -> tuple[Tensor, Tensor, Tensor, QKV]:
        """What attention reads, rotated, and the projections that later layers read."""
        streams, source = ctx.streams, None
        if fused.stream is not None:
            origin = streams.first if fused.from_first else streams.previous
            assert origin is not None
            source = origin.v
        cos, sin = run.angles(raw.q)
        q, k, v, *left = fused.forward(
            raw, ctx.positions, ctx.state, cos, sin, source, whole, leaves=self.leaves
        )
        # A gradient of their own, so that it is added where the pass is at them anyway.
        return q, k, v, QKV(raw.q, raw.k, left[0]) if left else raw

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        return heads
