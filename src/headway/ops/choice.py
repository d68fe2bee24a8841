"""Which path an operation takes: its eager reference or its Triton kernel."""

import logging
import os
from importlib.util import find_spec

import torch
from torch import Tensor

from headway.errors import HeadwayError

CHOICE = "HEADWAY_OPS"
"""Environment variable: 'triton' forces the kernels, 'reference' the plain functions."""

TRITON = find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def ops_choice() -> str:
    """'auto', 'triton' or 'reference', as the environment says.

    Raises:
        HeadwayError: it says something else.
    """
    choice = os.environ.get(CHOICE, "auto")
    if choice not in ("auto", "triton", "reference"):
        raise HeadwayError(f"{CHOICE}: {choice!r} is not accepted; accepted are triton, reference")
    return choice


def takes_kernel(x: Tensor, choice: str) -> bool:
    """Whether the kernel runs on `x`: on a GPU with Triton, unless `choice` decides.

    Raises:
        HeadwayError: the environment forces what cannot run.
    """
    if choice == "triton" and not (TRITON and (x.is_cuda or INTERPRETED)):
        raise HeadwayError(
            f"{CHOICE}: 'triton' cannot run on {x.device.type} here; accepted are reference, "
            "or a GPU with the package triton"
        )
    taken = choice == "triton" or (choice == "auto" and x.is_cuda and TRITON)
    say_once(f"operations on {x.device.type}: {'Triton kernels' if taken else 'reference'}")
    return taken


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def say_once(words: str) -> None:
    """Log `words` at level INFO, the first time they are said in this process."""
    if words not in _said:
        _said.add(words)
        logging.getLogger("headway").info(words)


_said: set[str] = set()
