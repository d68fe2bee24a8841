"""Keys and values of earlier tokens, and what the mechanisms carry beside them."""

from collections.abc import Iterable
from functools import cache as memoized
from typing import Any, Self, cast

import torch
from torch import LongTensor, Tensor
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    StaticCache,
    StaticLayer,
    StaticSlidingWindowLayer,
)

from headway.errors import HeadwayError
from headway.mechanisms.base import Dims, Mechanism
from headway.mechanisms.sizes import dims_of, mechanisms_of
from headway.mechanisms.state import DecodeState
from headway.pickling import reduce_by

LAYER_KINDS = (DynamicLayer, DynamicSlidingWindowLayer, StaticLayer, StaticSlidingWindowLayer)


class WithState(CacheLayerMixin):
    """Added to one of transformers' cache layers: the decode state follows keys and values."""

    state: DecodeState

    def activate_past_recording(self) -> None:
        """Keep all raw rows until the next crop, so that it can go back."""
        self.state.record = True
        if hasattr(super(), "activate_past_recording"):
            cast(Any, super()).activate_past_recording()

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens (`-n`).

        Raises:
            HeadwayError: the mechanisms' rows before them are gone, or the number is positive,
                which versions of transformers read differently.
        """
        if isinstance(self, StaticLayer):
            if tokens_to_remove:
                raise HeadwayError(
                    f"crop: {abs(tokens_to_remove)} tokens cannot be taken back from a static "
                    "cache; use the dynamic cache"
                )
            return
        if tokens_to_remove > 0:
            raise HeadwayError(
                f"crop: {tokens_to_remove} is not accepted; accepted is -n, which takes back the "
                "last n tokens"
            )
        self.state.crop(tokens_to_remove)
        if self.is_initialized:
            cast(Any, super()).crop(tokens_to_remove)

    def reorder_cache(self, beam_idx: LongTensor) -> None:
        """Follow the beams."""
        super().reorder_cache(beam_idx)
        self.state.select(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row of the batch."""
        cast(Any, super()).batch_repeat_interleave(repeats)
        self.state.repeat(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows of the batch."""
        cast(Any, super()).batch_select_indices(indices)
        self.state.select(indices)

    def reset(self) -> None:
        """Forget everything; a static layer in place."""
        if isinstance(self, DynamicLayer):
            self.keys = self.values = None
            self.is_initialized = False
        super().reset()
        self.state.reset()


def _with_state(kind: type) -> type:
    """One class a kind. Those of `LAYER_KINDS` are made already, as a compiler makes none."""
    return _LAYERS[kind] if kind in _LAYERS else _make_with_state(kind)


@memoized
def _make_with_state(kind: type) -> type:
    body: dict[str, Any] = {"__reduce_ex__": reduce_by(_with_state, kind)}
    if issubclass(kind, StaticLayer):
        body["is_croppable"] = False
    return type(kind.__name__, (WithState, kind), body)


def _stateful(layer: Any, state: DecodeState) -> Any:
    """A copy with a decode state: a compiler lets no object change its class."""
    kind: Any = _with_state(type(layer))
    made = kind.__new__(kind)
    for name, value in vars(layer).items():
        setattr(made, name, value)
    made.state = state
    return made


def _as_both(kind: Any) -> Any:
    """Some code of transformers asks for its own kinds of cache; made as in `_with_state`."""
    return _CACHES[kind] if kind in _CACHES else _make_both(kind)


@memoized
def _make_both(kind: Any) -> Any:
    body = {"__module__": __name__, "__reduce_ex__": reduce_by(_as_both, kind)}
    return type(HeadwayCache.__name__, (HeadwayCache, kind), body)


class HeadwayCache(Cache):
    """Cache of a `HeadwayModel` or of a model with attached mechanisms.

    Beside a layer's keys and values it holds the raw last rows that KV shift and short
    convolutions need, and the layers that mechanisms fill themselves. Layers are of the kinds that
    transformers takes for the configuration: full or sliding, growing or fixed.

    Args:
        config: the model's configuration.
        max_cache_len: a fixed number of tokens for compiled decoding, or None to grow.
        offloading: keep the keys and values of all but the current layer on the CPU; the few raw
            rows stay where they are.
        layers: at least so many, or None for what the configuration's mechanisms ask for; a model
            knows it, so that its call is traced without reading them.

    Attributes:
        renumbers: positions count inside the cache, as it forgets tokens (`WaiverCache`).

    Raises:
        HeadwayError: offloading where there is no GPU to come back to.
    """

    renumbers = False

    def __new__(
        cls, config: Any = None, max_cache_len: int | None = None, *rest: Any, **named: Any
    ) -> Self:
        kind = DynamicCache if max_cache_len is None else StaticCache
        return cast(Self, super().__new__(_as_both(kind) if cls is HeadwayCache else cls))

    def __init__(
        self,
        config: Any,
        max_cache_len: int | None = None,
        offloading: bool = False,
        layers: int | None = None,
    ) -> None:
        if offloading:
            check_offloading("offloaded")
        Cache.__init__(self, layers=_empty_layers(config, max_cache_len), offloading=offloading)
        self._take_in(config, max_cache_len, layers)

    @staticmethod
    def adopt(given: Any, config: Any, layers: int | None = None) -> "HeadwayCache":
        """Make one of transformers' caches a `HeadwayCache`, in place, as others may hold it.

        Args:
            given: the cache.
            config: the model's configuration.
            layers: as in the class.

        Raises:
            HeadwayError: it holds tokens already, or layers of a kind that is not known here.
        """
        if isinstance(given, HeadwayCache):
            return given
        if not isinstance(given, Cache):
            raise HeadwayError(
                f"past_key_values: a {type(given).__name__} is not accepted; accepted is "
                "headway.HeadwayCache(model.config)"
            )
        known: list[Any] = given.layers
        for layer in known:
            if type(layer) not in LAYER_KINDS:
                raise HeadwayError(
                    f"past_key_values: a cache with a {type(layer).__name__} cannot hold what "
                    "mechanisms carry; accepted are dynamic, static and sliding layers"
                )
        if any(layer.get_seq_length() for layer in known):
            raise HeadwayError(
                f"past_key_values: a {type(given).__name__} that was filled elsewhere lacks what "
                "mechanisms carry; accepted are an empty one and headway.HeadwayCache(model.config)"
            )
        fixed = [lay.max_cache_len for lay in known if isinstance(lay, StaticLayer)]
        length = max(fixed) if fixed else None
        if not known:
            known.extend(_empty_layers(config, None))
            given.layer_class_to_replicate = None
        kind = cast(Any, type(given))
        given.__class__ = _as_both(kind)
        adopted = cast(HeadwayCache, given)
        adopted._take_in(config, length, layers)
        return adopted

    def _take_in(self, config: Any, max_cache_len: int | None, layers: int | None) -> None:
        wanted = layers_wanted(mechanisms_of(config), dims_of(config)) if layers is None else layers
        for _ in range(len(self.layers), wanted):
            # What a mechanism fills itself is read by the last layer, hence of its kind.
            self.layers.append(_empty_layers(config, max_cache_len)[-1])
        self.fixed_length = max_cache_len
        for i, layer in enumerate(self.layers):
            self.layers[i] = _stateful(layer, DecodeState(static=max_cache_len is not None))

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Put new keys and values behind those of a layer.

        Args:
            key_states: `(B, G, T, D)`.
            value_states: `(B, G, T, D)`.
            layer_idx: which layer.
            args: as transformers' layers take them.
            kwargs: as transformers' layers take them.

        Returns:
            All of both, `(B, G, S, D)`.
        """
        if self.offloading:
            # transformers 5.17 fetches the next layer without asking whether it has left yet.
            here = torch.cuda.default_stream(key_states.device)
            cast(Any, self.prefetch_stream).wait_stream(here)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def reorder_cache(self, beam_idx: LongTensor) -> None:
        """Follow the beams."""
        self._wait_for_copies()
        super().reorder_cache(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row of the batch."""
        self._wait_for_copies()
        super().batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows of the batch."""
        self._wait_for_copies()
        super().batch_select_indices(indices)

    def reset(self) -> None:
        """Forget everything."""
        self._wait_for_copies()
        super().reset()

    def _wait_for_copies(self) -> None:
        """Wait for offloaded layers that are on their way to the CPU or back."""
        if self.offloading:
            layers: list[Any] = self.layers
            for device in {layer.device for layer in layers if layer.get_seq_length()}:
                torch.cuda.synchronize(device)

    def state(self, layer_idx: int) -> DecodeState:
        """What the mechanisms of one layer carry."""
        layer = self.layers[layer_idx]
        assert isinstance(layer, WithState)
        return layer.state


def layers_wanted(mechanisms: Iterable[Mechanism], dims: Dims) -> int:
    """How many layers of a cache the mechanisms ask for, as they fill some themselves."""
    own = [slot for mechanism in mechanisms for slot in mechanism.cache_slots(dims)]
    return 1 + max(own, default=0)


def check_offloading(name: str) -> None:
    """Raise HeadwayError where there is no GPU that an offloaded cache could come back to."""
    if not torch.cuda.is_available():
        raise HeadwayError(
            f"cache_implementation: {name!r} moves layers between a GPU and the CPU, and there is "
            "no GPU; accepted here are dynamic and static"
        )


def _empty_layers(config: Any, max_cache_len: int | None) -> list[Any]:
    if max_cache_len is None:
        return list(DynamicCache(config=config).layers)
    return list(StaticCache(config=config, max_cache_len=max_cache_len).layers)


_LAYERS = {kind: _make_with_state(kind) for kind in LAYER_KINDS}
_CACHES = {kind: _make_both(kind) for kind in (DynamicCache, StaticCache)}
