"""One layer of a bounded cache: kept keys, recent keys, and what mechanisms carry."""

from __future__ import annotations

from typing import Any

import torch
from torch import LongTensor, Tensor
from transformers.cache_utils import DynamicLayer

from headway.decoder.cache import WithState
from headway.errors import HeadwayError
from headway.mechanisms.state import DecodeState
from headway.waiver.held import Step
from headway.waiver.rotation import Rotation


class Pass:
    """One forward pass, shared by all layers: its step, and the waves that they turn keys by.

    Attributes:
        number: passes since the cache was empty, this one counted.
    """

    def __init__(self, number: int, step: Step) -> None:
        self.number, self.step = number, step
        self._waves: dict[tuple[Rotation, torch.device], tuple[Tensor, Tensor]] = {}

    def turn_kept(self, rotation: Rotation, keys: Tensor) -> Tensor:
        """Kept keys at their places in this pass."""
        known = rotation, keys.device
        if known not in self._waves:
            # Counted and moved to the device once for all layers.
            cos, sin = rotation.waves(self.step.turn)
            wide = torch.float64 if keys.dtype == torch.float64 else torch.float32
            self._waves[known] = cos.to(keys.device, wide), sin.to(keys.device, wide)
        return rotation.turn(keys, self._waves[known])

    def shift(self, rotation: Rotation | None, keys: Tensor) -> Tensor:
        """Recent keys after the number line was moved back."""
        if rotation is None or not self.step.shift:
            return keys
        return rotation.turn(keys, rotation.waves(torch.tensor([[self.step.shift]])))


class WaiverLayer(WithState, DynamicLayer):
    """Keys and values of the recent tokens in `keys` and `values`, the kept ones beside them."""

    is_croppable = False
    keys: Tensor
    values: Tensor
    kept_keys: Tensor
    kept_values: Tensor

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers' own
        self.state = DecodeState()
        self.rotation: Rotation | None = None
        self.used = False
        self.coming: Pass | None = None
        self.passes = self.seen = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Hold nothing, in the form of what will come."""
        super().lazy_initialization(key_states, value_states)
        self.keys, self.values = (x[..., :0, :].clone() for x in (key_states, value_states))
        self.kept_keys, self.kept_values = self.keys, self.values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Take in new tokens `(B, G, T, D)`; all that they attend to, themselves at the end.

        Raises:
            HeadwayError: the pass was not announced.
        """
        if self.coming is None:
            raise HeadwayError(
                "past_key_values: this WaiverCache was made for another model, or not handed over "
                "by its name; accepted is model(..., past_key_values=WaiverCache(model))"
            )
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        coming, self.coming = self.coming, None
        step, kept = coming.step, self.kept_keys
        recent = coming.shift(self.rotation, self.keys)
        shown = kept
        if self.rotation is not None and kept.shape[-2]:
            shown = coming.turn_kept(self.rotation, kept)
        keys = torch.cat([shown, recent, key_states], dim=-2)
        values = torch.cat([self.kept_values, self.values, value_states], dim=-2)
        if step.take is not None:
            self.kept_keys = _taken([kept, recent, key_states], step.take)
            self.kept_values = _taken([values], step.take)
        self.keys, self.values = _last(keys, step), _last(values, step)
        self.passes, self.seen = coming.number, self.seen + step.tokens
        return keys, values

    def get_seq_length(self) -> int:
        """Tokens of the stream so far, most of them forgotten."""
        return self.seen

    def held(self) -> int:
        """Tokens that the next ones see."""
        if not self.is_initialized:
            return 0
        return self.kept_keys.shape[-2] + self.keys.shape[-2]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that the next tokens attend to, and the first one's column, as the cache counts."""
        return self.held() + query_length, 0

    def activate_past_recording(self) -> None:
        """Refused: see `crop`."""
        self.crop(-1)

    def crop(self, tokens_to_remove: int) -> None:
        """Refused: what left the window cannot come back.

        Raises:
            HeadwayError: always, but for no tokens.
        """
        if tokens_to_remove:
            raise HeadwayError(
                "crop: a WaiverCache forgets what leaves its window, so tokens cannot be taken "
                "back and assisted decoding cannot use it; accepted are greedy, sampling and beam "
                "search"
            )

    def reorder_cache(self, beam_idx: LongTensor) -> None:
        """Follow the beams."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows of the batch."""
        super().batch_select_indices(indices)
        if self.is_initialized:
            self.kept_keys = self.kept_keys[indices]
            self.kept_values = self.kept_values[indices]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row of the batch."""
        super().batch_repeat_interleave(repeats)
        if self.is_initialized:
            self.kept_keys = self.kept_keys.repeat_interleave(repeats, dim=0)
            self.kept_values = self.kept_values.repeat_interleave(repeats, dim=0)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        if hasattr(self, "kept_keys"):
            del self.kept_keys, self.kept_values
        self.passes, self.seen, self.coming = 0, 0, None


def _taken(parts: list[Tensor], take: Tensor) -> Tensor:
    at_hand = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)
    batch, heads, _, width = at_hand.shape
    index = take.to(at_hand.device)[:, None, :, None]
    return at_hand.gather(-2, index.expand(batch, heads, -1, width))


def _last(x: Tensor, step: Step) -> Tensor:
    """The window; a copy after many tokens, as a view would keep all of them alive."""
    window = x[..., x.shape[-2] - step.recent :, :]
    return window.clone() if step.tokens > 1 else window
