"""What the forward pass of a model takes."""

from __future__ import annotations

import inspect

from torch import nn


def input_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the arguments of a module's forward, in order.

    With mechanisms attached a forward takes anything and hands it on, so such a model tells the
    names itself.
    """
    told: tuple[str, ...] | None = getattr(module, "input_names", None)
    return told or tuple(inspect.signature(module.forward).parameters)
