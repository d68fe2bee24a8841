"""Mechanisms as data: JSON, checked fields and sizes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from headway import (
    Dims,
    HeadwayError,
    KVShift,
    LayerShortcut,
    Mechanism,
    ResidualStream,
    ScalarMix,
    SelectiveAttention,
    ShortConv,
    SinkLogit,
)


def test_json_form() -> None:
    assert KVShift(window=2).to_dict() == {
        "name": "kv_shift",
        "targets": ["key", "value"],
        "window": 2,
        "granularity": "head",
        "init": "uniform",
        "constraint": "none",
    }
    assert Mechanism.from_dict({"name": "sink_logit", "learned": False}) == SinkLogit(learned=False)
    assert Mechanism.from_dict({"name": "scalar_mix", "taps": [0, 2]}) == ScalarMix(taps=(0, 2))
    assert hash(KVShift(targets=["key"])) == hash(KVShift(targets=("key",)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"name": "kv_shft"}, r"'kv_shft' is unknown \(did you mean 'kv_shift'\?\); accepted are"),
        ({"name": "zzz"}, r"'zzz' is unknown; accepted are attention_residual, .*smeared_key"),
        ({"name": "kv_shift", "windw": 2}, r"kv_shift\.windw: .* \(did you mean 'window'\?\)"),
        ({"name": "kv_shift", "zzz": 2}, r"kv_shift\.zzz: unknown option; accepted are targets, "),
        ({"window": 2}, r"write an object with a 'name'"),
        ({"name": 3}, r"write an object with a 'name'"),
        ("kv_shift", r"'kv_shift' is not accepted; write an object"),
    ],
)
def test_json_that_is_refused(data: Any, words: str) -> None:
    with pytest.raises(HeadwayError, match=words):
        Mechanism.from_dict(data)


@pytest.mark.parametrize(
    ("cls", "option", "value", "words"),
    [
        (KVShift, "window", 1.0, "accepted is a whole number"),
        (KVShift, "window", "1", "accepted is a whole number"),
        (KVShift, "window", None, "accepted is a whole number"),
        (KVShift, "window", -1, "the minimum is 1"),
        (KVShift, "init", "unifrom", "accepted is 'uniform' or 'identity' or 'induction'"),
        (KVShift, "targets", ("k",), "accepted is a list of 'key' or 'value' or 'query'"),
        (ShortConv, "residual", 1, "accepted is true or false"),
        (ShortConv, "taps", 9, "the maximum is 4"),
        (ResidualStream, "scale", True, "accepted is a finite number or 'layer' or 'head'"),
        (ResidualStream, "scale", float("nan"), "accepted is a finite number or 'layer' or 'head'"),
        (ResidualStream, "scale", float("inf"), "accepted is a finite number or 'layer' or 'head'"),
        (SelectiveAttention, "slope", float("nan"), "accepted is a finite number"),
        (SelectiveAttention, "slope", 2, "the maximum is"),
        (LayerShortcut, "taps", (1.5,), "accepted is 'all' or a list of a whole number"),
        (LayerShortcut, "taps", "none", "accepted is 'all' or a list of a whole number"),
        (SinkLogit, "learned", "yes", "accepted is true or false"),
    ],
)
def test_values_that_are_refused(cls: type[Mechanism], option: str, value: Any, words: str) -> None:
    with pytest.raises(HeadwayError) as raised:
        cls(**{option: value})
    message = str(raised.value)
    assert message.startswith(f"{cls.name}.{option}: {value!r} is not accepted; ")
    assert words in message


def test_mechanisms_are_written_by_name_and_never_changed() -> None:
    with pytest.raises(TypeError, match="positional"):
        KVShift(2)  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        KVShift().window = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 0}, "hidden_size: 0 is too small; accepted are 1 and more"),
        ({"num_hidden_layers": -1}, "num_hidden_layers: -1 is too small"),
        ({"num_key_value_heads": 3}, "3 does not divide num_attention_heads=4"),
    ],
)
def test_sizes_that_are_refused(change: dict[str, int], words: str) -> None:
    sizes = {"hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2}
    assert Dims(**sizes).heads("query") == 4
    assert Dims(**sizes).heads("value") == Dims(**sizes).heads("key") == 2
    with pytest.raises(HeadwayError, match=words):
        Dims(**sizes | change)
