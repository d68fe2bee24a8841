"""Commands of headway in processes of their own, alone or together as torchrun starts them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import headway_cli


def call(command: Sequence[str]) -> int:
    """The exit code of any command."""
    try:
        return headway_cli.main(list(command))
    except SystemExit as leaving:
        return int(leaving.code or 0)


def start(
    command: Sequence[str], told: Path, errors: Path | None = None, **environment: str
) -> Any:
    """The command in a forked process, which need not import everything again.

    Args:
        command: words of headway.
        told: file for what it tells.
        errors: file for what it tells on standard error; that goes to `told` too without one.
        environment: variables to set.
    """
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_child, args=(list(command), told, errors, environment))
    process.start()
    return process


def _child(
    command: list[str], told: Path, errors: Path | None, environment: dict[str, str]
) -> None:
    os.environ.update(environment)
    # Ctrl-C also where the tests were started with that signal ignored, as shells start jobs.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    with told.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if errors is not None:
        with errors.open("w") as file:
            os.dup2(file.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    code = call(command)
    assert not torch.distributed.is_initialized(), "the command leaves a group of processes"
    sys.stdout.flush()
    os._exit(code)


def together(number: int, command: Sequence[str], told: Path) -> list[int]:
    """The command in several processes as torchrun starts them; their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = [
        start(
            command,
            told.with_name(f"{told.name}-{rank}"),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(number),
            LOCAL_WORLD_SIZE=str(number),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(number)
    ]
    for process in started:
        process.join(120)
    return [process.exitcode for process in started]
