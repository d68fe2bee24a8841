"""How far something is, on standard error: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self


class LiveLine:
    """A bar with the time left and a text.

    Args:
        shown: after the time left, in rich's notation.
    """

    def __init__(self, shown: str = "left | {task.description}") -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(stderr=True)
        self.bar = Progress(
            BarColumn(bar_width=8),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn(shown),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("starting")
        self.started = time.perf_counter()

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def print(self, share: float, text: str) -> None:
        """One line that stays, with the time passed and the share done."""
        passed = time.perf_counter() - self.started
        line = f"[{passed:5.0f} s, {share:4.0%}] {text}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
