"""The ensemble bench: its models are those of the papers, its arms see the same data."""

import json

import pytest
import torch
from torch import nn

import headway_cli
from headway import HeadwayConfig
from headway.bench import ensemble as bench
from headway.bench.rounds import ratio
from headway.bench.toys import Classifier, classification, induction
from headway.decoder.toy import ToyTransformer


def test_the_classifier_has_the_size_of_the_released_one():
    toy = classification()
    assert sum(p.numel() for p in toy.model(0).parameters()) == 207_303
    batches = toy.batches(2, 1, "cpu")
    assert batches["inputs"].shape == (1, 2, 128, 17, 150)
    assert toy.model(0)(batches["inputs"][0, 0]).shape == (128, 32)


def test_the_classifier_is_two_layers_of_the_toy_transformer():
    """Reading the last token alone leaves out work, not the meaning."""
    width = 12
    model = Classifier(width, 7, 5, seed=3).double()
    config = HeadwayConfig(
        vocab_size=1, hidden_size=width, num_hidden_layers=2, num_attention_heads=1, norm="none",
        position="none", attention_multiplier=1.0,
    )  # fmt: skip
    reference = ToyTransformer(config).double()
    with torch.no_grad():
        for layer, packed in zip(reference.layers, (model.first, model.second), strict=True):
            for part, weight in zip("qkv", packed.chunk(3), strict=True):
                getattr(layer, f"{part}_proj").weight.copy_(weight)
    x = torch.randn(4, 9, width, dtype=torch.float64)
    y = reference(x)[:, -1]
    for weight, bias in zip(model.layers, model.biases, strict=True):
        y = nn.functional.relu(y @ weight.T + bias)
    torch.testing.assert_close(model(x), y @ model.readout.T)


@pytest.mark.parametrize("toy", [classification(batch=4), induction(32, 16, 2)], ids=["c", "i"])
def test_a_seed_sees_the_same_data_in_any_company(toy):
    few, many = toy.batches(2, 3, "cpu"), toy.batches(3, 3, "cpu")
    for key, value in few.items():
        assert torch.equal(value, many[key][:, :2])
        assert not torch.equal(value[:, 0], value[:, 1])
        assert not torch.equal(value[0], value[1])


def test_both_ways_are_measured_beside_the_target(monkeypatch, capsys):
    monkeypatch.setattr(torch, "compile", lambda traced, **_: traced)  # for the test's own speed
    toy = classification(batch=2, pairs=2, burstiness=1, slots=5, width=4, labels=4, classes=4,
                         novel_classes=4)  # fmt: skip
    plan = bench.Plan(toy, at_least=1.5, seeds=(32, 40), steps=2, rounds=4)
    monkeypatch.setattr(bench, "plans", lambda small: [plan])
    assert headway_cli.main(["bench", "ensemble", "--small", "--json"]) == 0
    lines = {line["name"]: line for line in json.loads(capsys.readouterr().out)["lines"]}
    told = lines["classification: 32 together over one at a time"]
    assert told["at_least"] == 1.5
    assert told["ratio"]["rounds"] == 4
    assert lines["classification: 40 together over one at a time"]["at_least"] is None
    # Of the whole step: 32 copies have 32 times the operations of one.
    alone, together = (
        lines[f"classification: {arm}, ms a step"]["value"]
        * lines[f"classification: {arm}, TFLOP/s"]["value"]
        for arm in ("one at a time", "32 together")
    )
    assert together == pytest.approx(32 * alone)


def test_seeds_a_second_count_the_seeds():
    """8 seeds in twice the time of one: 4 times as many a second."""
    taken = {"one": [1.0, 2.0, 1.0], "8": [2.0, 4.0, 2.0]}
    found = bench._of_seeds(ratio(taken, "one", "8"), 8)
    assert (found.low, found.median, found.high) == (4.0, 4.0, 4.0)
