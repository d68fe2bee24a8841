"""What the command line is asked to do: plain data, importable in milliseconds.

This module lies outside the package because importing `headway` imports torch, and the command line
must be able to print its help or say no without that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__version__ = "0.1.0"

DEMO_ARMS = (
    "vanilla",
    "kv_shift",
    "value_stream",
    "selective",
    "shortcut",
    "kv_shift+selective",
)


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Train one small language model with and without mechanisms, several seeds an arm."""

    arms: tuple[str, ...] = DEMO_ARMS
    """Presets joined by '+', or one path to a JSON file {"arm name": [mechanism, ...]}."""
    text: str | None = None
    """File, folder, .jsonl[.xz|.gz|.zst] with a "text" field, or hf:NAME; else Python's sources."""
    tokenizer: str = "bpe"
    """'bpe' (byte-level, from the training split), 'bytes', or the path of a tokenizer.json."""
    vocab_size: int = 512
    """Vocabulary of the trained BPE."""
    max_characters: int = 8_000_000
    """Read at most this much text (whole documents)."""
    out: Path = Path("runs/demo")
    """Folder of the results; the same command with the same folder continues an interrupted run."""

    seeds: int = 6
    """Seeds an arm; all arms share them."""
    steps: int = 220
    """Optimiser steps a run."""
    batch_size: int = 8
    """Sequences a step."""
    context: int = 128
    """Tokens a sequence."""
    hidden_size: int = 64
    """Width of the residual stream."""
    num_hidden_layers: int = 2
    """Blocks."""
    num_attention_heads: int = 2
    """Query heads."""
    num_key_value_heads: int | None = None
    """Key-value heads (default: as many as query heads)."""
    position: Literal["rope", "learned", "alibi", "none"] = "rope"
    """Position encoding."""
    initializer_range: float = 0.08
    """Standard deviation of the initial matrices."""
    learning_rate: float = 4e-3
    """Peak learning rate: linear warm-up over a tenth of the steps, then cosine to a tenth."""
    weight_decay: float = 0.1
    """Decoupled weight decay on matrices; learned scalars of mechanisms are not decayed."""
    evaluations: int = 4
    """Validations and in-context probes, evenly spaced over the run."""
    validation_tokens: int = 16_384
    """Tokens of the validation split that every evaluation reads."""
    match: Literal["none", "parameters"] = "none"
    """'parameters' adds a widened vanilla as large as the largest arm."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU if there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward pass (bfloat16 by autocast; weights stay float32)."""
    compile: bool = False
    """torch.compile the training step."""
    json: bool = False
    """Print the summary as JSON on standard output instead of tables."""


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Draw the table and the page again from the results of an earlier comparison."""

    folder: Path
    """The folder that `headway compare --out` wrote."""
    format: Literal["table", "markdown", "json"] = "table"
    """What to print on standard output."""
