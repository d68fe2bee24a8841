"""What each task makes, and how fast on one core: `python -m headway.tasks`."""

from __future__ import annotations

import time

import torch

from headway.tasks import (
    AssociativeRecall,
    Classification,
    Denoise,
    Graph,
    Hops,
    IndirectObject,
    Induction,
    NGram,
    Passkey,
    Task,
    Words,
)

TOKENS = 2**14
"""In one call, about. Of vectors, much larger batches wait for fresh memory."""


def every_task() -> list[Task]:
    """All tasks with their default numbers; those of text with a tokenizer of whole words."""
    return [
        Induction(),
        NGram(),
        Hops(),
        AssociativeRecall(),
        Classification(),
        Denoise(),
        Graph(),
        Passkey(encode=Words()),
        IndirectObject(encode=Words()),
    ]


def rate(task: Task, seconds: float) -> float:
    """Tokens that `task` makes in a second of processor time, measured over `seconds` or more."""
    generator = torch.Generator().manual_seed(0)
    rows = max(2, TOKENS // task.sample(2, generator).inputs.shape[1] // 2 * 2)
    task.sample(rows, generator)
    made, begin = 0, time.process_time()
    while (passed := time.process_time() - begin) < seconds:
        made += task.sample(rows, generator).inputs.shape[:2].numel()
    return made / passed


def main(seconds: float = 1.0) -> None:
    """Print a line a task: its row, how much of it is scored, chance, and the rate."""
    torch.set_num_threads(1)
    print(f"{'task':<20}{'row':>12}{'scored in it':>15}{'chance':>10}{'tokens/s':>12}")
    for task in every_task():
        sample = task.sample(256, torch.Generator().manual_seed(0))
        row = " x ".join(map(str, sample.inputs.shape[1:]))
        scored = float(sample.scored.sum()) / 256
        speed = rate(task, seconds) / 1e6
        print(f"{task.name:<20}{row:>12}{scored:>15.1f}{task.chance:>10.2g}{speed:>10.1f} M")


if __name__ == "__main__":
    main()
