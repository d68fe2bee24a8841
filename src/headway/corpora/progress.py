"""Telling how far a build is."""

from __future__ import annotations

import time

from headway.progress import LiveLine

_PAUSE = 2.0  # seconds between plain lines


class BuildProgress(LiveLine):
    """Files done and time left; call it as `headway.corpora.parts.Report`."""

    def __init__(self) -> None:
        super().__init__("left | {task.description}")
        self._told = self.started

    def __call__(self, done: int, total: int, text: str) -> None:
        """So many files of all are done."""
        self.bar.update(self.task, completed=done, total=total, description=text)
        now = time.perf_counter()
        if not self.console.is_terminal and (now - self._told >= _PAUSE or done == total):
            self._told = now
            self.print(done / total, text)


def silent(done: int, total: int, text: str) -> None:
    """Tells nothing: of a build inside other work, which tells its own progress."""
