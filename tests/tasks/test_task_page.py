"""The page of tasks tells what the code says; `tests/test_docs.py` runs its examples."""

from __future__ import annotations

from pathlib import Path

import pytest
from chances import seeded

from headway.tasks import Task
from headway.tasks.__main__ import every_task

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"
LINES = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
TOLD = {cells[0].strip("`"): cells for cells in (line.strip("| ").split(" | ") for line in LINES)}


def test_every_task_is_told() -> None:
    assert list(TOLD) == [task.name for task in every_task()]


@pytest.mark.parametrize("task", every_task(), ids=lambda task: task.name)
def test_the_row_of_a_task(task: Task) -> None:
    _, kind, _, row, _, chance = TOLD[task.name]
    assert kind == f"`{type(task).__name__}`"
    assert row == " x ".join(map(str, task.sample(2, seeded(0)).inputs.shape[1:]))
    assert chance == f"{task.chance:.2g}"
