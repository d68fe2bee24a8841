"""The benchmarks run at small size, and the results page says what the files say."""

import json
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import headway_cli
from headway.bench.catalogue import ON_A_CPU, measure
from headway.bench.results import Line, main, markdown
from headway.bench.rounds import ratio, time_in_turns
from headway_settings import BenchSettings

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    "file", sorted((BENCHMARKS / "results").glob("*.json")), ids=lambda f: f.stem
)
def test_the_page_shows_the_files(file):
    page = (BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8")
    assert markdown(json.loads(file.read_text(encoding="utf-8"))) in page


def test_host_at_small_size(capsys):
    words = ["bench", "host", "--small", "--eager", "--json"]
    assert headway_cli.main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["command"] == "headway bench host --small --eager --json"
    names = [line["name"] for line in told["lines"]]
    assert names == [
        "attach: seconds",
        "attach: MiB",
        "training step, eager",
        "decoding, tokens a second, growing cache, eager",
    ]
    for line in told["lines"]:
        assert line["value"] > 0
        assert line["ratio"] is None or line["ratio"]["low"] <= line["value"]


def test_a_part_alone(capsys):
    assert headway_cli.main(["bench", "host", "--small", "--only", "attach"]) == 0
    assert "training" not in capsys.readouterr().out


def test_arms_take_turns():
    order = []
    arms = {name: (lambda n=name: order.append(n)) for name in ("a", "b", "c")}
    taken = time_in_turns(arms, rounds=3, warm_up=1)
    assert len(order) == 12
    assert {name: len(times) for name, times in taken.items()} == {"a": 3, "b": 3, "c": 3}
    assert {order[i] for i in (3, 6, 9)} == {"a", "b", "c"}, "each arm comes first once"


def test_ratios_are_taken_round_by_round():
    found = ratio({"x": [2.0, 6.0, 4.0], "base": [1.0, 2.0, 4.0]}, "x", "base")
    assert found.median == 2.0
    assert (found.low, found.high) == pytest.approx((1.2, 2.8))
    assert found.seconds == (4.0, 2.0)


def test_targets():
    assert Line("t", 1.04, at_most=1.05).met
    assert not Line("t", 1.06, at_most=1.05).met
    assert Line("t", 0.96, at_least=0.95).met
    assert not Line("t", 0.94, at_least=0.95).met
    assert Line("t", 3.0).cells(True)[-1] == ""


def test_small_sizes_are_not_judged_by_targets_of_the_full_size(capsys):
    words = ["bench", "received", "--small"]
    assert headway_cli.main(words) == 0
    shown = capsys.readouterr().out
    assert not [word for word in ("met", "missed", "<=") if word in shown]
    assert headway_cli.main([*words, "--json"]) == 0
    (line,) = json.loads(capsys.readouterr().out)["lines"]
    assert (line["at_most"], line["judged"], line["met"]) == (2.0, False, None)


@pytest.mark.parametrize("name", get_args(get_type_hints(BenchSettings)["name"]))
def test_full_sizes_need_a_gpu(name, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    if name in ON_A_CPU:
        measure(BenchSettings(name=name))  # nothing is measured before a line is asked for
        return
    assert headway_cli.main(["bench", name]) == 2
    told = f"bench: {name!r} at its full size needs a GPU; accepted here is --small"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot be read (No such file"), ("{", "is no JSON ("), ("[]", "holds no results")],
)
def test_files_without_results_are_refused(content, told, tmp_path, capsys):
    path = tmp_path / "some.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    assert main([str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"results: '{path}' {told}")
    assert line.endswith("accepted are files that `headway bench ... --json` wrote")
