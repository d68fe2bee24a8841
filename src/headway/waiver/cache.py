"""A cache of bounded size: the waivers of a stream and a window of recent tokens."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from torch import LongTensor, Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from headway.decoder.cache import HeadwayCache, WithState
from headway.decoder.cache_name import CACHE
from headway.errors import HeadwayError
from headway.hosts.attach import bare
from headway.waiver.cache_layer import Pass, WaiverLayer
from headway.waiver.cache_watch import watch_of
from headway.waiver.held import Held
from headway.waiver.rotation import measured_rotations

PROFILED = 64
"""Tokens in which 'auto' looks for waivers: the length for which the sink metric is defined
(arXiv 2410.10781); over longer texts all shares fall."""
PROBES = 8
"""Single tokens on which a model shows how it turns its keys."""


@runtime_checkable
class HasWaivers(Protocol):
    """Such as a `SinkProfile`."""

    def waivers(self) -> tuple[int, ...]:
        """Positions of the waivers, from 0."""
        ...


Keep = int | Sequence[int] | Literal["auto"] | HasWaivers


class WaiverCache(HeadwayCache, DynamicCache):
    """Keys and values of kept tokens and of the last `window` ones; any length, constant memory.

    A token sees the kept tokens that have left the window, and the last `window` tokens, itself
    counted. Positions are re-numbered inside the cache, so that the kept tokens stand directly
    before the window (StreamingLLM, arXiv 2309.17453, section 3.2): kept keys are turned there in
    every step, each time from the key that the model made, so that nothing drifts. Tokens that are
    fed together, such as a prompt, see all that is held and each other, as in any prompt; the
    window is cut behind them. What mechanisms carry beside keys and values is held too, and their
    positions count inside the cache.

    While the cache lives, the model's stack of layers has a forward pre-hook, which reads padding
    off the call and tells the model bounded positions. Calls without this cache are not touched.

    Args:
        model: a causal language model of transformers with rotary positions, or BLOOM, or ours with
            'rope', 'alibi' or 'none', each with mechanisms or without. It is run on a few single
            tokens, to see how its layers turn their keys.
        window: recent tokens that a token sees, itself counted; at least 2.
        keep: how many of the first tokens to keep, or the positions to keep, or an object whose
            `waivers()` gives them (a `SinkProfile`), or 'auto': the waivers that `profile_sinks`
            finds in the first 64 tokens, which are to be fed at once; none found is a warning.

    Raises:
        HeadwayError: a value that is not accepted, or a model whose keys cannot be moved: learned
            or sinusoidal positions, frequencies that change with the length, layers that are no
            plain attention, an attention window of its own that is shorter than what is held.
    """

    renumbers = True

    def __init__(self, model: nn.Module, window: int = 512, keep: Keep = 4) -> None:
        host = bare(model)
        if type(window) is not int or window < 2:
            raise HeadwayError(f"window: value is {window!r}; accepted are whole numbers from 2")
        self.window = window
        self.keep = None if keep == "auto" else positions_to_keep(keep, window)
        self._own_window = _own_window(host.config)
        if self.keep is not None:
            self._check_own_window(self.keep)
        slots = HeadwayCache(host.config).layers
        Cache.__init__(self, layers=cast(Any, [WaiverLayer() for _ in slots]))
        self.fixed_length = None
        self.watch = watch_of(host)
        self._held: Held | None = None
        self._passes, self._first_place = 0, 0
        self._measure(host)

    def begin(self, shown: Tensor, ids: Tensor | None, mask: Any) -> tuple[Tensor, Tensor]:
        """Called by the model's hook at the start of a forward pass.

        Args:
            shown: `(B, T, ...)`, ids or embeddings.
            ids: `(B, T)`, or None.
            mask: `(B, seen + T)` with padding on the left, or None.

        Returns:
            Positions `(1, T)`, of which differences alone have a meaning, and `(B, held + T)`,
            whether a key is a token, on the CPU.

        Raises:
            HeadwayError: a mask of another form, or a pass before that was not finished.
        """
        batch, tokens = shown.shape[:2]
        if any(layer.used and layer.passes != self._passes for layer in self._waiver_layers()):
            raise HeadwayError(
                "past_key_values: this cache was left in the middle of a forward pass; call "
                "reset() and feed the text again"
            )
        held, ones = self._held, None
        if mask is not None:
            ones = _checked(mask, tokens + (0 if held is None else held.seen))
        if held is None:
            padding = _padding(ones)
            held = Held(self._kept(ids, padding), self.window, padding)
            held.place = self._first_place
        elif ones is not None and not bool(ones[:, -tokens:].all()):
            raise HeadwayError(
                "attention_mask: zeros in tokens that follow others are not accepted; accepted is "
                "padding on the left of the first ones"
            )
        real = held.real(tokens).expand(batch, -1)
        step = held.step(tokens)
        self._held, self._passes = held, self._passes + 1
        coming = Pass(self._passes, step)
        for layer in self._waiver_layers():
            layer.coming = coming
        positions = torch.arange(held.place - tokens, held.place, device=shown.device)
        return positions[None], real

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Tokens that stand before the next one, as the cache counts."""
        return self._waiver_layers()[layer_idx].held()

    def reorder_cache(self, beam_idx: LongTensor) -> None:
        """Follow the beams."""
        super().reorder_cache(beam_idx)
        if self._held is not None:
            self._held.select(beam_idx.cpu())

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows of the batch."""
        super().batch_select_indices(indices)
        if self._held is not None:
            self._held.select(indices.cpu())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row of the batch."""
        super().batch_repeat_interleave(repeats)
        if self._held is not None:
            self._held.repeat(repeats)

    def reset(self) -> None:
        """Forget everything; the next token is the first of a new stream."""
        cast(Any, super()).reset()
        self._held, self._passes = None, 0

    def _waiver_layers(self) -> list[WaiverLayer]:
        return cast(list[WaiverLayer], self.layers)

    def _measure(self, host: Any) -> None:
        """Find out which slots are used, and how each turns its keys."""
        embedding = host.get_input_embeddings().weight
        tokens = torch.linspace(0, embedding.shape[0] - 1, PROBES, device=embedding.device)
        training = [module for module in host.modules() if module.training]

        def keys_at(position: int) -> list[Tensor | None]:
            self._first_place = position
            with torch.no_grad():
                host(input_ids=tokens.long()[:, None], use_cache=True, **{CACHE: self})
            keys: list[Tensor | None] = [layer.keys for layer in self._waiver_layers()]
            self.reset()
            return keys

        keep, self.keep = self.keep, ()
        try:
            host.eval()
            found = measured_rotations(host.config, host.get_decoder(), keys_at)
        finally:
            self.keep, self._first_place = keep, 0
            for module in training:
                module.training = True
        for layer, (used, rotation) in zip(self._waiver_layers(), found, strict=True):
            layer.used, layer.rotation = used, rotation

    def _kept(self, ids: Tensor | None, padding: Tensor) -> tuple[int, ...]:
        if self.keep is not None:
            return self.keep
        if ids is None or ids.shape[1] < PROFILED or bool(padding.any()):
            raise HeadwayError(
                f"keep: 'auto' looks for waivers in the first tokens fed, at least {PROFILED} ids "
                "at once without padding; accepted besides are a number, positions and a profile"
            )
        from headway.waiver.profile import profile_sinks

        host = self.watch.host()
        assert host is not None
        found = positions_to_keep(profile_sinks(host, ids[:, :PROFILED]), self.window)
        if not found:
            warnings.warn(
                f"keep: 'auto' found no waiver in the first {PROFILED} tokens, so none is kept",
                UserWarning,
                stacklevel=2,
            )
        self._check_own_window(found)
        return found

    def _check_own_window(self, keep: Sequence[int]) -> None:
        held = self.window + len(keep)
        if self._own_window is not None and held > self._own_window:
            raise HeadwayError(
                f"window: {self.window} tokens and {len(keep)} kept ones are more than the model's "
                f"own sliding_window={self._own_window} sees; accepted are up to "
                f"{self._own_window - len(keep)} beside {len(keep)} kept ones"
            )


