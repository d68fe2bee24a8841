"""Scalable softmax against plain formulas."""

import math

import pytest
import torch

from headway import HeadwayError, ScalableSoftmax
from mechanisms.helpers import POSITIONS, built, close, context, projections


@pytest.mark.parametrize("bias", [True, False])
def test_queries_are_scaled_by_the_log_of_the_visible_keys(bias: bool) -> None:
    module, before = built(ScalableSoftmax(bias=bias)), projections()
    after = module.prologue(before, context())
    assert after.k is before.k
    assert after.v is before.v
    for b in range(2):
        for h in range(4):
            for t in range(6):
                factor = module.slope[h].item() * math.log(int(POSITIONS[b, t]) + 1)
                factor += module.offset[h].item() if bias else 0
                close(after.q[b, h, t], factor * before.q[b, h, t])


def test_starts() -> None:
    logs = (POSITIONS + 1).double().log()[:, None, :, None]
    before = projections()
    for bias in (True, False):
        paper = built(ScalableSoftmax(bias=bias), loud=False)
        close(paper.prologue(before, context()).q, 0.43 * logs * before.q, 1e-6)
    identity = built(ScalableSoftmax(bias=True, init="identity"), loud=False)
    assert torch.equal(identity.prologue(before, context()).q, before.q)
    with pytest.raises(HeadwayError, match=r"'identity' needs bias=true"):
        ScalableSoftmax(init="identity")


def test_what_is_shown() -> None:
    module = built(ScalableSoftmax(bias=True))
    shown = module.learned()
    assert torch.equal(shown["slope of ln n"], module.slope)
    assert torch.equal(shown["bias"], module.offset)
    assert list(built(ScalableSoftmax()).learned()) == ["slope of ln n"]
