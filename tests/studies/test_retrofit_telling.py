"""What a retrofit prints, its settings in the documentation, and how a step is taken."""

import dataclasses
import io
import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from small_retrofits import without_clock, words, write_model
from transformers import AutoModelForCausalLM

import headway
import headway_cli
from headway.corpora.batches import Windows
from headway.studies.retrofit.table import print_retrofit
from headway.training.fine_tune import FineTuning
from headway.training.run import train
from headway_settings import RetrofitSettings

PAGE = Path(__file__).parents[2] / "docs" / "retrofit.md"
LINE = re.compile(r"^\[ *\d+ s, +\d+%\] \S")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "tiny")


def test_json_and_tables(model, text, tmp_path, capsys):
    out = tmp_path / "run"
    assert headway_cli.main([*words(model, out, text), "--json"]) == 0
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert summary == json.loads((out / "summary.json").read_text())
    lines = [line for line in shown.err.splitlines() if line.startswith("[")]
    assert len(lines) == 4  # one a run
    assert all(LINE.match(line) for line in lines), lines
    assert "control, seed 0: validation loss" in lines[0]
    assert "100%] mechanism, seed 1" in lines[3]

    assert headway_cli.main(words(model, out, text)) == 0
    again = capsys.readouterr()
    assert again.err == ""  # nothing was left to do
    assert without_clock(json.loads((out / "summary.json").read_text())) == without_clock(summary)
    for part in (
        summary["headline"],
        *summary["remarks"],
        f"{summary['arms']['control']['perplexity_before']:.3f}",
        f"{summary['arms']['mechanism']['perplexity_after']:.3f}",
        f"{summary['difference']['loss']['mean']:+.4f}",
        summary["verdict"],
        str(out / "model"),
    ):
        assert part in again.out, part
    assert "\x1b" not in again.out

    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    print_retrofit(summary, out, screen)
    assert all(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= 100
               for line in screen.file.getvalue().splitlines())  # fmt: skip


def test_every_setting_is_told():
    rows = re.findall(r"^\| (`.*?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = {n.replace("-", "_") for cell in rows for n in re.findall(r"`--(.+?)`", cell)}
    assert told == {field.name for field in dataclasses.fields(RetrofitSettings)} - {"model"}


def recipe(**changes):
    given = {"steps": 3, "learning_rate": 1e-3, "mechanism_learning_rate": 1e-2}
    return FineTuning(**(given | {"weight_decay": 0.1} | changes))


def attached(model):
    mechanisms = [headway.KVShift(init="identity"), headway.OutputGate(init="identity")]
    return headway.attach(AutoModelForCausalLM.from_pretrained(model), mechanisms)


def test_rates_and_decay_of_every_parameter(model):
    changed = attached(model)
    changed.model.embed_tokens.requires_grad_(False)
    names = {id(p): n for n, p in changed.named_parameters()}
    groups = recipe().optimiser(changed).param_groups
    found = {names[id(p)]: (g["share"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert found.keys() == set(names.values()) - {"model.embed_tokens.weight"}
    for name, (share, decay) in found.items():
        assert share == pytest.approx(10 if ".headway." in name else 1), name
        assert decay == (0.0 if "norm" in name or "kv_shift" in name else 0.1), name


def test_a_mechanism_shrinks_no_step_of_the_rest(model):
    """Clipped apart: the same step of the weights, however steep the mechanism."""
    steps = []
    for steep in (1.0, 1e6):
        changed = attached(model)
        optimiser = recipe(clip=1e-9).optimiser(changed)
        for name, parameter in changed.named_parameters():
            parameter.grad = torch.ones_like(parameter) * (steep if ".headway." in name else 1.0)
        recipe(clip=1e-9).update(changed, optimiser)
        steps.append(changed.lm_head.weight.detach().clone())
        assert all(p.grad is None for p in changed.parameters())
    assert torch.equal(*steps)


def test_steps_are_told(model):
    data = Windows(torch.arange(200).numpy(), 16, 2, 0)
    changed = attached(model)
    before = {n: p.clone() for n, p in changed.named_parameters()}
    steps = list(train(changed, data, recipe(), "float32", compile_step=False))
    assert [s.number for s in steps] == [1, 2, 3]
    assert [s.tokens for s in steps] == [32, 64, 96]
    assert steps[0].learning_rate == pytest.approx(1e-3)
    moved = {n: (p - before[n]).abs().max().item() for n, p in changed.named_parameters()}
    taps = max(distance for name, distance in moved.items() if "kv_shift" in name)
    # AdamW's first step is the learning rate itself: the mechanism goes ten times as far.
    assert taps > 5 * moved["model.layers.0.self_attn.q_proj.weight"] > 0
