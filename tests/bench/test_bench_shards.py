"""The bench of sharded steps: two processes, of which one tells."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import headway_cli
from command_processes import together
from headway.bench import catalogue, shards
from headway.bench.decoders import SMALL_DECODER
from headway.bench.results import Line

TINY = replace(
    SMALL_DECODER,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    vocab_size=64,
    length=16,
    rounds=2,
)


def test_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SMALL_DECODER", TINY)
    command = ["bench", "shards", "--small", "--only", "350m", "--json"]
    told = [tmp_path / f"told-{rank}" for rank in (0, 1)]
    assert together(2, command, tmp_path / "told") == [0, 0], told[0].read_text()
    assert '"bench"' not in told[1].read_text()
    text = told[0].read_text()
    lines = json.loads(text[text.index('{\n "bench"') :])["lines"]
    by_name = {line["name"]: line for line in lines}
    assert [line["at_least"] for line in lines].count(0.92) == 3
    assert [line["at_most"] for line in lines].count(1.04) == 2
    for arm in shards.ARMS:
        ratio = by_name[f"tokens a second sharded over 2 x one GPU: 350m, {arm}"]["ratio"]
        assert ratio["rounds"] == TINY.rounds
        speed = by_name[f"tokens a second, sharded over 2: 350m, {arm}"]["value"]
        tokens = 2 * shards.UPDATES * TINY.batch * TINY.length
        assert speed == pytest.approx(tokens / ratio["seconds"][1])


def test_one_process_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert headway_cli.main(["bench", "shards", "--small"]) == 2
    assert "torchrun --nproc-per-node 2 -m headway bench shards" in capsys.readouterr().err


def test_what_was_measured_before_a_fault_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(settings: object) -> object:
        yield Line("one", 1.0)
        raise ArithmeticError("broken")

    monkeypatch.setattr(catalogue, "measure", broken)
    with pytest.raises(ArithmeticError):
        headway_cli.main(["bench", "loop", "--json"])
    assert [line["name"] for line in json.loads(capsys.readouterr().out)["lines"]] == ["one"]


def test_what_is_over_what() -> None:
    taken = {shards.ALONE: [1.0, 1.0], shards.SHARDED: [2.0, 2.0], shards.BASE: [0.5, 0.5]}
    efficiency, over_plain, speed = shards._lines("an arm", taken, 2, TINY)
    assert (efficiency.value, efficiency.met) == (0.5, False)
    assert (over_plain.value, over_plain.met) == (4.0, False)
    assert speed.value == 2 * shards.UPDATES * TINY.batch * TINY.length / 2
