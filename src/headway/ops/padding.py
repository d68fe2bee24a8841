"""A setting of torch.compile under which gradients through a log-sum-exp are right."""

from typing import Any

import torch


def without_padding() -> None:
    """Have torch.compile pad no strides, in this process from the trace that calls it on.

    Compiled together with what reads it, the log-sum-exp of FlexAttention gets a wrong gradient
    (torch 2.11, seen on an H200): where a row of numbers for all heads and tokens is longer than
    1,024 and no multiple of 32, Inductor pads a tensor that the kernel reads as if it was not.
    Whoever compiles a model cannot know that, so the model sees to it. Does nothing outside of a
    trace: FlexAttention compiled alone is right.
    """
    if torch.compiler.is_compiling():
        _switch_off()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _switch_off() -> bool:
    # Here, as the import takes long and only a trace needs it.
    from torch._inductor import config

    config.comprehensive_padding = False  # the settings have changed, for who keeps programs
    # A value that was set holds for its thread (torch 2.13), not for that of the backward, and did
    # not outlast the compilation on a GPU (2.11). One of the environment is not undone by either.
    settings: Any = config
    settings._config["comprehensive_padding"].env_value_force = False
    return True
