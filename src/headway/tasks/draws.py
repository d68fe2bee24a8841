"""Random draws without repeats, for many rows at once."""

from __future__ import annotations

import torch
from torch import Tensor

from headway.errors import HeadwayError


def distinct(rows: int, count: int, of: int, generator: torch.Generator) -> Tensor:
    """`(rows, count)`: in each row, `count` different numbers below `of`, in random order.

    Every ordered choice is equally likely: numbers that occurred before in their row are drawn
    again until none is left, which treats all numbers alike. Where most numbers are wanted, and on
    a GPU, which would be waited for at each look for repeats, a random order of all of them is cut
    instead.

    Raises:
        HeadwayError: more numbers are asked for than there are.
    """
    device = generator.device
    if count > of:
        raise HeadwayError(f"count: {count} is not accepted; accepted are at most {of}")
    on_cpu = device.type == "cpu"
    if 4 * count > of or not on_cpu:
        # Keys of which two are the same would order their numbers always alike.
        dtype = torch.float32 if on_cpu else torch.float64
        keys = torch.rand(rows, of, generator=generator, device=device, dtype=dtype)
        return keys.argsort(1)[:, :count]
    drawn = torch.randint(of, (rows, count), generator=generator, device=device)
    while (again := repeats(drawn)).any():
        fresh = torch.randint(of, (int(again.sum()),), generator=generator, device=device)
        drawn[again] = fresh
    return drawn


def previous(values: Tensor) -> Tensor:
    """`(B, N)`: where in its row each value stood last before; -1 for a first appearance."""
    ordered, where = values.sort(dim=1, stable=True)
    before = torch.full_like(where, -1)
    before[:, 1:] = where[:, :-1].where(ordered[:, 1:] == ordered[:, :-1], -1)
    return torch.empty_like(before).scatter_(1, where, before)


def repeats(values: Tensor) -> Tensor:
    """Bool `(B, N)`: this value stands further left in its row, too."""
    return previous(values) >= 0


def walk(rows: int, length: int, of: int, generator: torch.Generator) -> Tensor:
    """`(rows, length)`: uniform numbers below `of`, none the same as the one before it."""
    device = generator.device
    steps = torch.randint(1, of, (rows, length), generator=generator, device=device)
    steps[:, :1] = torch.randint(of, (rows, 1), generator=generator, device=device)
    return steps.cumsum(1) % of


def shuffled(values: Tensor, generator: torch.Generator) -> Tensor:
    """`values` `(B, N)`, each row in an order of its own."""
    keys = torch.rand(values.shape, generator=generator, device=values.device)
    return values.gather(1, keys.argsort(1))
