"""The summary of drawn results: numbers against their definition, words for each outcome."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import pytest

from headway.report.results import read_results
from headway.report.statistics import BETTER, IS_BASELINE, NOT_SEPARABLE, TOO_FEW, WORSE, holm
from headway.report.summary import summarise, write_summary


def rows_of(folder: Path, **wanted: Any) -> list[dict[str, Any]]:
    """Lines of `metrics.jsonl` with the given fields."""
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in lines if all(row.get(key) == value for key, value in wanted.items())]


def test_numbers_against_the_lines(drawn_results: Path) -> None:
    arm = summarise(drawn_results)["arms"]["kv_shift"]
    ends = rows_of(drawn_results, kind="finish", arm="kv_shift")
    base = rows_of(drawn_results, kind="finish", arm="vanilla")
    cost = rows_of(drawn_results, kind="cost", arm="kv_shift")[0]
    last = rows_of(drawn_results, kind="eval", arm="kv_shift", step=400)
    losses = [row["validation_loss"] for row in ends]
    assert arm["seeds"] == [0, 1, 2, 3, 4]
    assert arm["validation_loss_mean"] == pytest.approx(fmean(losses))
    assert arm["validation_loss_sd"] == pytest.approx(stdev(losses))
    assert arm["test_loss_mean"] == pytest.approx(fmean(row["test_loss"] for row in ends))
    assert arm["difference_mean"] == pytest.approx(
        fmean(a["validation_loss"] - b["validation_loss"] for a, b in zip(ends, base, strict=True))
    )
    assert arm["step_ratio_median"] == median(cost["step_ratios"])
    assert arm["step_ratio_min"] == min(cost["step_ratios"])
    assert arm["step_ratio_max"] == max(cost["step_ratios"])
    assert arm["added_fraction"] == pytest.approx(32 / 164_000)
    assert arm["peak_ratio"] == cost["peak_ratio"]
    assert arm["in_context_gain"] == pytest.approx(fmean(row["in_context_gain"] for row in last))
    assert arm["repeat_accuracy"] == pytest.approx(fmean(row["repeat_accuracy"] for row in last))
    assert arm["prefix_score"] == pytest.approx(
        fmean(max(max(layer) for layer in row["prefix_scores"]) for row in last)
    )


def test_verdicts_and_correction(drawn_results: Path) -> None:
    arms = summarise(drawn_results)["arms"]
    assert arms["vanilla"]["verdict"] == IS_BASELINE
    assert arms["kv_shift"]["verdict"] == BETTER
    assert arms["selective"]["verdict"] == WORSE
    assert arms["shortcut"]["verdict"] == NOT_SEPARABLE
    tested = [arm for name, arm in arms.items() if name != "vanilla"]
    p_values = [arm["p_value"] for arm in tested if arm["p_value"] is not None]
    assert [arm["holm_p"] for arm in tested] == holm(p_values)


def test_diverged_and_unfinished_runs_are_counted_and_left_out(drawn_results: Path) -> None:
    summary = summarise(drawn_results)
    selective, shortcut = summary["arms"]["selective"], summary["arms"]["shortcut"]
    assert (selective["seeds"], selective["diverged"]) == ([0, 1, 3, 4], [2])
    assert set(selective["seed_differences"]) == {"0", "1", "3", "4"}
    assert (shortcut["seeds"], shortcut["unfinished"]) == ([0, 1, 2, 3], 1)
    assert summary["remarks"][-1] == "1 run diverged and is left out; 1 run has not finished."


def test_tokens_to_vanillas_loss(drawn_results: Path) -> None:
    arms = summarise(drawn_results)["arms"]
    vanilla, better, worse = arms["vanilla"], arms["kv_shift"], arms["selective"]
    assert (vanilla["tokens_to_reach"], vanilla["tokens_ratio"]) == (400 * 2048, 1.0)
    assert better["tokens_to_reach"] is not None
    assert better["tokens_ratio"] is not None
    assert 350 * 2048 > better["tokens_to_reach"] > 200 * 2048
    assert better["tokens_ratio"] == pytest.approx(better["tokens_to_reach"] / (400 * 2048))
    assert worse["tokens_to_reach"] is None
    assert worse["tokens_ratio"] is None


def test_final_loss_is_the_end_of_the_curve(make_results: Callable[..., Path]) -> None:
    """Vanilla's final loss is taken after its last evaluation and counts as reached only there."""
    folder = make_results(arms=("vanilla",), seeds=1)
    lines = rows_of(folder)
    lines[-1] |= {"tokens": 500 * 2048, "validation_loss": lines[-1]["validation_loss"] - 0.1}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    assert summarise(folder)["arms"]["vanilla"]["tokens_to_reach"] == 500 * 2048


