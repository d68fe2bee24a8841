"""Which path an operation takes: its eager reference or its Triton kernel."""

import os
from importlib.util import find_spec

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
    if choice == "auto":
        return x.is_cuda and TRITON
    if choice == "triton" and not (TRITON and (x.is_cuda or INTERPRETED)):
        raise HeadwayError(
            f"{CHOICE}: 'triton' cannot run on {x.device.type} here; accepted are reference, "
            "or a GPU with the package triton"
        )
    return choice == "triton"
