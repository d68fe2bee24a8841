"""Checkpoints that are whole or absent, and that any number of processes can read.

Weights and the optimiser's moments are written by torch's distributed checkpoint as safetensors,
each process its own shards, and are found again by their names: no pickle, and no number of
processes that would have to stay the same.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

WEIGHTS, MOMENTS = "weights", "optimiser"
_NAME = re.compile(r"checkpoint-(\d+)")
_KEPT = ("exp_avg", "exp_avg_sq")


def checkpoints(out: Path) -> list[Path]:
    """The checkpoints of a run, the newest last."""
    found = [(int(m[1]), p) for p in out.glob("checkpoint-*") if (m := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(found)]


@contextmanager
def whole_checkpoint(
    out: Path, step: int, keep: int, is_main: bool, wait: Callable[[], None]
) -> Iterator[Path]:
    """A folder to write into, which all processes share; at the end it is the step's checkpoint.

    It appears in one step, on the disk, and after it all but the newest `keep` go. When anything is
    raised nothing appears.

    Args:
        out: folder of the run.
        step: of the checkpoint.
        keep: checkpoints that stay.
        is_main: whether this process makes, renames and removes folders.
        wait: until all processes are there.
    """
    unfinished = out / f".checkpoint-{step}"
    if is_main:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
    wait()
    try:
        yield unfinished
        wait()
        if is_main:
            _to_disk(unfinished)
            target = out / f"checkpoint-{step}"
            _remove(target)
            unfinished.rename(target)
            _sync(out)
            for old in checkpoints(out)[:-keep]:
                _remove(old)
    finally:
        if is_main:
            shutil.rmtree(unfinished, ignore_errors=True)
    wait()


def remove_unfinished(out: Path) -> None:
    """Remove what a killed process left half written or half removed."""
    for path in out.glob(".checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)


def save_state(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Write weights and moments; every process calls it.

    Raises:
        OSError: of the process that could not write.
    """
    for name, state in ((WEIGHTS, _weights(model)), (MOMENTS, _moments(model, optimiser))):
        writer = HuggingFaceStorageWriter(str(folder / name), save_distributed=True)
        with _alone_if_alone(), _cause():
            save(state, storage_writer=writer)


def load_weights(folder: Path, model: nn.Module, alone: bool = False) -> None:
    """Read weights into a model, sharded or not.

    Args:
        folder: of the checkpoint.
        model: of the same kind.
        alone: this process alone reads, however many there are.
    """
    _read(folder / WEIGHTS, _weights(model), alone)


def load_moments(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Read moments into an optimiser that has made no step."""
    fused = bool(optimiser.defaults.get("fused"))
    for parameter in _optimised(model, optimiser).values():
        where = parameter.device if fused else torch.device("cpu")
        optimiser.state[parameter] = {
            "step": torch.tensor(0.0, device=where),
            **{kind: torch.zeros_like(parameter) for kind in _KEPT},
        }
    _read(folder / MOMENTS, _moments(model, optimiser), alone=False)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, tied ones once, and the buffers that a saved model has."""
    saved = model.state_dict()
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    tensors |= {name: b for name, b in model.named_buffers() if name in saved}
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _moments(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}.{kind}": optimiser.state[parameter][kind]
        for name, parameter in _optimised(model, optimiser).items()
        for kind in ("step", *_KEPT)
    }


def _optimised(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    listed = {id(p) for group in optimiser.param_groups for p in group["params"]}
    return {name: p for name, p in model.named_parameters() if id(p) in listed}


def _read(folder: Path, state: dict[str, Tensor], alone: bool) -> None:
    reader = HuggingFaceStorageReader(str(folder))
    with _alone_if_alone(), _cause():
        load(cast(dict[str, Any], state), storage_reader=reader, no_dist=alone)


@contextmanager
def _alone_if_alone() -> Iterator[None]:
    """One process is no mistake here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


@contextmanager
def _cause() -> Iterator[None]:
    """What the operating system said, in place of the exception that torch puts around it."""
    try:
        yield
    except CheckpointException as error:
        for cause, _ in error.failures.values():
            if isinstance(cause, OSError):
                raise cause from error
        raise


def _to_disk(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(checkpoint: Path) -> None:
    """Out of sight in one step: a half-removed checkpoint is never taken for a whole one."""
    if checkpoint.exists():
        hidden = checkpoint.with_name(f".{checkpoint.name}-removed")
        checkpoint.rename(hidden)
        shutil.rmtree(hidden)
