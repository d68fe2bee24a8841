"""Windows of tokens: which tokens a training step and a validation read."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from headway.errors import HeadwayError

Tokens = np.ndarray[Any, np.dtype[np.integer[Any]]]
Indices = np.ndarray[Any, np.dtype[np.int64]]


class Windows:
    """Seeded training windows: the batch of a step depends on the seed and the step alone.

    In every epoch the tokens are cut, from a random offset below `context` on, into windows of
    `context` inputs that do not overlap, and these are taken in random order. So no token is an
    input twice in an epoch, and none is a target twice; up to two windows at the ends are left out.
    """

    def __init__(self, tokens: Tokens, context: int, batch_size: int, seed: int) -> None:
        """`tokens` (number of tokens,) of the training split; `context` inputs a window.

        Raises HeadwayError when the tokens are fewer than `context` + 1, `context` or `batch_size`
        is below 1, or `seed` below 0.
        """
        if batch_size < 1:
            raise HeadwayError(f"batch_size={batch_size}: at least 1 is accepted")
        if seed < 0:
            raise HeadwayError(f"seed={seed}: 0 or more is accepted")
        _require_window(tokens, context, "train")
        self._tokens = tokens
        self._context = context
        self._batch_size = batch_size
        self._seed = seed
        fitting = (len(tokens) - 1) // context
        self._windows = max(1, fitting - 1)  # one less, so that any offset leaves as many
        self._starts = lru_cache(maxsize=2)(self._shuffled_starts)  # a batch can span two epochs

    def batch(self, step: int) -> torch.Tensor:
        """The windows of `step`, counted from 0: int64 (B, context + 1).

        Inputs are [:, :-1], targets [:, 1:].
        """
        return _gather(self._tokens, self._places(step), self._context)

    def _places(self, step: int) -> Indices:
        """The first token of each window of `step`: (B,)."""
        first = step * self._batch_size
        places = [divmod(first + row, self._windows) for row in range(self._batch_size)]
        return np.array([self._starts(epoch)[place] for epoch, place in places])

    def _shuffled_starts(self, epoch: int) -> Indices:
        """The first token of each window of an epoch, in the order of training."""
        random = np.random.default_rng((self._seed, epoch))
        slack = len(self._tokens) - 1 - self._windows * self._context
        offset = random.integers(min(self._context, slack + 1))
        return random.permutation(self._windows) * self._context + offset


class ResidentWindows(Windows):
    """The same windows, cut on the device that trains, where all tokens lie: 4 bytes each."""

    def __init__(
        self, tokens: Tokens, context: int, batch_size: int, seed: int, device: torch.device
    ) -> None:
        """As `Windows`, with the device."""
        super().__init__(tokens, context, batch_size, seed)
        self._resident = torch.from_numpy(tokens.astype(np.int32)).to(device)
        self._reach = torch.arange(context + 1, device=device)

    def batch(self, step: int) -> torch.Tensor:
        """As `Windows.batch`, on the device."""
        starts = torch.from_numpy(self._places(step)).to(self._resident.device)
        return self._resident[starts[:, None] + self._reach].long()


def validation_windows(
    tokens: Tokens, context: int, count_tokens: int, split: str = "validation"
) -> torch.Tensor:
    """Windows of `context` inputs, evenly spaced over `tokens` and without overlap.

    Returns int64 (N, context + 1) with N the windows that `count_tokens` inputs make or, if that is
    more, that `tokens` hold. `split` is the name of the tokens in errors.

    Raises HeadwayError when the tokens are fewer than `context` + 1, `context` is below 1, or
    `count_tokens` below `context`.
    """
    _require_window(tokens, context, split)
    if count_tokens < context:
        raise HeadwayError(
            f"validation_tokens={count_tokens}: at least one context of {context} is accepted"
        )
    last = len(tokens) - 1 - context
    count = min(count_tokens, len(tokens) - 1) // context
    starts = np.arange(count) * last // max(1, count - 1)
    return _gather(tokens, starts, context)


def _require_window(tokens: Tokens, context: int, split: str) -> None:
    if context < 1:
        raise HeadwayError(f"context={context}: at least 1 is accepted")
    if len(tokens) <= context:
        raise HeadwayError(
            f"context={context}: the {split} split has {len(tokens)} tokens and one window needs "
            f"{context + 1}; a context below {len(tokens)} or more text is accepted"
        )


def _gather(tokens: Tokens, starts: Indices, context: int) -> torch.Tensor:
    """The windows of `context` + 1 tokens that begin at `starts`, as int64."""
    windows = tokens[starts[:, None] + np.arange(context + 1)]
    return torch.from_numpy(windows.astype(np.int64))
