"""A setting of torch.compile under which the gradients of our models are right."""

import torch

PADS_WRONG = torch.__version__ < "2.13"
"""The fault was seen in 2.11; it is not in 2.13."""


def without_padding() -> None:
    """Have torch.compile pad no strides, in this process from the trace that calls it on.

    Before torch 2.13, Inductor stores a sum over channels, `(B, H, T, 1)`, with plain strides and
    reads it with padded ones, where a row `H T` is longer than 1,024 and no multiple of 32. That
    makes the gradients of sinks, temperatures and shortcuts wrong (torch 2.11, seen on an H200 at
    300 tokens). Whoever compiles a model cannot know that, so the layers see to it. Does nothing
    outside of a trace.
    """
    if PADS_WRONG and torch.compiler.is_compiling():
        _switch_off()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _switch_off() -> bool:
    # Here, as the import takes long and only a trace needs it.
    from torch._inductor import config

    config.comprehensive_padding = False
    return True
