"""Turning cached keys: how a layer rotates them, read off the model and checked by measuring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headway.errors import HeadwayError

CHANGING = ("dynamic", "longrope")
"""Rope types of transformers whose frequencies depend on the length of the text."""
PROBE = 3
"""The position at which keys are compared with those at position 0."""
WITHOUT_ROTATION = ("bloom", "headway")
"""Model types that may leave all keys as they are: their distances are those inside the cache."""


@dataclass(frozen=True, eq=False)
class Rotation:
    """Rotary position encoding (arXiv 2104.09864) of one layer's keys.

    A turn depends on the difference of two positions alone, so a factor that the model gives its
    cosines (YaRN's attention scaling, in the cached keys already) plays no part.

    Attributes:
        frequencies: `(pairs,)`, radians a position, float64 on the CPU; the first `2 pairs`
            channels of a head are rotated.
        interleaved: pairs are neighbouring channels, not channels half the width apart.
    """

    frequencies: Tensor
    interleaved: bool = False

    def waves(self, by: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of a turn by `by` positions `(R, n)`, each `(R, 1, n, 2 pairs)`.

        Angles are counted in float64, where a billion positions cost 1e-7 of a radian.
        """
        angles = by.to(torch.float64)[:, None, :, None] * self.frequencies
        if self.interleaved:
            angles = angles.repeat_interleave(2, dim=-1)
        else:
            angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()

    def turn(self, keys: Tensor, waves: tuple[Tensor, Tensor]) -> Tensor:
        """`keys` `(B, G, n, D)` turned by `waves`; computed in float32 or wider, `D` kept."""
        wide = torch.float64 if keys.dtype == torch.float64 else torch.float32
        cos, sin = (wave.to(keys.device, wide) for wave in waves)
        rotated, rest = keys.split([cos.shape[-1], keys.shape[-1] - cos.shape[-1]], dim=-1)
        rotated = rotated.to(wide)
        turned = (rotated * cos + self._quarter(rotated) * sin).to(keys.dtype)
        return torch.cat([turned, rest], dim=-1)

    def _quarter(self, x: Tensor) -> Tensor:
        if self.interleaved:
            return torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
        low, high = x.chunk(2, dim=-1)
        return torch.cat([-high, low], dim=-1)


def measured_rotations(
    config: Any, decoder: nn.Module, keys_at: Callable[[int], Sequence[Tensor | None]]
) -> list[tuple[bool, Rotation | None]]:
    """Of each cache slot: whether it gets keys, and their rotation, or None without one.

    The frequencies stand in the model; which of them a layer uses, and in which layout, is found
    by turning keys of position 0 and comparing them with those that the model makes at another.

    Args:
        config: the model's.
        decoder: the stack of layers.
        keys_at: the keys `(B, G, 1, D)` of single tokens at a position, slot by slot.

    Raises:
        HeadwayError: keys carry positions in another way.
    """
    _check_rope_type(config)
    if config.model_type == "headway" and config.position == "learned":
        raise _added(config)
    start, moved = keys_at(0), keys_at(PROBE)
    known = _candidates(config, decoder)
    found = [
        (False, None) if k is None or m is None else (True, _match(config, known, k, m))
        for k, m in zip(start, moved, strict=True)
    ]
    if all(rotation is None for _, rotation in found) and config.model_type not in WITHOUT_ROTATION:
        raise HeadwayError(
            f"model: {config.model_type!r} leaves its keys without positions, and how it counts "
            "distances is not known here; accepted are rotary models, BLOOM and Headway's own"
        )
    return found


def _check_rope_type(config: Any) -> None:
    told = getattr(config, "rope_parameters", None) or {}
    parts = [told, *(value for value in told.values() if isinstance(value, dict))]
    for part in parts:
        kind = part.get("rope_type")
        if kind in CHANGING:
            raise HeadwayError(
                f"model: rope_type={kind!r} changes its frequencies with the length of the text, "
                "so that cached keys cannot be turned to another place; accepted are default, "
                "linear, yarn and llama3"
            )


def _candidates(config: Any, decoder: nn.Module) -> list[Rotation]:
    if config.model_type == "headway":
        if config.position != "rope":
            return []
        width = config.dims().head_dim
        steps = torch.arange(0, width, 2, dtype=torch.float64)
        return [Rotation(config.rope_theta ** (-steps / width))]
    buffers = [
        buffer.detach().to("cpu", torch.float64)
        for name, buffer in decoder.named_buffers()
        if name.endswith("inv_freq") and "original" not in name
    ]
    distinct: list[Tensor] = []
    for buffer in buffers:
        if not any(torch.equal(buffer, other) for other in distinct):
            distinct.append(buffer)
    return [Rotation(f, interleaved) for f in distinct for interleaved in (False, True)]


def _match(config: Any, known: list[Rotation], start: Tensor, moved: Tensor) -> Rotation | None:
    if torch.equal(start, moved):
        return None
    by = torch.tensor([[PROBE]])
    fitting = [r for r in known if 2 * len(r.frequencies) <= start.shape[-1]]
    errors = [float((r.turn(start, r.waves(by)) - moved).norm() / moved.norm()) for r in fitting]
    if errors and min(errors) <= 4 * torch.finfo(start.dtype).eps + 1e-6:
        return fitting[errors.index(min(errors))]
    if known:
        raise HeadwayError(
            f"model: {config.model_type!r} turns its keys in a way that is not known here; "
            "accepted are rotary encodings of the first channels of each head"
        )
    raise _added(config)


def _added(config: Any) -> HeadwayError:
    return HeadwayError(
        f"model: {config.model_type!r} adds its positions to the hidden states, so cached keys "
        "carry them for good and a table of them ends; accepted are rotary, ALiBi and no positions"
    )
