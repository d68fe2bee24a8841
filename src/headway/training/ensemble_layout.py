"""Where the parameters of a copy lie in one row of numbers.

One row a copy makes an update one elementwise kernel over `(S, P)`, however many parameters a
model has, and a copy's gradient norm one sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headway.errors import HeadwayError

ALIGNED = 4
"""Parameters start at multiples of this many numbers: 16 bytes, as matrix kernels like it."""


@dataclass(frozen=True)
class Layout:
    """Names, shapes and places.

    Attributes:
        shapes: of the parameters of one copy, by name, in the order of the row.
        width: numbers of a row, `P`; the gaps between parameters are zeros and stay so.
    """

    shapes: dict[str, torch.Size]

    @staticmethod
    def of(model: nn.Module) -> Layout:
        """The row of a model's parameters.

        Raises:
            HeadwayError: the parameters are of several dtypes.
        """
        dtypes = {str(p.dtype) for p in model.parameters()}
        if len(dtypes) != 1:
            raise HeadwayError(
                f"models: parameters of {', '.join(sorted(dtypes)) or 'no dtype'} are not "
                "accepted; accepted is one dtype for all"
            )
        return Layout({name: p.shape for name, p in model.named_parameters()})

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return sum(_padded(shape) for shape in self.shapes.values())

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """The parameters by name, `(..., *shape)`, as views of `rows` `(..., P)`.

        The row is split once, so that its gradient is one concatenation.
        """
        lengths = [n for s in self.shapes.values() for n in (s.numel(), _padded(s) - s.numel())]
        pieces = rows.split(lengths, -1)[::2]
        return {
            name: piece.view((*rows.shape[:-1], *shape))
            for piece, (name, shape) in zip(pieces, self.shapes.items(), strict=True)
        }

    def pack(self, copies: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Rows `(S, P)` of copies given by name."""
        like = next(iter(copies[0].values()))
        rows = torch.zeros(len(copies), self.width, dtype=like.dtype, device=like.device)
        for name, view in self.views(rows).items():
            view.copy_(torch.stack([c[name].detach() for c in copies]))
        return rows

    def spread(self, numbers: Mapping[str, float]) -> Tensor:
        """A row `(P,)` in which each parameter is filled with its number; 0 in the gaps."""
        return torch.cat(list(self._filled(numbers)))

    def _filled(self, numbers: Mapping[str, float]) -> Iterator[Tensor]:
        for name, shape in self.shapes.items():
            piece = torch.zeros(_padded(shape))
            piece[: shape.numel()] = numbers[name]
            yield piece


def _padded(shape: torch.Size) -> int:
    return -(-shape.numel() // ALIGNED) * ALIGNED
