"""A host's decoder layer where a mechanism reads over depth."""

from typing import Any

from torch import Tensor

from headway.hosts.host_pass import HostPass
from headway.hosts.mixin import FamilyMixin
from headway.hosts.parts import LayerParts


class HostLayer(FamilyMixin):
    """Stands before a family's layer class in a class made of both; see docs/add-a-host.md.

    A family overrides what differs. The defaults are those of Llama: norm, sublayer, sum.
    """

    headway: LayerParts

    def attention_norm(self, x: Tensor) -> Tensor:
        """The norm before attention."""
        return self.input_layernorm(x)

    def attention_update(self, x: Tensor, **options: Any) -> Tensor:
        """What attention adds to the residual stream, `(B, T, C)`, if it reads `x`."""
        return self.self_attn(hidden_states=self.attention_norm(x), **options)[0]

    def mlp_update(self, x: Tensor) -> Tensor:
        """What the feed-forward part adds if it reads `x`."""
        return self.mlp(self.post_attention_layernorm(x))

    def is_parallel(self) -> bool:
        """Whether both sublayers read the layer's input."""
        return False

    def forward(self, hidden_states: Tensor, *args: Any, **options: Any) -> Any:
        """As the family's own, with the pass of the model in `headway`."""
        run: HostPass = options["headway"]
        run.check_checkpointing()
        parts = self.headway
        run.outputs.setdefault(parts.layer_idx, hidden_states)
        if parts.taps:
            run.tapped = tuple(
                self.attention_norm(run.outputs[t].to(hidden_states.device)) for t in parts.taps
            )
        if parts.attention_read is None:
            out = self.whole(hidden_states, *args, **options)
        else:
            out = self._by_updates(hidden_states, run, options)
        if parts.final_mix is None:
            return out
        hidden, *rest = out if isinstance(out, tuple) else (out,)
        earlier = [run.outputs[i].to(hidden.device) for i in range(parts.layer_idx + 1)]
        mixed = parts.final_mix([*earlier, hidden])
        return (mixed, *rest) if isinstance(out, tuple) else mixed

    def whole(self, hidden_states: Tensor, *args: Any, **options: Any) -> Any:
        """The family's own layer."""
        return super().forward(hidden_states, *args, **options)

    def _by_updates(self, hidden: Tensor, run: HostPass, options: dict[str, Any]) -> Tensor:
        parts, done = self.headway, 2 * self.headway.layer_idx + 1
        assert parts.attention_read is not None
        assert parts.mlp_read is not None
        run.updates.setdefault(0, hidden)
        sources = [run.updates[i].to(hidden.device) for i in range(done)]
        attended = self.attention_update(parts.attention_read(sources), **options)
        before_mlp = sources if self.is_parallel() else [*sources, attended]
        fed = self.mlp_update(parts.mlp_read(before_mlp))
        run.updates.setdefault(done, attended)
        run.updates.setdefault(done + 1, fed)
        if parts.final_read is not None:
            return parts.final_read([*sources, attended, fed])
        return hidden + attended + fed
