"""`headway train` beside a bare loop over the same model, optimiser, data and compiled step."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback

from headway.bench.decoders import M124, SMALL_DECODER, decoder, device_here
from headway.bench.llama import Shape, free
from headway.bench.results import Line
from headway.bench.rounds import ratio, synchronise
from headway.corpora.batches import Windows
from headway.training.packed import Inputs, PackedWindows
from headway.training.processes import Processes
from headway.training.trainer import HeadwayTrainer, training_arguments
from headway.training.watching import Record
from headway_train_settings import TrainSettings

TRAINER, BARE = "headway train", "a bare loop"
STEPS = 10
"""Of each in a round: as many as there are between two lines of the loss."""


def bench_loop(small: bool) -> Iterator[Line]:
    """Tokens a second of both, in turns of some steps within one run.

    Weights are float32 and arithmetic is bfloat16 by autocast on a GPU, as `headway train` does it.

    Args:
        small: the small shape.
    """
    shape, device = SMALL_DECODER if small else M124, torch.device(device_here())
    with tempfile.TemporaryDirectory() as out:
        taken = _taken(shape, device, Path(out))
    found = ratio(taken, BARE, TRAINER)
    yield Line.of_ratio(f"tokens a second over {BARE}: {TRAINER}", found, at_least=0.97)
    seconds = found.seconds[1]
    yield Line(f"tokens a second: {TRAINER}", STEPS * shape.batch * shape.length / seconds)
    free()


def _taken(shape: Shape, device: torch.device, out: Path) -> dict[str, list[float]]:
    gpu = device.type == "cuda"
    settings = TrainSettings(
        out=out,
        steps=(shape.warm_up + shape.rounds) * STEPS,
        batch_size=shape.batch,
        context=shape.length,
        log_every=STEPS,
        dtype="bfloat16" if gpu else "float32",
        compile=gpu,
        device="cuda" if gpu else "cpu",
    )
    model = decoder(shape, "cpu")
    drawn = np.random.default_rng(0).integers(shape.vocab_size, size=64 * shape.length)
    windows = Windows(drawn.astype(np.uint16), shape.length, 1, seed=0)
    trainer = HeadwayTrainer(
        model,
        training_arguments(settings, Processes(0, 1, 1), device, sharded=False),
        PackedWindows(windows, settings.steps * settings.batch_size),
        Inputs(end=None),
        settings,
        fingerprint="",
    )
    trainer.remove_callback(PrinterCallback)
    record = Record(trainer, resumed=None)
    turns = _Turns(trainer, record, shape.warm_up)
    trainer.add_callback(record)
    trainer.add_callback(turns)
    trainer.train()
    record.close()
    return turns.taken


class _Turns(TrainerCallback):
    """Times the Trainer's last steps, then takes as many in a bare loop, then lets it go on.

    Args:
        trainer: whose model and optimiser both use.
        record: of the Trainer's run, whose clock stands still meanwhile.
        warm_up: rounds that are not counted.
    """

    def __init__(self, trainer: HeadwayTrainer, record: Record, warm_up: int) -> None:
        self.trainer, self.record, self.warm_up = trainer, record, warm_up
        self.taken: dict[str, list[float]] = {TRAINER: [], BARE: []}
        self.since = 0.0
        self.batches: Iterator[Any] = iter(())

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The bare loop's data: the same windows, in plain torch."""
        trainer = self.trainer
        loader = DataLoader(
            trainer.data,
            batch_size=args.per_device_train_batch_size,
            collate_fn=trainer.data_collator,
            pin_memory=args.dataloader_pin_memory,
        )
        self.batches = iter(loader)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A round ends here."""
        if state.global_step % STEPS:
            return
        synchronise()
        trained = time.perf_counter()
        self._bare()
        synchronise()
        ended = time.perf_counter()
        if state.global_step > self.warm_up * STEPS:
            self.taken[TRAINER].append(trained - self.since)
            self.taken[BARE].append(ended - trained)
        self.record.paused += ended - trained
        self.since = ended

    def _bare(self) -> None:
        trainer: Any = self.trainer
        model, optimiser, device = trainer.model_wrapped, trainer.optimizer, trainer.args.device
        parameters = list(trainer.model.parameters())
        for _, batch in zip(range(STEPS), self.batches, strict=False):
            inputs = {name: ids.to(device, non_blocking=True) for name, ids in batch.items()}
            model(**inputs).loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, trainer.settings.clip)
            optimiser.step()
            optimiser.zero_grad()
