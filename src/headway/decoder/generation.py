"""The cache that `generate` gets, for our decoder and for models with attached mechanisms."""

from typing import Any, NoReturn, cast

from transformers import Cache

from headway.decoder.cache import HeadwayCache, check_offloading
from headway.decoder.cache_name import CACHE
from headway.errors import HeadwayError

CACHES = (None, "dynamic", "static", "offloaded", "offloaded_static")


def refuse_pages(name: str) -> NoReturn:
    """Refuse transformers' continuous batching, asked for by `name`.

    Raises:
        HeadwayError: always.
    """
    raise HeadwayError(
        f"{name}: continuous batching is not accepted, as its pages of keys and values have no "
        "room for what mechanisms carry; accepted is generate, which takes padded batches"
    )


def check_pages(config: Any, cache: Any) -> None:
    """Refuse a forward pass of continuous batching, which comes with a paged cache as `cache`.

    Args:
        config: of the model.
        cache: the argument of that name.

    Raises:
        HeadwayError: it is one.
    """
    implementation = config._attn_implementation or ""
    if implementation.startswith("paged|"):
        refuse_pages(f"attn_implementation: {implementation!r}")
    if cache is not None and not isinstance(cache, Cache):
        refuse_pages("cache")


class HeadwayGeneration:
    """To be inherited before transformers' `GenerationMixin`."""

    config: Any

    def _prepare_cache_for_generation(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> Any:
        """Let `generate` choose its cache, and make that a `HeadwayCache`.

        Raises:
            HeadwayError: the kind has no room for what mechanisms carry, or cannot run here.
        """
        kind = generation_config.cache_implementation
        if kind not in CACHES:
            raise HeadwayError(
                f"cache_implementation: {kind!r} is not accepted; accepted are "
                f"{', '.join(name for name in CACHES if name)}"
            )
        if kind is not None and "offloaded" in kind:
            check_offloading(kind)
        prepared = cast(Any, super())._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )
        cache = model_kwargs.get(CACHE)
        if cache is not None:
            recording = generation_config.is_assistant and not isinstance(cache, HeadwayCache)
            HeadwayCache.adopt(cache, self.config)
            if recording:
                cache.activate_past_recording()
        return prepared

    def generate_batch(self, *_args: Any, **_options: Any) -> NoReturn:
        """Refused with a HeadwayError: see `refuse_pages`."""
        refuse_pages("generate_batch")

    def init_continuous_batching(self, *_args: Any, **_options: Any) -> NoReturn:
        """Refused with a HeadwayError: see `refuse_pages`."""
        refuse_pages("init_continuous_batching")

    def continuous_batching_context_manager(self, *_args: Any, **_options: Any) -> NoReturn:
        """Refused with a HeadwayError: see `refuse_pages`."""
        refuse_pages("continuous_batching_context_manager")
