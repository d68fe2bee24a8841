"""Results folders drawn from a seeded generator: numbers in the right form, measured nowhere."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

LAYERS, HEADS, STEPS, BATCH_TOKENS = 2, 4, 400, 2048
EVALUATIONS = range(50, STEPS + 1, 50)
TRAIN_EVERY = 10
POSITIONS = (0, 1, 2, 4, 8, 16, 32, 50, 64, 96, 127)
NAMES = ("vanilla", "kv_shift", "value_stream", "selective", "shortcut", "kv_shift+selective")
EFFECTS = {
    "kv_shift": -0.08,
    "value_stream": -0.01,
    "selective": 0.03,
    "shortcut": 0.0,
    "kv_shift+selective": -0.06,
}


@dataclass
class Wanted:
    """What the folder should hold."""

    effects: Mapping[str, float] = field(default_factory=lambda: EFFECTS)
    arms: tuple[str, ...] = NAMES
    seeds: int = 5
    noise: float = 0.008
    diverged: frozenset[tuple[str, int]] = frozenset()
    unfinished: frozenset[tuple[str, int]] = frozenset()


@pytest.fixture
def make_results(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a results folder; its keywords are those of `Wanted`."""

    def make(name: str = "drawn", **wanted: Any) -> Path:
        return write_results(tmp_path / name, Wanted(**wanted))

    return make


@pytest.fixture(scope="session")
def drawn_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all arms, one diverged and one unfinished run; only to be read."""
    return write_results(
        tmp_path_factory.mktemp("results") / "drawn",
        Wanted(diverged=frozenset({("selective", 2)}), unfinished=frozenset({("shortcut", 4)})),
    )


def write_results(folder: Path, wanted: Wanted) -> Path:
    """Write `settings.json` and `metrics.jsonl`; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(20)
    (folder / "settings.json").write_text(json.dumps(settings(wanted)), encoding="utf-8")
    rows = [row for arm in wanted.arms for row in arm_rows(arm, wanted, draw)]
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return folder


def settings(wanted: Wanted) -> dict[str, Any]:
    """What `settings.json` says."""
    return {
        "settings": {
            "arms": list(wanted.arms),
            "text": None,
            "seeds": wanted.seeds,
            "steps": STEPS,
            "batch_size": 16,
            "context": 128,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": None,
            "learning_rate": 4e-3,
            "compile": False,
        },
        "command": "headway compare --out runs/synthetic --seeds 5 --steps 400",
        "versions": {"headway": "0", "torch": "0", "transformers": "0", "python": "0"},
        "device": "cpu: drawn, not measured",
        "arms": {
            arm: [{"name": part, "init": "paper"} for part in arm.split("+") if part != "vanilla"]
            for arm in wanted.arms
        },
        "corpus": {"source": "drawn numbers", "documents": 12345, "train_tokens": 819200},
        "started": "2000-01-01T00:00:00+00:00",
    }


def arm_rows(arm: str, wanted: Wanted, draw: random.Random) -> list[dict[str, Any]]:
    """All lines of one arm."""
    rows = [cost(arm, draw)]
    for seed in range(wanted.seeds):
        level = 3.2 + 0.05 * random.Random(seed).gauss(0, 1)
        level += wanted.effects.get(arm, 0.0)
        if arm != "vanilla":
            level += draw.gauss(0, wanted.noise)
        rows += run_rows(arm, seed, level, draw)
        if (arm, seed) in wanted.unfinished:
            continue
        lost = (arm, seed) in wanted.diverged
        rows.append(learned(arm, seed, draw))
        rows.append(finish(arm, seed, None if lost else loss_at(STEPS, level)))
    return rows


def loss_at(step: int, level: float) -> float:
    """A falling loss that ends near `level`."""
    return level + 4.0 / (1 + step / 20)


