"""What one layer's mechanisms carry from one decoding step to the next."""

import torch
from torch import Tensor

from headway.errors import HeadwayError


class DecodeState:
    """The last raw rows of named projections, batch first.

    A mechanism asks for the rows that stand before the rows at hand; those are remembered for the
    next step. With `record` on, all rows since the last crop are kept, so that a crop can go back.

    Args:
        static: keep the rows in buffers whose addresses never change (compiled decoding).

    Attributes:
        numbers: `(N,)`, what the layer's mechanisms had learned when a prompt was read, in one
            piece: like keys and values, it is of the weights of that time.
        stands: whether `numbers` are of the text that is held.
    """

    def __init__(self, static: bool = False) -> None:
        self.static = static
        self.record = False
        self.rows: dict[str, Tensor] = {}
        self.numbers: Tensor | None = None
        self.stands = False
        self._needed: dict[str, int] = {}

    def before(self, name: str, x: Tensor, count: int) -> Tensor:
        """The `count` rows before `x`, zeros where there are none; remembers `x`.

        Args:
            name: which projection; one name is one memory.
            x: `(B, ..., T, D)`.
            count: how many earlier rows, at least 1.

        Returns:
            `(B, ..., count, D)`.
        """
        earlier = self.held(name, x, count)
        earlier = earlier.clone() if self.static else earlier
        self.keep(name, x)
        return earlier

    def held(self, name: str, x: Tensor, count: int) -> Tensor:
        """As `before`, without remembering `x` yet: read it before `keep` is called."""
        rows = self.rows.get(name)
        if rows is None:
            self._needed[name] = count
            rows = self.rows[name] = _no_rows(x, count)
            if self.static and not torch.compiler.is_compiling():
                torch._dynamo.mark_static_address(rows)
        return rows if rows.shape[-2] == count else rows[..., -count:, :]

    def keep(self, name: str, x: Tensor) -> None:
        """Remember `x`, once its earlier rows were asked for."""
        held, x = self.rows[name], x.detach() if x.requires_grad else x
        if self.static:
            held.copy_(_last_rows(held, x, held.shape[-2]))
        elif self.record:
            self.rows[name] = torch.cat([held, x], dim=-2)
        else:
            self.rows[name] = _last_rows(held, x, self._needed[name])

    def keep_numbers(self, numbers: Tensor) -> None:
        """Keep learned numbers `(N,)` at an address that never changes."""
        if self.numbers is None:
            self.numbers = numbers.clone()
            torch._dynamo.mark_static_address(self.numbers)
        else:
            self.numbers.copy_(numbers)
        self.stands = True

    def crop(self, tokens: int) -> None:
        """Forget the last `tokens` rows; `-n` is n, as transformers' caches write it.

        Raises:
            HeadwayError: the rows before them were not kept (`record` was off).
        """
        tokens = abs(tokens)
        for name, held in self.rows.items():
            count = self._needed[name]
            if tokens > 0 and held.shape[-2] < tokens + count:
                raise HeadwayError(
                    f"crop: {tokens} tokens cannot be taken back, because {name!r} keeps only its "
                    f"last {held.shape[-2]} raw rows; call activate_past_recording() on the cache "
                    "before the tokens are fed"
                )
            self.rows[name] = held[
                ..., held.shape[-2] - tokens - count : held.shape[-2] - tokens, :
            ]

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder the batch: `rows` holds indices of the batch."""
        for name, held in self.rows.items():
            chosen = held.index_select(0, rows.to(held.device))
            if self.static:
                held.copy_(chosen)
            else:
                self.rows[name] = chosen

    def repeat(self, times: int) -> None:
        """Repeat each row of the batch `times` times, neighbours together."""
        for name, held in self.rows.items():
            self.rows[name] = held.repeat_interleave(times, dim=0)

    def reset(self) -> None:
        """Forget everything; static buffers are zeroed in place."""
        self.stands = False
        if self.static:
            for held in self.rows.values():
                held.zero_()
        else:
            self.rows.clear()


def rows_before(state: DecodeState | None, name: str, x: Tensor, count: int) -> Tensor:
    """`state.before`, or zeros where nothing is carried (training, whole sequences)."""
    return _no_rows(x, count) if state is None else state.before(name, x, count)


def _last_rows(held: Tensor, x: Tensor, count: int) -> Tensor:
    """A copy of a prompt's end, as a view would keep all of its projections alive."""
    if x.shape[-2] == count:
        return x
    if x.shape[-2] > count:
        return x[..., -count:, :].clone()
    return torch.cat([held[..., x.shape[-2] - count :, :], x], dim=-2)


def _no_rows(x: Tensor, count: int) -> Tensor:
    return torch.zeros_like(x[..., :1, :]).expand(*x.shape[:-2], count, x.shape[-1]).contiguous()
