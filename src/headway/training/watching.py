"""Callbacks of a run: its record, its progress on the terminal, and stopping when asked to."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from transformers import TrainerCallback

from headway.progress import LiveLine
from headway.training.metrics_file import MetricsFile

if TYPE_CHECKING:
    from headway.training.trainer import HeadwayTrainer

RECORDED = ("loss", "grad_norm", "learning_rate")
"""Of transformers' own log; the rest of it is of no step, or told better here."""


class Record(TrainerCallback):
    """Writes the metrics, tells the progress, and stops a run that diverges.

    Attributes:
        paused: seconds that were spent on something else than training since the last line.

    Args:
        trainer: whose log is written.
        resumed: checkpoint that the run goes on from.
    """

    def __init__(self, trainer: HeadwayTrainer, resumed: Path | None) -> None:
        self.trainer, self.resumed, self.paused = trainer, resumed, 0.0
        self._file: MetricsFile | None = None
        self._line = LiveLine()
        self._at, self._time = 0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the file at the step where the run goes on."""
        if self.resumed is not None:
            self.trainer.restore_loss(self.resumed)
        if state.is_world_process_zero:
            self._file = MetricsFile(Path(args.output_dir), state.global_step)
            # No line that stands before a checkpoint may be lost where the checkpoint is not.
            self.trainer.before_saving = self._file.sync
            self._line.bar.update(
                self._line.task, total=state.max_steps, completed=state.global_step
            )
            self._line.bar.start()
        self._at, self._time, self.paused = state.global_step, time.perf_counter(), 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        self._line.bar.update(self._line.task, completed=state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Write a line; look first whether it is one of a run that goes on."""
        told = {k: v for k, v in (logs or {}).items() if k in RECORDED or "/" in k}
        for name in ("loss", "grad_norm"):
            if name in told:
                self.trainer.require_finite(told[name], name)
        if self._file is None or not told:
            return
        if "loss" in told:
            told |= self._speed(state.global_step)
        self._file.write({"step": state.global_step} | told)
        self._tell(state, told)

    def close(self) -> None:
        """Leave the terminal and the file."""
        self._line.bar.stop()
        if self._file is not None:
            self._file.close()

    def say(self, text: str) -> None:
        """One line that stays, from the process that tells."""
        if self.trainer.is_world_process_zero():
            state = self.trainer.state
            self._line.print(state.global_step / max(1, state.max_steps), text)

    def write(self, record: dict[str, Any]) -> None:
        """Append a record that is no number of transformers' log."""
        if self._file is not None:
            self._file.write({"step": self.trainer.state.global_step} | record)

    def _speed(self, step: int) -> dict[str, float]:
        settings, now = self.trainer.settings, time.perf_counter()
        tokens = settings.batch_size * settings.context
        speed = (step - self._at) * tokens / max(1e-9, now - self._time - self.paused)
        self._at, self._time, self.paused = step, now, 0.0
        return {"tokens": step * tokens, "tokens_per_second": round(speed, 1)}

    def _tell(self, state: Any, told: dict[str, Any]) -> None:
        if "loss" in told:
            text = (
                f"step {state.global_step}/{state.max_steps} loss {told['loss']:.4f} "
                f"{told['tokens_per_second']:,.0f} tokens/s"
            )
            if self._line.console.is_terminal:
                self._line.bar.update(self._line.task, description=text)
            else:
                self.say(text)
        elif "validation/loss" in told:
            parts = [f"{k.partition('/')[2]} {v:.4f}" for k, v in told.items() if "sinks" not in k]
            self.say(f"step {state.global_step}: validation {', '.join(parts)}")


class Stopping(TrainerCallback):
    """Saves and ends the run at the next step once SIGTERM or Ctrl-C came.

    Several processes agree at every line of the loss, as a signal reaches them at different steps.
    A second Ctrl-C stops at once.

    Attributes:
        asked: the signal, or None.
    """

    def __init__(self, trainer: HeadwayTrainer) -> None:
        self.trainer = trainer
        self.asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self.asked == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.asked = number
        if self.trainer.is_world_process_zero():
            print("\nheadway: saving and stopping after this step", file=sys.stderr, flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint and the end."""
        if self._agreed(state.global_step):
            control.should_save = True
            control.should_training_stop = True

    def _agreed(self, step: int) -> bool:
        if self.trainer.args.world_size < 2:
            return self.asked is not None
        if step % self.trainer.settings.log_every:
            return False
        number = torch.tensor(self.asked or 0, device=self.trainer.args.device)
        highest = int(self.trainer.accelerator.gather(number[None]).max())
        self.asked = highest or None
        return highest > 0


class Saving(TrainerCallback):
    """Asks for a checkpoint every N steps, and for one and a line of the loss at the last."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask where one is due."""
        step = state.global_step
        if step % self.every == 0 or step >= state.max_steps:
            control.should_save = True
        if step >= state.max_steps:
            control.should_log = True
