"""Denoising: tell the signal in the last token, with the help of others, among pure noise.

The experiment of Selective Attention (arXiv 2411.12892, section 3.4).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from headway.tasks.base import Sample, Task, answers


@dataclass(frozen=True, kw_only=True)
class Denoise(Task):
    """Tokens that are a unit vector with noise, or noise alone; the last one's vector is asked.

    The last token is `e_q + z`, q uniform, z ~ N(0, noise^2 I) in d = `classes` dimensions. Each
    other token is with probability `p_signal` a signal `e_k + z`, else z alone. The paper says
    neither how large the noise is nor how long rows are, nor of which class the signals are and
    whether they carry noise: chosen here.

    Attributes:
        classes: K = d.
        length: L, not told in the paper.
        p_signal: share of signals among the other tokens.
        noise: sigma, not told in the paper. The default keeps most noise below the threshold 1/2
            that the paper's value gate has.
        signals: `any`: a signal's class is uniform; `asked`: every signal is of the class asked.
    """

    name = "denoise"

    classes: int = field(default=8, metadata={"min": 2})
    length: int = field(default=32, metadata={"min": 1})
    p_signal: float = field(default=0.25, metadata={"min": 0, "max": 1})
    noise: float = field(default=0.2, metadata={"min": 1e-6})
    signals: Literal["any", "asked"] = "any"

    @property
    def chance(self) -> float:
        """Of guessing the class."""
        return 1 / self.classes

    def sample(self, batch: int, generator: torch.Generator) -> Sample:
        """Vectors `(B, L, d)`, and the class asked for `(B,)`; the vector asked for is its unit."""
        device = generator.device
        inputs = torch.randn(
            batch,
            self.length,
            self.classes,
            generator=generator,
            device=device,
            dtype=torch.float32,
        ).mul_(self.noise)
        kind = torch.randint(self.classes, (batch, self.length), generator=generator, device=device)
        asked = kind[:, -1]
        if self.signals == "asked":
            kind = asked[:, None].expand_as(kind)
        signal = torch.rand(batch, self.length, generator=generator, device=device) < self.p_signal
        signal[:, -1] = True
        inputs.scatter_add_(2, kind[..., None], signal[..., None].float())
        return Sample(inputs=inputs, targets=asked)

    def bayes(self, inputs: Tensor) -> Tensor:
        """`(B, d)`: the estimate with the least expected squared error, given all numbers above.

        Where signals are of any class, the last token tells all there is to know.
        """
        logits = inputs[:, -1] / self.noise**2
        if self.signals == "asked":
            # log(1 - p + p exp(.)) of each other token, without what all classes share.
            p = logits.new_tensor(self.p_signal)
            likelihood = (inputs[:, :-1] - 0.5) / self.noise**2
            logits = logits + torch.logaddexp(torch.log1p(-p), p.log() + likelihood).sum(1)
        return logits.softmax(-1)


def squared_error(outputs: Tensor, sample: Sample) -> Tensor:
    """Mean over rows and dimensions of the squared distance to the unit vector asked for.

    Args:
        outputs: `(B, L, d)`, of which the last position counts, or `(B, d)`.
    """
    found = answers(outputs, sample)
    return F.mse_loss(found, F.one_hot(sample.targets, found.shape[-1]).to(found.dtype))
