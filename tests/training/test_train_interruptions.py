"""A run that is killed, stopped or out of disk goes on, to the bit, as if nothing had been."""

import errno
import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from small_trainings import interrupted, losses, records, run, words, write_text

from command_processes import together
from headway import HeadwayConfig, HeadwayForCausalLM
from headway.training import sharding
from headway_train_settings import TrainSettings


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, text):
    """An uninterrupted run with all its checkpoints."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run(out, text, keep=9) == 0
    return out


def same(out, whole):
    assert records(out) == records(whole)
    found, expected = (load_file(x / "model/model.safetensors") for x in (out, whole))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def lines(out, step):
    """Whether the metrics hold a whole line of that step."""
    file = out / "metrics.jsonl"
    whole = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return any(json.loads(line)["step"] >= step for line in whole)


def test_killed_and_stopped_it_ends_like_an_uninterrupted_run(tmp_path, text, whole):
    """SIGKILL before and within a checkpoint, SIGTERM, Ctrl-C; the same command each time."""
    out, told = tmp_path / "run", tmp_path / "told"
    command = words(out, text, keep=9)
    code, _ = interrupted(command, told, signal.SIGKILL, lambda: lines(out, 3))
    assert code == -signal.SIGKILL
    code, _ = interrupted(
        command, told, signal.SIGKILL, lambda: [*out.glob(".checkpoint-*/weights/*")] != []
    )
    assert code == -signal.SIGKILL
    code, said = interrupted(command, told, signal.SIGTERM, lambda: lines(out, 6))
    assert code == 0, said
    assert "is saved and the same command continues" in said
    stopped = max(int(p.name.partition("-")[2]) for p in out.glob("checkpoint-*"))
    assert 6 <= stopped < 12
    code, said = interrupted(command, told, signal.SIGINT, lambda: lines(out, 9))
    assert code == 130, said
    assert not (out / "model").exists()
    assert run(out, text, keep=9) == 0
    same(out, whole)
    assert not [*out.glob(".checkpoint-*")]


class Disk:
    """A disk that is full from its n-th fsync on, as the operating system tells it."""

    def __init__(self, patch, room):
        self.room, self.fsync = room, os.fsync
        patch.setattr(os, "fsync", self)

    def __call__(self, handle):
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.fsync(handle)


def test_a_full_disk_is_told_and_then_continued(tmp_path, text, whole, capsys, monkeypatch):
    out = tmp_path / "run"
    for room in (11, 20, 29):  # in the first checkpoint, in the second, in the results
        with monkeypatch.context() as patch:
            Disk(patch, room)
            assert run(out, text, keep=9) == 2
        said = [x for x in capsys.readouterr().err.splitlines() if x.startswith("headway: ")]
        assert said == ["headway: no space left on the disk; free some and run the same command."]
        assert not [*out.glob(".checkpoint-*")]
    assert run(out, text, keep=9) == 0
    same(out, whole)


def test_a_kill_between_the_last_checkpoint_and_the_results(tmp_path, text, whole):
    out = back_to(whole, tmp_path / "run", 12)
    assert run(out, text, keep=9) == 0
    same(out, whole)
    assert (out / "results.json").read_bytes() == (whole / "results.json").read_bytes()


def test_a_torn_line_is_dropped(tmp_path, text, whole):
    out = back_to(whole, tmp_path / "run", 8)
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "lo')
    assert run(out, text, keep=9) == 0
    same(out, whole)


def back_to(whole, out, step):
    """A copy of a run as it was when its checkpoint of that step was its last."""
    shutil.copytree(whole, out)
    for name in ("model", "results.json"):
        path = out / name
        if path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in out.glob("checkpoint-*"):
        if int(path.name.partition("-")[2]) > step:
            shutil.rmtree(path)
    return out


def close(out, whole):
    found, expected = losses(out), losses(whole)
    assert found.keys() == expected.keys()
    for step, loss in expected.items():
        assert found[step] == pytest.approx(loss, abs=1e-5), step
    weights, wanted = (load_file(x / "model/model.safetensors") for x in (out, whole))
    for name, tensor in wanted.items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-4, rtol=1e-3)


WAYS = {"ddp": {}, "fsdp": {"sharding": "fsdp"}, "heads": {"tensor_parallel": 2}}


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_go_on_from_one_and_one_from_two(tmp_path, text, whole, way):
    """Steps 1 to 4 by one process, 5 to 8 by two, 9 to 12 by one: the losses of one."""
    out, told = back_to(whole, tmp_path / "run", 4), tmp_path / "told"
    codes = together(2, words(out, text, keep=9, **WAYS[way]), told)
    assert codes == [0, 0], told.with_name("told-0").read_text()
    close(out, whole)
    assert len([*(out / "checkpoint-8/optimiser").glob("*.safetensors")]) == 2
    back = back_to(out, tmp_path / "back", 8)
    assert run(back, text, keep=9) == 0
    close(back, whole)


DEEP = "attention_residual+shortcut"
WIDE = """[
  {"name": "smeared_key"}, {"name": "residual_stream", "scale": "head"}, {"name": "short_conv"},
  {"name": "selective_attention", "key": true}, {"name": "scalable_softmax", "bias": true},
  {"name": "sink_logit"}, {"name": "output_gate"},
  {"name": "layer_shortcut", "mode": "add", "reach": "token"}, {"name": "scalar_mix"}
]"""
"""What crosses layers, and what is learned for each head or read by all heads."""


@pytest.mark.parametrize(
    ("mechanisms", "way", "unit"),
    [
        (DEEP, {"sharding": "fsdp", "micro_batch_size": 1}, 1),
        (
            DEEP,
            {"sharding": "fsdp", "activation_checkpointing": True},
            sharding.UNIT_PARAMETERS,
        ),
        (WIDE, {"tensor_parallel": 2}, sharding.UNIT_PARAMETERS),
    ],
    ids=["fsdp-layers", "fsdp-together", "heads"],
)
def test_mechanisms_in_two_processes(tmp_path, text, mechanisms, way, unit, monkeypatch):
    monkeypatch.setattr(sharding, "UNIT_PARAMETERS", unit)
    changes = {"mechanisms": mechanisms, "steps": 6, "eval_every": 0, "save_every": 9}
    alone, out = tmp_path / "alone", tmp_path / "run"
    assert run(alone, text, **changes) == 0
    codes = together(2, words(out, text, **changes | way), tmp_path / "told")
    assert codes == [0, 0], (tmp_path / "told-0").read_text()
    for name, precision in (("loss", {"abs": 1e-5}), ("grad_norm", {"rel": 1e-5})):
        found, expected = losses(out, name), losses(alone, name)
        assert found == {n: pytest.approx(x, **precision) for n, x in expected.items()}
        assert found


def test_sharded_in_bfloat16(tmp_path, text):
    """Weights are gathered rounded: the losses of one process but for that."""
    changes = {"dtype": "bfloat16", "steps": 4, "log_every": 1, "eval_every": 2, "save_every": 9}
    alone, out = tmp_path / "alone", tmp_path / "run"
    assert run(alone, text, **changes) == 0
    codes = together(2, words(out, text, **changes, sharding="fsdp"), tmp_path / "told")
    assert codes == [0, 0], (tmp_path / "told-0").read_text()
    found, expected = losses(out), losses(alone)
    assert found == {step: pytest.approx(loss, abs=0.02) for step, loss in expected.items()}
    weights = load_file(out / "model/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("least", "sizes"), [(1, [1] * 5), (10, [1] * 5), (11, [2, 2, 1]), (99, [5])]
)
def test_small_layers_are_gathered_together(least, sizes, monkeypatch):
    monkeypatch.setattr(sharding, "UNIT_PARAMETERS", least)
    layers = [torch.nn.Linear(2, 5, bias=False) for _ in range(5)]
    found = sharding.units(layers)
    assert [len(unit) for unit in found] == sizes
    assert [layer for unit in found for layer in unit] == layers


@pytest.mark.parametrize(("dtype", "gathered"), [("float32", None), ("bfloat16", torch.bfloat16)])
def test_what_passes_between_processes(dtype, gathered, monkeypatch):
    seen = []
    monkeypatch.setattr(sharding, "_mesh", lambda *given: {"shard": None})
    monkeypatch.setattr(
        sharding, "fully_shard", lambda module, mesh, mp_policy: seen.append(mp_policy)
    )
    config = HeadwayConfig(vocab_size=8, hidden_size=8, num_attention_heads=2, num_hidden_layers=2)
    settings = TrainSettings(dtype=dtype, sharding="fsdp")
    sharding.shard(HeadwayForCausalLM(config), settings, None, torch.device("cpu"))
    assert [policy.param_dtype for policy in seen] == [gathered] * 2
    assert all(policy.reduce_dtype in (None, torch.float32) for policy in seen)
