"""Smeared keys against plain loops."""

import pytest
import torch

from headway import HeadwayError, KVShift, SmearedKey, check_list
from mechanisms.helpers import DIMS, POSITIONS, built, close, context, projections


def test_keys_are_mixed_by_one_gate_a_head() -> None:
    module, before = built(SmearedKey()), projections()
    after = module.prologue(before, context())
    assert after.q is before.q
    assert after.v is before.v
    gates = module.logits.sigmoid().tolist()
    assert gates[0] != gates[1]
    for b in range(2):
        for g, gate in enumerate(gates):
            for t in range(6):
                expected = gate * before.k[b, g, t]
                if POSITIONS[b, t] > 0:
                    expected = expected + (1 - gate) * before.k[b, g, t - 1]
                close(after.k[b, g, t], expected)


def test_starts() -> None:
    assert torch.equal(built(SmearedKey(), loud=False).taps(), torch.full((2, 2), 0.5).double())
    taps = built(SmearedKey(init="identity"), loud=False).float().taps()
    assert torch.equal(taps[:, 0], torch.ones(2))
    assert ((taps[:, 1] > 0) & (taps[:, 1] < 2e-8)).all()


def test_it_cannot_stand_beside_another_shift_of_the_keys() -> None:
    for pair in ([SmearedKey(), KVShift()], [KVShift(targets=("key",)), SmearedKey()]):
        with pytest.raises(HeadwayError, match=r"'smeared_key'.* targets without 'key'"):
            check_list(pair, DIMS)
    check_list([KVShift(targets=("value", "query")), SmearedKey()], DIMS)
    with pytest.raises(HeadwayError, match="written twice"):
        check_list([SmearedKey(), SmearedKey(init="identity")], DIMS)


def test_what_is_shown_are_the_taps() -> None:
    module = built(SmearedKey())
    assert torch.equal(module.learned()["key taps"], module.taps())
