"""What a configuration of the decoder may hold, field by field."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

from headway.errors import HeadwayError
from headway.mechanisms.fields import nearest

CHOICES = {
    "position": ("rope", "learned", "alibi", "none"),
    "norm": ("rms", "layer", "none"),
    "hidden_act": ("silu", "gelu"),
}
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
SIZES_OR_NONE = ("intermediate_size", "num_key_value_heads", "head_dim")
FLAGS = ("qk_norm", "attention_bias", "tie_word_embeddings", "use_cache")
ELSEWHERE = {
    "rms_norm_eps": "norm_eps",
    "layer_norm_eps": "norm_eps",
    "layer_norm_epsilon": "norm_eps",
    "rope_parameters": "rope_theta",
    "rope_scaling": "rope_theta",
    "activation_function": "hidden_act",
    "n_embd": "hidden_size",
    "d_model": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}
"""How other models' configurations call a field of ours."""
STORED = (
    "_commit_hash",
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "model_type",
    "per_layer_config",
    "quantization_config",
)
"""What transformers takes or stores beside the attributes of its `PreTrainedConfig`."""


def check_names(given: Mapping[str, Any], kind: type[PreTrainedConfig]) -> None:
    """Refuse what would have no effect.

    Call it for what a person writes, not for what is read from a saved `config.json`: a newer
    transformers may have added names to that.

    Args:
        given: names that are no fields, with their values.
        kind: the class of the configuration.

    Raises:
        HeadwayError: transformers does not know such a name either.
    """
    if not given:
        return
    stored = {*STORED, *vars(PreTrainedConfig()), *vars(GenerationConfig())}
    for name, value in given.items():
        known = name in stored or isinstance(getattr(PreTrainedConfig, name, None), property)
        if known and name not in ELSEWHERE:
            continue
        common = {f.name for f in dataclasses.fields(PreTrainedConfig)}
        ours = [f.name for f in dataclasses.fields(kind) if f.name not in common]
        hint = f" (did you mean {ELSEWHERE[name]!r}?)" if name in ELSEWHERE else nearest(name, ours)
        raise HeadwayError(
            f"{name}: the field is unknown{hint}, and so {value!r} would have no effect; accepted "
            f"are {', '.join(ours)}, and what transformers stores, such as attn_implementation"
        )


def check_values(config: Any) -> None:
    """Refuse values that no model could be built of, each field by itself.

    Raises:
        HeadwayError: names the field, the value and what is accepted.
    """
    for field, accepted in CHOICES.items():
        value = getattr(config, field)
        if value not in accepted:
            raise HeadwayError(
                f"{field}: {value!r} is unknown{nearest(str(value), accepted)}; accepted are "
                f"{', '.join(accepted)}"
            )
    for field in SIZES + SIZES_OR_NONE:
        value = getattr(config, field)
        if value is None and field in SIZES_OR_NONE:
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise HeadwayError(f"{field}: {value!r} is no whole number; accepted are 1 and more")
        if value < 1:
            raise HeadwayError(f"{field}: {value} is too small; accepted are 1 and more")
    for field in FLAGS:
        value = getattr(config, field)
        if not isinstance(value, bool):
            raise HeadwayError(f"{field}: {value!r} is not accepted; accepted are true and false")
    _check_numbers(config)
    listed = config.mechanisms
    if not (listed is None or isinstance(listed, list | tuple)):
        raise HeadwayError(
            f"mechanisms: {listed!r} is no list; accepted is a list, as in [KVShift()]"
        )


def _check_numbers(config: Any) -> None:
    for field in ("norm_eps", "initializer_range"):
        value = getattr(config, field)
        if not (_finite(value) and value >= 0):
            raise HeadwayError(
                f"{field}: {value!r} is not accepted; accepted are finite numbers from 0"
            )
    if not (_finite(config.rope_theta) and config.rope_theta > 0):
        raise HeadwayError(
            f"rope_theta: {config.rope_theta!r} is not accepted; accepted are finite numbers "
            "above 0"
        )
    factor = config.attention_multiplier
    if not (factor is None or _finite(factor)):
        raise HeadwayError(
            f"attention_multiplier: {factor!r} is not accepted; accepted are finite numbers, or "
            "none for head_dim ** -0.5"
        )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def even_split(width: int, heads: int, rotates: bool) -> int:
    """The width of each head.

    Args:
        width, heads: `hidden_size` and `num_attention_heads`.
        rotates: whether the width of a head must be even.

    Raises:
        HeadwayError: heads would not be equally wide.
    """
    if width % heads == 0:
        return width // heads
    unit = 2 if rotates else 1
    fitting = [n for n in range(1, width + 1) if width % (n * unit) == 0]
    numbers = f"num_attention_heads of {', '.join(map(str, fitting))}, " if fitting else ""
    raise HeadwayError(
        f"hidden_size: {width} is not divisible by num_attention_heads={heads}; accepted are "
        f"multiples of {heads * unit}, {numbers}or a head_dim of its own"
    )
