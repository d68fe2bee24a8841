"""Telling how far a comparison is: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway.training.run import Step


class Progress:
    """Arm, seed, step, loss, tokens a second and time left, on standard error.

    Args:
        total_steps: optimiser steps of everything that is still to run.
    """

    def __init__(self, total_steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.console = Console(stderr=True)
        self._bar = Bar(
            BarColumn(bar_width=8),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("left | {task.description}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._total, self._done = total_steps, 0
        self._task = self._bar.add_task("starting", total=total_steps)
        self._started = time.perf_counter()

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def step(self, arm: str, seed: int, step: Step, steps: int) -> None:
        """One more optimiser step of a run."""
        self._done += 1
        text = (
            f"{arm} seed {seed} step {step.number}/{steps} loss {step.loss:.3f} "
            f"{step.tokens_per_second:,.0f} tokens/s"
        )
        self._bar.update(self._task, completed=self._done, description=text)

    def skip(self, steps: int) -> None:
        """Steps that will not be taken, of a run that diverged."""
        self._done += steps
        self._bar.update(self._task, completed=self._done)

    def say(self, text: str) -> None:
        """One line that stays."""
        passed = time.perf_counter() - self._started
        share = self._done / self._total if self._total else 1.0
        line = f"[{passed:5.0f} s, {share:4.0%}] {text}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
