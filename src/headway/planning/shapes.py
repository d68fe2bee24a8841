"""Models to plan for: published sizes by name, and folders of models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headway.decoder import HeadwayConfig
from headway.errors import HeadwayError
from headway.mechanisms import Mechanism
from headway.mechanisms.fields import nearest

SHAPES: Mapping[str, dict[str, Any]] = {
    "124m": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 32_768,
    },
    "350m": {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "vocab_size": 32_768,
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
    },
    "3b": {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "tie_word_embeddings": False,
    },
    "13b": {
        "hidden_size": 5120,
        "intermediate_size": 13_824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "vocab_size": 32_000,
        "tie_word_embeddings": False,
    },
    "34b": {
        "hidden_size": 8192,
        "intermediate_size": 22_016,
        "num_hidden_layers": 48,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 32_000,
        "tie_word_embeddings": False,
    },
    "70b": {
        "hidden_size": 8192,
        "intermediate_size": 28_672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "tie_word_embeddings": False,
    },
}
"""The benches' two sizes, then Llama 3.2 1B and 3B, Llama 3.1 8B, Llama 2 13B, Code Llama 34B and
Llama 3.1 70B, as the config.json of each says."""

LIKE_OURS = {"llama": False, "mistral": False, "qwen3": True}
"""Model types of transformers that our decoder can be, and whether they norm queries and keys."""


def shape_named(name: str, mechanisms: Sequence[Mechanism] = ()) -> HeadwayConfig:
    """The configuration of a size of `SHAPES`, of a folder with a config.json, or of such a file.

    Args:
        name: of the size, or a path.
        mechanisms: to put in; a folder of ours brings its own where there are none.

    Raises:
        HeadwayError: neither, or a model that is not built like our decoder.
    """
    listed = list(mechanisms)
    if name in SHAPES:
        return HeadwayConfig(**SHAPES[name], mechanisms=listed)
    path = Path(name)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise HeadwayError(
            f"shapes: {name!r} is unknown{nearest(name, SHAPES)}; accepted are "
            f"{', '.join(SHAPES)}, or a folder with a config.json"
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        kind = fields["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HeadwayError(
            f"shapes: {str(path)!r} cannot be read ({error}); accepted is a model's config.json"
        ) from error
    if kind == "headway":
        return HeadwayConfig(**(fields | ({"mechanisms": listed} if listed else {})))
    return _like_ours(path, kind, fields, listed)


def _like_ours(
    path: Path, kind: str, fields: Mapping[str, Any], mechanisms: list[Mechanism]
) -> HeadwayConfig:
    if kind not in LIKE_OURS:
        raise HeadwayError(
            f"shapes: {str(path)!r} is of the type {kind!r}; accepted are headway, "
            f"{', '.join(LIKE_OURS)}"
        )
    if fields.get("mlp_bias"):
        raise HeadwayError(
            f"shapes: {str(path)!r} has biases in its feed-forward parts; accepted are models "
            "without"
        )
    from transformers import AutoConfig

    told = AutoConfig.for_model(**dict(fields))
    return HeadwayConfig(
        vocab_size=told.vocab_size,
        hidden_size=told.hidden_size,
        intermediate_size=told.intermediate_size,
        num_hidden_layers=told.num_hidden_layers,
        num_attention_heads=told.num_attention_heads,
        num_key_value_heads=told.num_key_value_heads,
        head_dim=getattr(told, "head_dim", None),
        qk_norm=LIKE_OURS[kind],
        attention_bias=bool(getattr(told, "attention_bias", False)),
        tie_word_embeddings=told.tie_word_embeddings,
        max_position_embeddings=told.max_position_embeddings,
        mechanisms=mechanisms,
    )
