"""A static mix of all layers' outputs before the final norm (DenseFormer, arXiv 2402.02622)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from headway.mechanisms.attention_residual import AttentionResidual
from headway.mechanisms.base import Dims, Learned, Mechanism, Place, fill, parameter
from headway.mechanisms.taps import Taps, check_taps, tap_indices
from headway.ops.depth import weighted_sum


@dataclass(frozen=True, kw_only=True)
class ScalarMix(Mechanism):
    """`y = sum_l w_l x_l` over layer outputs, the 'connect to last' ablation of DenseFormer.

    Attributes:
        taps: 'all' layers before the last, or a list, in which 0 is the embedding; the last output
            always counts.
        init: 'paper' 1 for the last output and 1e-4 for the others; 'identity' 1 and 0.
    """

    name = "scalar_mix"
    place = Place.FINAL

    taps: Taps = "all"
    init: Literal["paper", "identity"] = "paper"

    def check(self, dims: Dims) -> None:
        check_taps("scalar_mix.taps", self.taps, dims)

    def clash(self, other: Mechanism) -> str | None:
        if isinstance(other, AttentionResidual):
            return "both replace what the final norm reads by a mix over depth"
        return super().clash(other)

    def build(self, dims: Dims, layer_idx: int) -> nn.Module:
        return FinalMix(self, dims)


class FinalMix(Learned):
    """`weights`: one a tap, the last output's at the end."""

    def __init__(self, spec: ScalarMix, dims: Dims) -> None:
        super().__init__()
        self.spec = spec
        self.taps = (*tap_indices(spec.taps, dims), dims.num_hidden_layers)
        self.weights = parameter(len(self.taps))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        start = torch.full((len(self.taps),), 1e-4 if self.spec.init == "paper" else 0.0)
        start[-1] = 1
        fill(self.weights, start)

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """`(B, T, C)` from the embedding and all layers' outputs."""
        chosen = [outputs[t] for t in self.taps]
        return weighted_sum(chosen, self.weights.to(chosen[0].dtype))

    def learned(self) -> dict[str, Tensor]:
        """The weights by layer."""
        return {"weight of each tap": self.weights.detach()}
