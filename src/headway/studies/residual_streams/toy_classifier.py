"""The two-layer toy of Burns et al. (arXiv 2412.15113, released code), and its residual streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headway.studies.races.courses import seed_of

Stream = Literal["query", "key", "value"]
STREAMS: tuple[Stream, ...] = ("query", "key", "value")


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """What the second layer reads besides its own projections.

    Attributes:
        streams: weights (own, first layer's) by stream; a stream that is not there is (1, 0).
        own_matrix: the values get `x_0 W` too, W a matrix of its own.
        value_gain: factor on the initial weights of the second layer's values.
    """

    streams: Mapping[Stream, tuple[float, float]] = field(default_factory=dict)
    own_matrix: bool = False
    value_gain: float = 1.0

    @property
    def fixed(self) -> frozenset[str]:
        """Parameters of `StreamClassifier` that stay as they are, at zero."""
        return frozenset() if self.own_matrix else frozenset({"extra"})


class Classifier(nn.Module):
    """The two-layer toy of Burns et al. (arXiv 2412.15113, released code), of Reddy (2312.03002).

    Twice `x <- x + softmax(Q K^T) V`, one causal head, no scale, norm, bias or output projection;
    then three layers `x <- relu(x W^T + b)` with a scalar b, and a readout without bias. Only the
    last token is read, so the second layer has one query, and it projects that query back onto the
    keys' input and the weighted sum of inputs onto values instead of every token.

    Args:
        width: of a token.
        item: of its item or label vector, which the initial weights go by.
        labels: answers.
        seed: of the initial weights.
    """

    def __init__(self, width: int, item: int, labels: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int, deviation: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) * deviation)

        self.first = drawn(3 * width, width, deviation=item**-0.5)
        self.second = drawn(3 * width, width, deviation=item**-0.5)
        self.layers = nn.ParameterList(
            drawn(width, width, deviation=(2 / width) ** 0.5) for _ in range(3)
        )
        self.biases = nn.ParameterList(drawn(1, deviation=width**-0.5) for _ in range(3))
        self.readout = drawn(labels, width, deviation=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, labels)` of tokens `(B, T, width)`."""
        q, k, v = F.linear(x, self.first).chunk(3, -1)
        x = x + _attended(q, k, v)
        to_query, to_key, to_value = self.second.chunk(3)
        asked = F.linear(x[:, -1], to_query) @ to_key
        read = F.linear(_sum(_scores(asked, x).softmax(-1), x), to_value)
        return self.answer(x[:, -1] + read)

    def answer(self, y: Tensor) -> Tensor:
        """Logits `(B, labels)` of what the last token has become, `(B, width)`."""
        for matrix, bias in zip(self.layers, self.biases, strict=True):
            y = F.relu(F.linear(y, matrix) + bias)
        return F.linear(y, self.readout)


class StreamClassifier(Classifier):
    """The toy with streams: in the second layer Q, K and V are `own * Q_2 + source * Q_1` and so
    on, of the raw projections.

    All wirings share one pass, so that arms can be trained as copies in one program: the weights of
    the streams are a buffer, and the extra matrix stays zero where there is none. What two wirings
    share starts the same.

    Args:
        width, item, labels, seed: see `Classifier`.
        wiring: of the second layer.
    """

    weights: Tensor

    def __init__(self, width: int, item: int, labels: int, seed: int, wiring: Wiring) -> None:
        super().__init__(width, item, labels, seed)
        generator = torch.Generator().manual_seed(seed_of("own matrix", seed))
        extra = torch.randn(width, width, generator=generator) * item**-0.5
        self.extra = nn.Parameter(extra * wiring.own_matrix)
        with torch.no_grad():
            self.second[2 * width :] *= wiring.value_gain
        self.register_buffer(
            "weights", torch.tensor([wiring.streams.get(s, (1.0, 0.0)) for s in STREAMS])
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, labels)` of tokens `(B, T, width)`."""
        start = x
        q, k, v = F.linear(x, self.first).chunk(3, -1)
        x = x + _attended(q, k, v)
        to_query, to_key, to_value = self.second.chunk(3)
        of_query, of_key, of_value = self.weights
        query = of_query[0] * F.linear(x[:, -1], to_query) + of_query[1] * q[:, -1]
        scores = of_key[0] * _scores(query @ to_key, x) + of_key[1] * _scores(query, k)
        attention = scores.softmax(-1)
        read = of_value[0] * F.linear(_sum(attention, x), to_value)
        read = read + of_value[1] * _sum(attention, v)
        return self.answer(x[:, -1] + read + F.linear(_sum(attention, start), self.extra))


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention `(B, T, C)` without a scale."""
    hidden = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool, device=q.device).triu(1)
    return (q @ k.transpose(1, 2)).masked_fill(hidden, float("-inf")).softmax(-1) @ v


def _scores(query: Tensor, keys: Tensor) -> Tensor:
    """`(B, T)` of one query `(B, C)` on keys `(B, T, C)`."""
    return (keys * query[:, None]).sum(-1)


def _sum(attention: Tensor, values: Tensor) -> Tensor:
    """`(B, C)`: values `(B, T, C)` weighed by `(B, T)`."""
    return (attention[..., None] * values).sum(1)