def run_rows(arm: str, seed: int, level: float, draw: random.Random) -> list[dict[str, Any]]:
    """Train and eval lines of one run."""
    rows = []
    for step in range(TRAIN_EVERY, STEPS + 1, TRAIN_EVERY):
        common = {"arm": arm, "seed": seed, "step": step, "tokens": step * BATCH_TOKENS}
        noisy = loss_at(step, level) + draw.gauss(0, 0.05)
        rows.append(
            {
                "kind": "train",
                **common,
                "loss": noisy,
                "learning_rate": 4e-3,
                "tokens_per_second": 5e4,
            }
        )
        if step in EVALUATIONS:
            rows.append(evaluation(common, level, draw))
    return rows


def evaluation(common: Mapping[str, Any], level: float, draw: random.Random) -> dict[str, Any]:
    """One eval line; arms with a lower level find the ability sooner."""
    progress = common["step"] / STEPS
    ability = 1 / (1 + 2.718 ** (-12 * (progress - 0.5 - 2 * (level - 3.2))))
    loss = loss_at(common["step"], level)
    return {
        "kind": "eval",
        **common,
        "validation_loss": loss,
        "early_loss": loss + 0.3,
        "late_loss": loss - 0.2 * ability,
        "in_context_gain": 0.4 * ability + draw.gauss(0, 0.02),
        "repeat_accuracy": min(1.0, max(0.0, 0.9 * ability + draw.gauss(0, 0.02))),
        "prefix_scores": [[ability * draw.random() for _ in range(HEADS)] for _ in range(LAYERS)],
        "position_losses": [[index, loss + 2 / (1 + index)] for index in POSITIONS],
    }


def cost(arm: str, draw: random.Random) -> dict[str, Any]:
    """The cost line of an arm."""
    mechanisms = arm.count("+") + (arm != "vanilla")
    seconds = [0.02 * (1 + 0.05 * mechanisms) * draw.uniform(0.97, 1.03) for _ in range(9)]
    ratios = [(1 + 0.05 * mechanisms) * draw.uniform(0.97, 1.03) for _ in range(9)]
    return {
        "kind": "cost",
        "arm": arm,
        "parameters": 164_000 + 32 * mechanisms,
        "added_parameters": 32 * mechanisms,
        "step_seconds": seconds,
        "step_ratios": ratios if mechanisms else [1.0] * len(ratios),
        "peak_bytes": int(5e8 * (1 + 0.02 * mechanisms)),
        "peak_ratio": 1 + 0.02 * mechanisms,
    }


def learned(arm: str, seed: int, draw: random.Random) -> dict[str, Any]:
    """The learned line of a run."""
    values: dict[str, Any] = {}
    for layer in range(LAYERS):
        if "kv_shift" in arm:
            for target in ("key", "value"):
                values[f"layers.{layer}.kv_shift.{target} taps"] = [
                    [draw.gauss(0.4, 0.3), draw.gauss(0.6, 0.3)] for _ in range(HEADS)
                ]
        if "selective" in arm:
            for target in ("query", "value"):
                name = f"layers.{layer}.selective_attention.{target} position slope"
                values[name] = [draw.gauss(0.1, 0.05) for _ in range(HEADS)]
        if "value_stream" in arm and layer:
            values[f"layers.{layer}.residual_stream.value own, source"] = [
                [draw.gauss(1, 0.1) for _ in range(HEADS)],
                [draw.gauss(0.5, 0.2) for _ in range(HEADS)],
            ]
    return {"kind": "learned", "arm": arm, "seed": seed, "values": values}


def finish(arm: str, seed: int, loss: float | None) -> dict[str, Any]:
    """The finish line of a run; without a loss it diverged."""
    return {
        "kind": "finish",
        "arm": arm,
        "seed": seed,
        "status": "diverged" if loss is None else "done",
        "step": STEPS,
        "tokens": STEPS * BATCH_TOKENS,
        "validation_loss": loss,
        "test_loss": None if loss is None else loss + 0.02,
        "seconds": 9.5,
    }
