"""Comparisons that take a second: their settings, their words, and what they left behind."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headway_settings import CompareSettings

SIZES: dict[str, Any] = {
    "tokenizer": "bytes",
    "seeds": 1,
    "steps": 6,
    "batch_size": 2,
    "context": 16,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "evaluations": 2,
    "validation_tokens": 64,
    "initializer_range": 0.1,
    "learning_rate": 4e-3,
    "weight_decay": 0.1,
    "device": "cpu",
}
TIMINGS = ("seconds", "tokens_per_second", "step_seconds", "step_ratios")


def write_text(folder: Path, documents: int = 12, words: int = 80) -> Path:
    """A folder of documents of drawn words."""
    folder.mkdir(parents=True)
    draw = random.Random(7)
    known = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 5))) for _ in range(20)]
    for number in range(documents):
        text = " ".join(draw.choices(known, k=words))
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder


def settings(out: Path, text: Path, *arms: str, **changes: Any) -> CompareSettings:
    """A tiny comparison."""
    chosen = arms or ("vanilla", "kv_shift")
    return CompareSettings(**(SIZES | {"arms": chosen, "text": str(text), "out": out} | changes))


def words(out: Path, text: Path, *arms: str, **changes: Any) -> list[str]:
    """The same as words of the command line."""
    values = SIZES | {"text": text, "out": out} | changes
    options = [w for k, v in values.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    return ["compare", "--arms", *(arms or ("vanilla", "kv_shift")), *options]


def arms_file(path: Path, arms: Any) -> str:
    """A JSON file of arms."""
    path.write_text(json.dumps(arms), encoding="utf-8")
    return str(path)


def records(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; every one must be whole."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def by_place(folder: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Records without what a clock says, by kind, arm, seed and step.

    Only a cost may stand twice: where its measuring was interrupted, all arms are timed again.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in records(folder):
        place = tuple(record.get(k) for k in ("kind", "arm", "seed", "step"))
        assert place not in found or record["kind"] == "cost"
        found[place] = {k: v for k, v in record.items() if k not in TIMINGS}
    return found


def numbers(value: Any) -> Iterator[float]:
    """Every number inside a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, int | float):
        yield value


def all_finite(folder: Path) -> bool:
    """Whether every number of the metrics is finite."""
    return all(math.isfinite(n) for n in numbers(records(folder)))


def contents(folder: Path) -> dict[str, bytes] | None:
    """Every file below a folder with its bytes, or None without a folder."""
    if not folder.exists():
        return None
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }
