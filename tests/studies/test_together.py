"""Seeds of an arm trained together leave the records that they leave one at a time."""

from pathlib import Path

import pytest
import torch
from small_comparisons import by_place, numbers, records, settings

from headway import HeadwayForCausalLM
from headway.report.summary import summarise
from headway.studies.comparison import compare as module
from headway.studies.comparison.compare import compare
from headway.studies.comparison.runs import Bench
from headway.studies.comparison.together import FILLS, why_alone

ARMS = ("vanilla", "kv_shift", "value_stream+selective")
PER_COPY = {"seeds": 3, "steps": 70, "evaluations": 3}


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every arm fitted."""
    monkeypatch.setattr(module, "why_alone", lambda *_: None)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """One at a time; only to be read."""
    out = tmp_path_factory.mktemp("alone") / "run"
    compare(settings(out, text, *ARMS, **PER_COPY), "alone")
    return out


def the_same(found: Path, expected: Path) -> None:
    """Every record, up to rounding."""
    here, there = by_place(found), by_place(expected)
    assert here.keys() == there.keys()
    for place, record in there.items():
        own = dict(here[place])
        own.pop("together", None)
        assert own.keys() == record.keys()
        for key, value in record.items():
            if isinstance(value, str | None):
                assert own[key] == value, (place, key)
                continue
            tolerance = 0.1 if key == "repeat_accuracy" else 2e-4
            assert list(numbers([own[key]])) == pytest.approx(
                list(numbers([value])), abs=tolerance
            ), (place, key)


def test_the_same_comparison(together, alone, text, tmp_path, capsys) -> None:
    compare(settings(tmp_path / "run", text, *ARMS, **PER_COPY), "together")
    the_same(tmp_path / "run", alone)
    told = capsys.readouterr().err
    assert "kv_shift: 3 seeds are trained together, in one program" in told
    finished = [r for r in records(tmp_path / "run") if r["kind"] == "finish"]
    assert [r["together"] for r in finished] == [3] * 9
    assert summarise(tmp_path / "run")["arms"].keys() == summarise(alone)["arms"].keys()


def test_a_comparison_that_was_interrupted_goes_on(together, alone, text, tmp_path, monkeypatch):
    """Alone at first, then together; what was finished stays as it is."""
    asked, real = settings(tmp_path / "run", text, *ARMS, **PER_COPY), module.train_run

    def interrupted(run: module.Run) -> None:
        if (run.arm, run.seed) == ("kv_shift", 1):
            raise KeyboardInterrupt
        real(run)

    with monkeypatch.context() as patch:
        patch.setattr(module, "why_alone", lambda *_: "of a test")
        patch.setattr(module, "train_run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compare(asked, "alone")
    before = [r for r in records(tmp_path / "run") if "seed" in r]
    assert {(r["arm"], r["seed"]) for r in before} == {(a, 0) for a in ARMS} | {("vanilla", 1)}
    compare(asked, "together")
    assert records(tmp_path / "run")[: len(before)] == before
    the_same(tmp_path / "run", alone)
    counted = {(r["arm"], r["seed"]): r.get("together") for r in records(tmp_path / "run")
               if r["kind"] == "finish"}  # fmt: skip
    assert counted["vanilla", 1] is None
    assert counted["vanilla", 2] is None, "one seed is left of it"
    assert counted["kv_shift", 2] == 2


@pytest.mark.parametrize("evaluations", [2, 3, 4])
@pytest.mark.parametrize("broken", [(0, 1), (1,)])
def test_seeds_that_diverge_are_recorded_as_alone(
    together, text, tmp_path, monkeypatch, evaluations, broken
) -> None:
    """Weights so large that norms make the first loss finite, and its gradient not."""
    real = Bench.model

    def model(bench: Bench, arm: str, seed: int) -> HeadwayForCausalLM:
        made = real(bench, arm, seed)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(1e30 if seed in broken else 1.0)
        return made

    asked = {"seeds": 2, "steps": 4, "evaluations": evaluations}
    monkeypatch.setattr(Bench, "model", model)
    compare(settings(tmp_path / "together", text, "vanilla", **asked), "together")
    monkeypatch.setattr(module, "why_alone", lambda *_: "of a test")
    compare(settings(tmp_path / "alone", text, "vanilla", **asked), "alone")
    the_same(tmp_path / "together", tmp_path / "alone")
    status = [r["status"] for r in records(tmp_path / "together") if r["kind"] == "finish"]
    assert status.count("diverged") == len(broken)


def test_a_rate_that_is_too_high_is_recorded_as_alone(together, text, tmp_path, monkeypatch):
    asked = {"seeds": 2, "learning_rate": 1e30, "steps": 10}
    compare(settings(tmp_path / "together", text, "vanilla", **asked), "too fast")
    monkeypatch.setattr(module, "why_alone", lambda *_: "of a test")
    compare(settings(tmp_path / "alone", text, "vanilla", **asked), "too fast")
    the_same(tmp_path / "together", tmp_path / "alone")


def test_bfloat16_is_trained_together(together, text, tmp_path) -> None:
    asked = {"seeds": 2, "dtype": "bfloat16", "context": 80, "validation_tokens": 160}
    compare(settings(tmp_path / "run", text, "kv_shift", **asked), "together")
    finished = [r for r in records(tmp_path / "run") if r["kind"] == "finish"]
    assert [(r["status"], r["together"]) for r in finished] == [("done", 2)] * 4


def test_on_a_cpu_seeds_are_trained_one_at_a_time_and_it_says_why(text, tmp_path, capsys) -> None:
    compare(settings(tmp_path / "run", text, seeds=2, steps=1, evaluations=1), "alone")
    told = capsys.readouterr().err
    assert told.count("seeds are trained one at a time, as arithmetic takes the time") == 1


def test_what_does_not_fit_a_gpu_is_told(monkeypatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (8 * 2**30, 80 * 2**30))
    assert why_alone(gpu, 1e9, 4, lambda: 2**30) is None
    assert why_alone(gpu, 1e9, 5, lambda: 2**30) == (
        "5 copies would need about 10.0 GiB of the 8.0 GiB that are free"
    )
    assert "fills the GPU with one" in str(why_alone(gpu, 2 * FILLS, 2, lambda: 0))
    assert "arithmetic" in str(why_alone(torch.device("cpu"), 1e9, 2, lambda: 0))
