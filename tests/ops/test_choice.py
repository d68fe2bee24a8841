"""Which path operations take is told once, and never silently another one."""

import pytest
import torch

from headway.ops import choice
from headway.ops.choice import takes_kernel


@pytest.mark.parametrize(
    ("asked", "words"),
    [("auto", "operations on cpu: reference"), ("triton", "operations on cpu: Triton kernels")],
)
def test_the_path_is_told_once(asked, words, monkeypatch, caplog):
    monkeypatch.setattr(choice, "_said", set())
    monkeypatch.setattr(choice, "TRITON", True)
    monkeypatch.setattr(choice, "INTERPRETED", True)
    caplog.set_level("INFO", logger="headway")
    for _ in range(3):
        assert takes_kernel(torch.zeros(1), asked) == (asked == "triton")
    assert caplog.messages == [words]


def test_a_compiled_graph_is_not_broken_by_it():
    def double(x):
        return x * 3 if takes_kernel(x, "auto") else x * 2

    compiled = torch.compile(double, fullgraph=True, backend="eager")
    assert compiled(torch.ones(1)) == 2
