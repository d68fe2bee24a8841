"""Telling how far a comparison is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headway.progress import LiveLine

if TYPE_CHECKING:
    from headway.training.run import Step


class Progress(LiveLine):
    """Arm, seed, step, loss, tokens a second and time left.

    Args:
        total_steps: optimiser steps of everything that is still to run.
    """

    def __init__(self, total_steps: int) -> None:
        super().__init__()
        self._total, self._done = total_steps, 0
        self.bar.update(self.task, total=total_steps)

    def step(self, arm: str, seed: int, step: Step, steps: int) -> None:
        """One more optimiser step of a run."""
        self._done += 1
        text = (
            f"{arm} seed {seed} step {step.number}/{steps} loss {step.loss:.3f} "
            f"{step.tokens_per_second:,.0f} tokens/s"
        )
        self.bar.update(self.task, completed=self._done, description=text)

    def skip(self, steps: int) -> None:
        """Steps that will not be taken, of a run that diverged."""
        self._done += steps
        self.bar.update(self.task, completed=self._done)

    def say(self, text: str) -> None:
        """One line that stays."""
        self.print(self._done / self._total if self._total else 1.0, text)
