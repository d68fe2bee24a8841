"""Retrofits that take a second: a tiny trained-looking Llama with a tokenizer of bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from headway.corpora.tokenizer import END_OF_TEXT, load_tokenizer
from headway_settings import RetrofitSettings

VOCABULARY = 257
SIZES: dict[str, Any] = {
    "seeds": 2,
    "steps": 6,
    "batch_size": 2,
    "context": 16,
    "learning_rate": 1e-3,
    "validation_tokens": 64,
    "device": "cpu",
}
CLOCK = ("started", "command", "tokens_per_second", "seconds")


def write_model(folder: Path, **options: Any) -> Path:
    """A folder as transformers writes it: config, safetensors, tokenizer."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": 0,
    }
    LlamaForCausalLM(LlamaConfig(**(sizes | options))).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path, eos_token: str | None = END_OF_TEXT) -> None:
    """Bytes as tokens, with or without a name for the end of text."""
    tokenizer = load_tokenizer("bytes", (), 0)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos_token).save_pretrained(folder)


def settings(model: Path, out: Path, text: Path, **changes: Any) -> RetrofitSettings:
    """A tiny retrofit."""
    return RetrofitSettings(
        **({"model": str(model), "out": out, "text": str(text)} | SIZES | changes)
    )


def words(model: Path | str, out: Path, text: Path | str, **changes: Any) -> list[str]:
    """The same as words of the command line."""
    values = {"out": out, "text": text} | SIZES | changes
    options = [w for k, v in values.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    return ["retrofit", str(model), *options]


def mechanisms_file(path: Path, listed: Any) -> str:
    """A JSON file of mechanisms."""
    path.write_text(json.dumps(listed), encoding="utf-8")
    return str(path)


def without_clock(value: Any) -> Any:
    """A summary without what a clock says and how it was asked for."""
    if not isinstance(value, dict):
        return value
    kept = {k: without_clock(v) for k, v in value.items() if k not in CLOCK}
    kept.get("settings", {}).pop("out", None)
    return kept


def logits(model: Any) -> torch.Tensor:
    """Of some tokens, in eval mode."""
    tokens = torch.randint(VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found: torch.Tensor = model.eval()(tokens).logits
    return found
