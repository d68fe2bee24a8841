"""The bench of the loop times as many steps of both, which both train the same model."""

import json
from dataclasses import replace

import pytest

import headway_cli
from headway.bench import loop
from headway.bench.decoders import SMALL_DECODER

TINY = replace(
    SMALL_DECODER,
    hidden_size=32,
    intermediate_size=64,
    num_attention_heads=4,
    num_key_value_heads=4,
    vocab_size=64,
    length=16,
    rounds=2,
)


def test_loop(capsys, monkeypatch):
    monkeypatch.setattr(loop, "SMALL_DECODER", TINY)
    monkeypatch.setattr(loop, "STEPS", 2)
    bare, taken = loop._Turns._bare, []

    def seen(turns):
        parameter = turns.trainer.model.lm_head.weight
        before = parameter.detach().clone()
        bare(turns)
        taken.append((turns.trainer.state.global_step, (parameter - before).abs().max().item()))
        assert parameter.grad is None

    monkeypatch.setattr(loop._Turns, "_bare", seen)
    assert headway_cli.main(["bench", "loop", "--small", "--json"]) == 0
    lines = {x["name"]: x for x in json.loads(capsys.readouterr().out)["lines"]}
    line = lines["tokens a second over a bare loop: headway train"]
    assert line["at_least"] == 0.97
    assert line["ratio"]["rounds"] == TINY.rounds
    seconds = line["ratio"]["seconds"][1]
    speed = lines["tokens a second: headway train"]["value"]
    assert speed == pytest.approx(2 * TINY.batch * TINY.length / seconds)
    assert [step for step, _ in taken] == [2, 4, 6]
    assert all(moved > 0 for _, moved in taken[1:])  # the first step of a warm-up has no rate
