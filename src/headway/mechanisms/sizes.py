"""What mechanisms need to know of any transformers configuration."""

from typing import Any

from headway.mechanisms.base import Dims, Mechanism

CONFIG_FIELD = "mechanisms"
"""Of a configuration: the list, in JSON form."""


def mechanisms_of(config: Any) -> list[Mechanism]:
    """The mechanisms that a configuration carries in its field `mechanisms`, in JSON form.

    Raises:
        HeadwayError: one of them is unknown, or has an option that is not accepted.
    """
    return [Mechanism.from_dict(m) for m in getattr(config, CONFIG_FIELD, None) or []]


def dims_of(config: Any, qk_norm: bool = False) -> Dims:
    """Sizes from transformers' field names (`hidden_size`, `num_attention_heads`, ...).

    Args:
        config: of a decoder-only model.
        qk_norm: whether the model norms queries and keys per head.
    """
    heads = config.num_attention_heads
    key_value_heads = getattr(config, "num_key_value_heads", None)
    head_dim = getattr(config, "head_dim", None)
    eps = (getattr(config, name, None) for name in NORM_EPS)
    return Dims(
        hidden_size=config.hidden_size,
        num_attention_heads=heads,
        num_key_value_heads=heads if key_value_heads is None else key_value_heads,
        head_dim=config.hidden_size // heads if head_dim is None else head_dim,
        num_hidden_layers=config.num_hidden_layers,
        norm_eps=next((e for e in eps if e is not None), 1e-5),
        qk_norm=qk_norm,
    )


NORM_EPS = ("norm_eps", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")
