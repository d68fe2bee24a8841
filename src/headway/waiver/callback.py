"""Sinks in the log of a Trainer."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import TrainerCallback

from headway.errors import HeadwayError
from headway.waiver.monitor import SinkMonitor
from headway.waiver.profile import THRESHOLD

if TYPE_CHECKING:
    from transformers import Trainer


class SinkCallback(TrainerCallback):
    """Logs a `SinkReading` every N steps of a Trainer, under the names `sinks/...`.

    Add it when the trainer is there: `trainer.add_callback(SinkCallback(trainer, ids, every=100))`.
    Training goes on as it would without it: no random number is drawn, no mode is left changed.
    Every process measures, as sharded weights need them all; the Trainer decides who writes.

    Args:
        trainer: whose log is written.
        input_ids: `(M, T)`, held-out text, see `SinkMonitor`.
        every: steps between readings; the start of training and its end are read too.
        threshold: of the sink metric.

    Raises:
        HeadwayError: `every` is below 1.
    """

    def __init__(
        self, trainer: Trainer, input_ids: Tensor, every: int = 100, threshold: float = THRESHOLD
    ) -> None:
        if every < 1:
            raise HeadwayError(f"every: {every} is not accepted; accepted are 1 and more")
        self.trainer, self.every = trainer, every
        self.monitor = SinkMonitor(input_ids, threshold)
        self._read_at: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the model before its first step."""
        self._log(state, control, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the model where a reading is due."""
        if state.global_step % self.every == 0:
            self._log(state, control, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the trained model, unless its last step was read."""
        if self._read_at != state.global_step:
            self._log(state, control, kwargs["model"])

    def _log(self, state: Any, control: Any, model: nn.Module) -> None:
        self._read_at = state.global_step
        reading = self.monitor.read(model)
        due = control.should_log  # logging clears it, and with it the Trainer's own loss
        self.trainer.log({f"sinks/{name}": float(v) for name, v in asdict(reading).items()})
        control.should_log = due
