"""Runs of `headway train` that take a second, in processes of their own where they are killed."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from command_processes import call, start
from headway_train_settings import OF_A_NEW_MODEL

SIZES: dict[str, Any] = {
    "tokenizer": "bytes",
    "mechanisms": "kv_shift+value_stream",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.1,
    "context": 64,
    "batch_size": 4,
    "steps": 12,
    "learning_rate": 4e-3,
    "schedule": "cosine",
    "warmup": 0.25,
    "log_every": 3,
    "eval_every": 6,
    "validation_tokens": 512,
    "sample_tokens": 4,
    "save_every": 4,
    "device": "cpu",
}


def write_text(folder: Path) -> Path:
    """A folder of documents of drawn words."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(7)
    known = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 5))) for _ in range(20)]
    for number in range(20):
        text = " ".join(draw.choices(known, k=80))
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder


def words(out: Path, text: Path | None, **changes: Any) -> list[str]:
    """The command; True is a flag alone, False and None are left out, sizes beside a model too."""
    own = OF_A_NEW_MODEL if "model" in changes else ()
    sizes = {name: value for name, value in SIZES.items() if name not in own}
    values = sizes | {"text": text, "out": out} | changes
    given = [(f"--{k.replace('_', '-')}", v) for k, v in values.items()]
    given = [(k, v) for k, v in given if v is not None and v is not False]
    return ["train", *(w for k, v in given for w in ([k] if v is True else [k, str(v)]))]


def run(out: Path, text: Path | None, **changes: Any) -> int:
    """Do it here; the exit code."""
    return call(words(out, text, **changes))


def records(out: Path) -> list[dict[str, Any]]:
    """The lines of the metrics without what depends on the clock."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != "tokens_per_second"} for x in lines]


def losses(out: Path, name: str = "loss") -> dict[int, float]:
    """Of the lines that have one, by step; or another number of training."""
    return {line["step"]: line[name] for line in records(out) if "loss" in line}


def interrupted(
    command: Sequence[str], told: Path, number: int, ready: Callable[[], bool]
) -> tuple[int, str]:
    """The exit code and the words of a command that got a signal once it was `ready`."""
    process = start(command, told)
    deadline = time.monotonic() + 60
    while not ready():
        assert process.is_alive(), told.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(process.pid, number)
    process.join(60)
    return process.exitcode, told.read_text()
