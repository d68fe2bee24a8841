"""The benches of single kernels run on any machine, at small size."""

import pytest
import torch

from headway.bench.prologue import LISTS, bench_prologue
from headway.bench.received import bench_received

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there the kernels are measured")


def test_every_list_is_measured_both_ways():
    lines = list(bench_prologue(small=True))
    expected = [
        f"{name}, {way}, of a copy's speed" for name in LISTS for way in ("forward", "backward")
    ]
    assert [line.name for line in lines] == expected
    assert all(line.at_least == 0.85 and line.value > 0 for line in lines)


def test_received_stands_beside_a_flash_pass():
    (line,) = bench_received(small=True)
    assert line.at_most == 2.0
    assert line.ratio is not None
    assert line.value == line.ratio.median > 0
