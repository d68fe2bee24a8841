"""Attaching with identity initialisation changes nothing; detaching gives the very model back."""

import warnings

import pytest
import torch
from tiny import IDENTITY, SIZES, fitting, make_loud, tiny, tokens

import headway


@pytest.mark.parametrize("model_type", SIZES)
def test_identity_then_back_to_the_bit(model_type):
    model, ids = tiny(model_type), tokens(2, 11)
    with torch.no_grad():
        before = model(ids).logits
        names, classes = list(model.state_dict()), [type(m) for m in model.modules()]
        for name, mechanisms in IDENTITY.items():
            mechanisms = fitting(model_type, mechanisms)
            if not mechanisms:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                assert headway.attach(model, mechanisms) is model
            assert headway.attached(model) == mechanisms
            bound = 1e-6 * max(1.0, before.abs().max().item())
            torch.testing.assert_close(
                model(ids).logits, before, atol=bound, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
            )
            make_loud(model)
            assert (model(ids).logits - before).abs().max() > 1e-3, f"{name} does nothing"
            assert headway.detach(model) is model
            assert torch.equal(model(ids).logits, before), name
            assert headway.attached(model) == []
    assert list(model.state_dict()) == names
    assert [type(m) for m in model.modules()] == classes
    assert not hasattr(model.config, "mechanisms")


def test_the_papers_start_warns_that_logits_change():
    model = tiny("llama")
    with pytest.warns(UserWarning, match="logits change at once, as kv_shift start"):
        headway.attach(model, [headway.KVShift(), headway.OutputGate(init="identity")])


def test_classes_keep_their_names():
    model = tiny("llama")
    before = [type(m).__name__ for m in model.modules()]
    headway.attach(model, [headway.KVShift(init="identity")])
    after = [type(m).__name__ for n, m in model.named_modules() if "headway" not in n]
    assert after == before
    assert str(type(model)) == str(type(tiny("llama")))