def test_headline_names_the_best_arm(drawn_results: Path) -> None:
    summary = summarise(drawn_results)
    best = summary["arms"]["kv_shift"]
    assert best["difference_mean"] is not None
    assert best["tokens_ratio"] is not None
    head = summary["headline"]
    assert head.startswith(f"kv_shift lowers the validation loss by {-best['difference_mean']:.4f}")
    assert "5 paired seeds" in head
    assert f"{100 * best['tokens_ratio']:.0f}% of its tokens" in head
    assert summary["remarks"][0].startswith("Also better than vanilla: kv_shift+selective by")
    assert summary["remarks"][1].startswith("Worse than vanilla: selective by")


def test_headline_without_a_better_arm(make_results: Callable[..., Path]) -> None:
    folder = make_results(effects={}, arms=("vanilla", "shortcut"), noise=0.01)
    summary = summarise(folder)
    assert summary["arms"]["shortcut"]["verdict"] == NOT_SEPARABLE
    assert summary["headline"] == (
        "No arm is better than vanilla beyond doubt (1 arm, 5 paired seeds)."
    )
    assert summary["remarks"] == []


def test_too_few_seeds(make_results: Callable[..., Path]) -> None:
    summary = summarise(make_results(seeds=1))
    assert summary["arms"]["kv_shift"]["verdict"] == TOO_FEW
    assert summary["arms"]["kv_shift"]["difference_mean"] is not None
    assert summary["arms"]["kv_shift"]["difference_low"] is None
    assert summary["arms"]["kv_shift"]["holm_p"] is None
    assert summary["headline"].startswith("Nothing can be said yet")


def test_only_vanilla(make_results: Callable[..., Path]) -> None:
    summary = summarise(make_results(arms=("vanilla",)))
    assert summary["headline"].startswith("Only vanilla was trained")


def test_separable_before_holm_only(make_results: Callable[..., Path]) -> None:
    arms = ("vanilla", *(f"arm{number}" for number in range(40)))
    folder = make_results(arms=arms, effects={"arm0": -0.006}, noise=0.003)
    arm = summarise(folder)["arms"]["arm0"]
    assert arm["p_value"] is not None
    assert arm["p_value"] < 0.05
    assert arm["verdict"] == "not separable after Holm"
    assert any(
        remark.startswith("Not separable from vanilla once corrected")
        for remark in summarise(folder)["remarks"]
    )


def test_runs_that_have_only_begun(make_results: Callable[..., Path]) -> None:
    every = frozenset((arm, seed) for arm in ("vanilla", "shortcut") for seed in range(5))
    summary = summarise(make_results(arms=("vanilla", "shortcut"), unfinished=every))
    assert summary["arms"]["shortcut"]["validation_loss_mean"] is None
    assert summary["remarks"][-1] == "10 runs have not finished."


def test_summary_is_written_whole(
    make_results: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_results(seeds=2)
    summary = summarise(folder)
    path = write_summary(folder, summary)
    assert path == folder / "summary.json"
    assert json.loads(path.read_text()) == summary
    before = path.read_text()

    def fail(_: int) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr("headway.files.os.fsync", fail)
    with pytest.raises(OSError, match="full"):
        write_summary(folder, summary | {"command": "another"})
    assert path.read_text() == before
    names = {file.name for file in folder.iterdir()}
    assert names == {"settings.json", "metrics.jsonl", "summary.json"}


def test_position_and_arm_order_survive(drawn_results: Path) -> None:
    assert list(summarise(drawn_results)["arms"]) == list(read_results(drawn_results).arms)
