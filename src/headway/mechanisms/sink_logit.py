"""A learned sink in the softmax (gpt-oss), and softmax-off-by-one (Miller 2023)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from headway.errors import HeadwayError
from headway.mechanisms.base import Dims, Mechanism, MechanismModule, Place, fill, parameter
from headway.mechanisms.context import Context

IDENTITY_LOGIT = -30.0


@dataclass(frozen=True, kw_only=True)
class SinkLogit(Mechanism):
    """One extra logit a head joins the softmax and is dropped: rows sum to less than one.

    `softmax([z, sink])` without its last column is the ordinary output times
    `sigmoid(lse(z) - sink)`, so it is applied after attention from the log-sum-exp.

    Attributes:
        learned: a learned logit a head (gpt-oss), or fixed at 0, the softmax-off-by-one.
        init: 'zero', or 'identity': a logit of -30, whose share float32 rounds away wherever a
            row's log-sum-exp is above -13.
    """

    name = "sink_logit"
    place = Place.OUTPUT

    learned: bool = True
    init: Literal["zero", "identity"] = "zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.learned and self.init == "identity":
            raise HeadwayError(
                "sink_logit.init: 'identity' would do nothing for ever with learned=false; "
                "accepted is 'zero'"
            )

    def build(self, dims: Dims, layer_idx: int) -> nn.Module:
        return SinkLogitModule(self, dims)


class SinkLogitModule(MechanismModule):
    """`logit`: `(H,)`, a parameter if learned."""

    needs_lse = True

    def __init__(self, spec: SinkLogit, dims: Dims) -> None:
        super().__init__()
        self.spec = spec
        if spec.learned:
            self.logit = parameter(dims.num_attention_heads)
            self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.spec.learned:
            fill(self.logit, 0.0 if self.spec.init == "zero" else IDENTITY_LOGIT)

    def epilogue(self, out: Tensor, lse: Tensor | None, ctx: Context) -> Tensor:
        if lse is None:
            raise HeadwayError("sink_logit: the log-sum-exp of attention is missing")
        margin = lse.unsqueeze(-1)
        if self.spec.learned:
            margin = margin - self.logit[:, None, None]
        return out * torch.sigmoid(margin).to(out.dtype)

    def learned(self) -> dict[str, Tensor]:
        return {"sink logit": self.logit.detach()} if self.spec.learned else {}
