"""Compiled code for many models in one process."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def many_graphs() -> Iterator[None]:
    """Keep a graph for each kind of model: all are graphs of one and the same code, of which torch
    keeps few. Models of one kind share theirs.
    """
    import torch._dynamo.config as dynamo

    with dynamo.patch(recompile_limit=64, automatic_dynamic_shapes=False):
        yield
