"""The cache that `generate` gets, for our decoder and for models with attached mechanisms."""

from typing import Any, cast

from headway.decoder.cache import HeadwayCache, check_offloading
from headway.errors import HeadwayError

CACHES = (None, "dynamic", "static", "offloaded", "offloaded_static")


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
        cache = model_kwargs.get("past_key_values")
        if cache is not None:
            recording = generation_config.is_assistant and not isinstance(cache, HeadwayCache)
            HeadwayCache.adopt(cache, self.config)
            if recording:
                cache.activate_past_recording()
        return prepared
