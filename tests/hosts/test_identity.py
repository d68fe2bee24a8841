"""Attaching with identity initialisation changes nothing; detaching gives the very model back."""

import dataclasses
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


def warning_of(mechanisms):
    with pytest.warns(UserWarning, match="the logits change") as caught:
        headway.attach(tiny("llama"), mechanisms)
    (warning,) = caught
    return str(warning.message)


def test_the_papers_start_warns_that_logits_change():
    told = "the logits change at once, as kv_shift start(s) away from the identity; "
    told += "kv_shift starts there with init='identity'"
    assert warning_of([headway.KVShift(), headway.OutputGate(init="identity")]) == told
    assert "starts there with total='count'" in warning_of([headway.AttentionResidual()])


OWN = {
    name: cls
    for name, cls in headway.Mechanism.registry.items()
    if cls.__module__.startswith("headway.")
}


@pytest.mark.parametrize("name", OWN)
def test_with_the_options_that_the_warning_names_logits_stay(name):
    mechanism = OWN[name]()
    options = mechanism.identity_options()
    written = ", ".join(f"{option}={value!r}" for option, value in options.items())
    assert warning_of([mechanism]).endswith(f"{name} starts there with {written}")
    model, ids = tiny("llama"), tokens(2, 11)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        before = model(ids).logits
        headway.attach(model, [dataclasses.replace(mechanism, **options)])
        torch.testing.assert_close(model(ids).logits, before, atol=1e-5, rtol=1e-5)


def test_a_mechanism_without_an_identity_is_named_alone(monkeypatch):
    monkeypatch.setattr(headway.Mechanism, "registry", dict(headway.Mechanism.registry))

    class Scaled(headway.OutputGate):
        name = "scaled"
        starts_as_identity = False

    assert warning_of([Scaled()]).endswith("as scaled start(s) away from the identity")


def test_classes_keep_their_names():
    model = tiny("llama")
    before = [type(m).__name__ for m in model.modules()]
    headway.attach(model, [headway.KVShift(init="identity")])
    after = [type(m).__name__ for n, m in model.named_modules() if "headway" not in n]
    assert after == before
    assert str(type(model)) == str(type(tiny("llama")))
