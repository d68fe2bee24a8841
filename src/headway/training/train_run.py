"""`headway train`: one model trained on transformers' Trainer, continued where it was stopped."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from headway.corpora.batches import Windows
from headway.safe_loading import quiet
from headway.training import checkpoint
from headway.training.blueprint import Blueprint, check_model, check_packing, draw
from headway.training.finished import finish, told_results
from headway.training.measuring import Measuring
from headway.training.packed import Inputs, PackedWindows
from headway.training.processes import Processes, this_process
from headway.training.run_folder import (
    RESULTS,
    begun,
    check_same,
    fingerprint,
    run_folder,
)
from headway.training.sharding import shard
from headway.training.train_checks import checked_device
from headway.training.trainer import HeadwayTrainer, training_arguments
from headway.training.watching import Record, Saving, Stopping
from headway_train_settings import TrainSettings


def train_model(settings: TrainSettings, command: str) -> None:
    """Train what is missing of a run and leave a pretrained folder in `settings.out`.

    SIGTERM and Ctrl-C save a checkpoint and end the run; the same command goes on.

    Args:
        settings: what to do.
        command: the words that asked for it, for the record.

    Raises:
        HeadwayError: wrong settings, text, model or folder, or a run that diverged.
        KeyboardInterrupt: Ctrl-C, after the checkpoint.
    """
    device = checked_device(settings)
    processes = this_process(settings, device)
    check_model(settings)
    with ExitStack() as stack, quiet(), _errors_alone():
        if device.type == "cuda" and processes.world == 1 < torch.cuda.device_count():
            print(
                f"headway: 1 of {torch.cuda.device_count()} GPUs is used; all are by: torchrun "
                f"--nproc-per-node {torch.cuda.device_count()} -m {command}",
                file=sys.stderr,
            )
        if processes.is_main:
            stack.enter_context(run_folder(settings.out))
            check_same(settings)
            stack.enter_context(begun(settings, command, device, processes.world))
        if (settings.out / RESULTS).exists():
            if processes.is_main:
                print(told_results(settings.out))
            return
        _train(settings, command, device, processes)


@contextmanager
def _errors_alone() -> Iterator[None]:
    """Without transformers' warnings, as of a batch that another number of processes shares."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _train(
    settings: TrainSettings, command: str, device: torch.device, processes: Processes
) -> None:
    sharded = settings.sharding != "none" or settings.tensor_parallel > 1
    arguments = training_arguments(settings, processes, device, sharded)
    with arguments.main_process_first(local=False, desc="the corpus"):
        blueprint = draw(settings)
        if processes.is_main:
            checkpoint.remove_unfinished(settings.out)
    corpus = blueprint.corpus
    windows = Windows(corpus.train, settings.context, 1, settings.seed)
    data = PackedWindows(windows, settings.steps * settings.batch_size)
    inputs = Inputs(corpus.eot if settings.reset_positions else None)
    model = _prepared(blueprint, arguments.device)
    if sharded:
        model = shard(model, settings, processes, arguments.device)
    trainer = HeadwayTrainer(
        model,
        arguments,
        data,
        inputs,
        settings,
        fingerprint(settings, {"train": corpus.description.train.sha256}),
        sharded,
    )
    saved = checkpoint.checkpoints(settings.out)
    last = saved[-1] if saved else None
    record = _watch(trainer, blueprint, inputs, last)
    import torch._dynamo.config as dynamo

    # Graphs with recomputed parts cannot be cut where a bucket of gradients is full.
    whole_graphs = dynamo.patch(optimize_ddp=False)
    with Stopping(trainer) as stopping, warnings.catch_warnings(), whole_graphs:
        # What layers return is never changed in place; streams are views of projections.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
        trainer.add_callback(stopping)
        try:
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
        finally:
            record.close()
    step = trainer.state.global_step
    if step == settings.steps and processes.is_main:
        finish(blueprint, command)
        print(told_results(settings.out))
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    if step < settings.steps:
        _stopped(stopping, step, settings, processes.is_main)


def chosen_attention(settings: TrainSettings, ours: bool, cuda: bool) -> str:
    """The implementation of attention that a run takes.

    Args:
        settings: of the run.
        ours: the model is our decoder.
        cuda: it is on a GPU.
    """
    if settings.attention != "auto":
        return settings.attention
    return "flex_attention" if settings.reset_positions and ours and cuda else "sdpa"


def _prepared(blueprint: Blueprint, device: torch.device) -> nn.Module:
    """The model as it is handed to the Trainer."""
    settings = blueprint.settings
    ours, cuda = blueprint.config.model_type == "headway", device.type == "cuda"
    model: Any = blueprint.build(chosen_attention(settings, ours, cuda))
    if settings.reset_positions and blueprint.config.model_type != "headway":
        check_packing(model)
    if settings.activation_checkpointing:
        # Its name until transformers 5.17, and its name today.
        old = model.gradient_checkpointing_enable
        getattr(model, "activation_checkpointing_enable", old)({"use_reentrant": False})
    trained: nn.Module = model
    return trained


def _watch(
    trainer: HeadwayTrainer, blueprint: Blueprint, inputs: Inputs, resumed: Path | None
) -> Record:
    """The callbacks, in the order in which a step's end calls them."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    record = Record(trainer, resumed)
    trainer.add_callback(record)
    if blueprint.settings.eval_every:
        trainer.add_callback(Measuring(trainer, blueprint, inputs, record))
    trainer.add_callback(Saving(blueprint.settings.save_every))
    return record


def _stopped(stopping: Stopping, step: int, settings: TrainSettings, tells: bool) -> None:
    if stopping.asked == signal.SIGINT:
        raise KeyboardInterrupt
    if tells:
        print(
            f"headway: stopped by a termination signal; step {step} of {settings.steps} is saved "
            "and the same command continues",
            file=sys.stderr,
        )
