"""Telling a bounded cache of the forward passes it is handed to, and the model of its positions."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headway.decoder.cache import HeadwayCache
from headway.decoder.cache_name import given_cache
from headway.errors import HeadwayError
from headway.waiver.inputs import input_names


class Watch:
    """A hook on a model's stack of layers, there as long as a cache holds this object.

    transformers gives a cache keys and values only: neither positions nor padding. The hook takes
    both from the call, and gives the model those that hold inside the cache.
    """

    def __init__(self, host: PreTrainedModel) -> None:
        self.decoder = weakref.ref(host.get_decoder())
        self.host = weakref.ref(host)
        handle = host.get_decoder().register_forward_pre_hook(
            _hook(weakref.ref(self)), with_kwargs=True
        )
        weakref.finalize(self, handle.remove)

    def __deepcopy__(self, memo: dict[int, Any]) -> Watch:
        return self

    def before(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Rewrite the call of the stack where it has a bounded cache."""
        given = given_cache(kwargs)
        if not isinstance(given, HeadwayCache) or not given.renumbers:
            return None
        if decoder is not self.decoder():
            return None  # a copy of the model took the hook along
        cache: Any = given
        if cache.watch is not self:
            raise HeadwayError(
                "past_key_values: this WaiverCache was made for another model; accepted is "
                "WaiverCache(model) of the model that is called"
            )
        ids = args[0] if args else kwargs.get("input_ids")
        shown: Tensor = kwargs["inputs_embeds"] if ids is None else ids
        positions, real = cache.begin(shown, ids, kwargs.get("attention_mask"))
        # A stack that takes no positions (BLOOM) counts distances in the columns of its mask.
        own = {"position_ids": positions} if "position_ids" in input_names(decoder) else {}
        mask = None if own and bool(real.all()) else real.to(shown.device, torch.long)
        return args, {**kwargs, "attention_mask": mask, **own}


_WATCHES: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Watch]] = weakref.WeakKeyDictionary()


def watch_of(host: PreTrainedModel) -> Watch:
    """The watch of a model; all its bounded caches share one."""
    known = _WATCHES.get(host)
    watch = None if known is None else known()
    if watch is None:
        watch = Watch(host)
        _WATCHES[host] = weakref.ref(watch)
    return watch


def _hook(watch: weakref.ref[Watch]) -> Any:
    def before(decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        living = watch()
        return None if living is None else living.before(decoder, args, kwargs)

    return before