def positions_to_keep(keep: Any, window: int) -> tuple[int, ...]:
    """The positions that `keep` means, in order; see `WaiverCache`.

    Raises:
        HeadwayError: it means none that can be kept.
    """
    positions: Any = keep
    if isinstance(keep, HasWaivers):
        positions = keep.waivers()
    if type(keep) is int and 0 <= keep <= window:
        positions = range(keep)
    if not isinstance(positions, Sequence) or any(type(p) is not int or p < 0 for p in positions):
        raise HeadwayError(
            f"keep: value is {keep!r}; accepted are a number of first tokens from 0 to the window "
            f"({window}), positions from 0 on, a profile, and 'auto'"
        )
    if len(positions) > window:
        raise HeadwayError(
            f"keep: {len(positions)} positions are more than the window of {window}; accepted are "
            f"up to {window}"
        )
    return tuple(sorted(set(positions)))


def cache_bytes(cache: Cache) -> int:
    """Bytes of memory behind all tensors that a cache holds for its tokens."""
    found: list[Any] = []
    for layer in cache.layers:
        found += vars(layer).values()
        found += layer.state.rows.values() if isinstance(layer, WithState) else ()
    held = [x.untyped_storage() for x in found if isinstance(x, Tensor) and x.dim() > 1]
    return sum({storage.data_ptr(): storage.nbytes() for storage in held}.values())


def _own_window(config: Any) -> int | None:
    """The shortest attention window of the model's own, or None.

    Raises:
        HeadwayError: layers that are no plain attention.
    """
    if config.is_encoder_decoder:
        raise HeadwayError(
            f"model: {config.model_type!r} is an encoder-decoder, whose cache holds two kinds of "
            "keys; accepted are decoders"
        )
    windows = []
    for layer in DynamicCache(config=config).layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise HeadwayError(
                f"model: {config.model_type!r} has layers that keep a {type(layer).__name__}; "
                "accepted are models whose every layer is softmax attention"
            )
        if isinstance(layer, DynamicSlidingWindowLayer):
            windows.append(layer.sliding_window)
    if getattr(config, "attention_chunk_size", None):
        raise HeadwayError(
            f"model: {config.model_type!r} attends inside chunks of its own; accepted are models "
            "whose layers see all earlier tokens or a sliding window"
        )
    return min(windows, default=None)


def _checked(mask: Any, columns: int) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dim() != 2 or mask.shape[1] != columns:
        told = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise HeadwayError(
            f"attention_mask: {told} is not accepted with a WaiverCache; accepted is (batch, "
            f"{columns}), ones and zeros, tokens seen before counted"
        )
    return mask.bool()


def _padding(ones: Tensor | None) -> Tensor:
    """Columns of padding on the left of each row, or of one row that stands for all."""
    if ones is None or bool(ones.all()):
        return torch.zeros(1, dtype=torch.long)
    zeros = (~ones).sum(-1)
    columns = torch.arange(ones.shape[1], device=ones.device)
    if not torch.equal(ones, columns >= zeros[:, None]):
        raise HeadwayError(
            "attention_mask: zeros on the right or between ones are not accepted with a "
            "WaiverCache; accepted is padding on the left"
        )
    return zeros.cpu()
