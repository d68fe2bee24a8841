"""Keys and values of earlier tokens, and what the mechanisms carry beside them."""

from typing import Any

import torch
from torch import LongTensor, Tensor
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer

from headway.errors import HeadwayError
from headway.mechanisms.state import DecodeState


class GrowingLayer(DynamicLayer):
    """A layer of a growing cache, with a decode state."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.state = DecodeState()

    def activate_past_recording(self) -> None:
        """Keep all raw rows until the next crop, so that it can go back."""
        self.state.record = True

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens (`-n`).

        Raises:
            HeadwayError: the mechanisms' rows before them are gone.
        """
        self.state.crop(abs(tokens_to_remove))
        if self.is_initialized and tokens_to_remove:
            super().crop(tokens_to_remove)

    def reorder_cache(self, beam_idx: LongTensor) -> None:
        """Follow the beams."""
        super().reorder_cache(beam_idx)
        self.state.select(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row of the batch."""
        super().batch_repeat_interleave(repeats)
        self.state.repeat(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows of the batch."""
        super().batch_select_indices(indices)
        self.state.select(indices)

    def reset(self) -> None:
        """Forget everything."""
        self.keys = self.values = None
        self.is_initialized = False
        self.state.reset()


class FixedLayer(StaticLayer):
    """A layer of a cache of fixed size (compiled decoding), with a decode state."""

    is_croppable = False

    def __init__(self, max_cache_len: int, **kwargs: Any) -> None:
        super().__init__(max_cache_len=max_cache_len, **kwargs)
        self.state = DecodeState(static=True)

    def crop(self, tokens_to_remove: int) -> None:
        """Refused: a fixed cache keeps no rows to go back to."""
        if tokens_to_remove:
            raise HeadwayError(
                f"crop: {abs(tokens_to_remove)} tokens cannot be taken back from a static cache; "
                "use the dynamic cache"
            )

    def reorder_cache(self, beam_idx: LongTensor) -> None:
        """Follow the beams."""
        super().reorder_cache(beam_idx)
        self.state.select(beam_idx)

    def reset(self) -> None:
        """Forget everything, in place."""
        super().reset()
        self.state.reset()


class HeadwayCache(Cache):
    """Cache of a `HeadwayModel`, for `generate` and for decoding by hand.

    Beside a layer's keys and values it holds the raw last rows that KV shift and short
    convolutions need, and the layers that mechanisms fill themselves.

    Args:
        config: the model's configuration.
        max_cache_len: a fixed number of tokens for compiled decoding, or None to grow.
        offloading: keep the keys and values of all but the current layer on the CPU; the few raw
            rows stay where they are.

    Raises:
        HeadwayError: offloading where there is no GPU to come back to.
    """

    def __init__(
        self, config: Any, max_cache_len: int | None = None, offloading: bool = False
    ) -> None:
        if offloading and not torch.cuda.is_available():
            raise HeadwayError(
                "cache_implementation: 'offloaded' moves layers between a GPU and the CPU, and "
                "there is no GPU; accepted here are dynamic and static"
            )
        own = [s for m in config.mechanism_list() for s in m.cache_slots(config.dims())]
        slots = 1 + max([config.num_hidden_layers - 1, *own])
        if max_cache_len is None:
            layers: list[Any] = [GrowingLayer() for _ in range(slots)]
        else:
            layers = [FixedLayer(max_cache_len) for _ in range(slots)]
        super().__init__(layers=layers, offloading=offloading)
        self.fixed_length = max_cache_len

    def state(self, layer_idx: int) -> DecodeState:
        """What the mechanisms of one layer carry."""
        layer = self.layers[layer_idx]
        assert isinstance(layer, GrowingLayer | FixedLayer)
        return layer.state
