"""Telling how far a build is: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

_PAUSE = 2.0  # seconds between plain lines


class BuildProgress:
    """Files done and time left, on standard error; call it as `headway.corpora.parts.Report`."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            BarColumn(bar_width=8),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("left | {task.completed}/{task.total} files | {task.description}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting")
        self._started = self._told = time.perf_counter()

    def __enter__(self) -> BuildProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int, text: str) -> None:
        """So many files of all are done."""
        self._bar.update(self._task, completed=done, total=total, description=text)
        now = time.perf_counter()
        if not self._console.is_terminal and (now - self._told >= _PAUSE or done == total):
            self._told = now
            line = f"[{now - self._started:5.0f} s, {done / total:4.0%}] {text}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
