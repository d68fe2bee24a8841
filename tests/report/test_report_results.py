"""Reading a results folder: right rows, torn last lines, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headway.errors import HeadwayError
from headway.report.results import read_results
from headway.report.rows import EvalRow


def edit_settings(folder: Path, **changes: Any) -> None:
    """Change or (with None) drop fields of `settings.json`."""
    path = folder / "settings.json"
    settings = json.loads(path.read_text()) | changes
    path.write_text(
        json.dumps({key: value for key, value in settings.items() if value is not None})
    )


def append(folder: Path, text: str) -> int:
    """Append text to `metrics.jsonl`; the number of the line it starts at."""
    path = folder / "metrics.jsonl"
    before = path.read_text()
    path.write_text(before + text)
    return before.count("\n") + 1


def test_reads_every_kind(drawn_results: Path) -> None:
    results = read_results(drawn_results)
    assert results.arms[0] == "vanilla"
    assert results.run.device.startswith("cpu")
    assert set(results.costs) == set(results.arms)
    assert sorted(results.done("vanilla")) == [0, 1, 2, 3, 4]
    assert sorted(results.done("selective")) == [0, 1, 3, 4]
    assert results.diverged("selective") == (2,)
    assert sorted(results.done("shortcut")) == [0, 1, 2, 3]
    assert {row.seed for row in results.evals_of("selective")} == {0, 1, 3, 4}
    assert len(results.evals_of("vanilla")) == 5 * 8
    assert [row.step for row in results.last_evals("vanilla")] == [400] * 5
    assert any("kv_shift" in name for row in results.learned for name in row.values)


def test_best_prefix_score_is_the_largest_measured() -> None:
    def row(scores: Any) -> EvalRow:
        return EvalRow("a", 0, 1, 1, None, None, None, None, None, scores, ())

    assert row(((0.1, 0.7), (0.3, None))).best_prefix_score == 0.7
    assert row(()).best_prefix_score is None
    assert row(((None,),)).best_prefix_score is None


def test_torn_last_line_is_left_out(make_results: Callable[..., Path]) -> None:
    folder = make_results(seeds=1)
    whole = read_results(folder)
    append(folder, '{"kind":"finish","arm":"vanilla","se')
    assert read_results(folder) == whole
    append(folder, "\n")
    with pytest.raises(HeadwayError, match="not JSON"):
        read_results(folder)


def test_torn_inside_a_letter(make_results: Callable[..., Path]) -> None:
    folder = make_results(seeds=1)
    whole = read_results(folder)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write('{"arm":"é'.encode()[:-1])
    assert read_results(folder) == whole


def test_whole_last_line_without_its_end_counts(make_results: Callable[..., Path]) -> None:
    folder = make_results(seeds=1)
    path = folder / "metrics.jsonl"
    whole = read_results(folder)
    path.write_text(path.read_text().removesuffix("\n"))
    assert read_results(folder) == whole


def test_later_line_about_the_same_counts(make_results: Callable[..., Path]) -> None:
    folder = make_results(seeds=1)
    before = read_results(folder)
    last = (folder / "metrics.jsonl").read_text().splitlines()[-1]
    again = json.loads(last) | {"validation_loss": 1.5, "step": 7}
    append(folder, json.dumps(again) + "\n")
    after = read_results(folder)
    assert len(after.finishes) == len(before.finishes)
    assert after.done(again["arm"])[0].validation_loss == 1.5


TRAIN = {
    "kind": "train",
    "arm": "vanilla",
    "seed": 0,
    "step": 1,
    "tokens": 2,
    "loss": 3.0,
    "learning_rate": 0.1,
    "tokens_per_second": None,
}
FINISH = {
    "kind": "finish",
    "arm": "vanilla",
    "seed": 0,
    "status": "done",
    "step": 1,
    "tokens": 2,
    "validation_loss": 3.0,
    "test_loss": None,
    "seconds": 1,
}
COST = {
    "kind": "cost",
    "arm": "vanilla",
    "parameters": 5,
    "added_parameters": 0,
    "step_seconds": [0.1],
    "step_ratios": [1],
    "peak_bytes": None,
    "peak_ratio": None,
}
LEARNED = {"kind": "learned", "arm": "vanilla", "seed": 0, "values": {"a": [1, [2, None]]}}
EVAL = {
    "kind": "eval",
    "arm": "vanilla",
    "seed": 0,
    "step": 1,
    "tokens": 2,
    "validation_loss": None,
    "early_loss": None,
    "late_loss": None,
    "in_context_gain": None,
    "repeat_accuracy": None,
    "prefix_scores": None,
    "position_losses": None,
}


@pytest.mark.parametrize("row", [TRAIN, FINISH, COST, LEARNED, EVAL], ids=lambda row: row["kind"])
def test_null_where_it_may_be(make_results: Callable[..., Path], row: dict[str, Any]) -> None:
    folder = make_results(seeds=1)
    append(folder, json.dumps(row) + "\n")
    read_results(folder)


REFUSED = [
    ("", "not JSON"),
    ("[1]", "a JSON object is expected"),
    ('{"kind": "train", "loss": NaN}', "NaN is not accepted"),
    ('{"kind": "dance"}', "field 'kind' is 'dance'"),
    ({}, "field 'kind' is missing"),
    (TRAIN | {"arm": "unknown"}, "arm 'unknown' is not among the arms"),
    (TRAIN | {"seed": 0.5}, "field 'seed' is 0.5; accepted is a whole number"),
    (TRAIN | {"seed": True}, "field 'seed' is True"),
    (TRAIN | {"loss": "low"}, "field 'loss' is 'low'; accepted is a number or null"),
    (TRAIN | {"loss": True}, "field 'loss' is True"),
    (TRAIN | {"arm": 3}, "field 'arm' is 3; accepted is a string"),
    (FINISH | {"status": "well"}, "field 'status' is 'well'"),
    (FINISH | {"validation_loss": None}, "field 'validation_loss' is None"),
    (COST | {"step_ratios": [None]}, "field 'step_ratios'"),
    (COST | {"step_ratios": 1}, "field 'step_ratios'"),
    (LEARNED | {"values": [1]}, "field 'values'"),
    (LEARNED | {"values": {"a": ["b"]}}, "field 'values'"),
    (EVAL | {"prefix_scores": [1]}, "field 'prefix_scores'"),
    (EVAL | {"position_losses": [[1, 2, 3]]}, "field 'position_losses'"),
    (EVAL | {"position_losses": [[0.5, 2]]}, "field 'position_losses'"),
]


@pytest.mark.parametrize(("line", "complaint"), REFUSED)
def test_broken_line_is_named(
    make_results: Callable[..., Path], line: str | dict[str, Any], complaint: str
) -> None:
    folder = make_results(seeds=1, arms=("vanilla",))
    text = line if isinstance(line, str) else json.dumps(line)
    number = append(folder, text + "\n" + json.dumps(TRAIN) + "\n")
    with pytest.raises(HeadwayError) as raised:
        read_results(folder)
    assert str(raised.value).startswith(f"metrics.jsonl line {number}:")
    assert complaint in str(raised.value)


def test_missing_folder_and_files(tmp_path: Path, make_results: Callable[..., Path]) -> None:
    with pytest.raises(HeadwayError, match="does not exist"):
        read_results(tmp_path / "nowhere")
    folder = make_results(seeds=1)
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(HeadwayError, match=rf"{folder}/metrics\.jsonl: cannot be read"):
        read_results(folder)
    (folder / "settings.json").unlink()
    with pytest.raises(HeadwayError, match=rf"{folder}/settings\.json: cannot be read"):
        read_results(folder)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"command": None}, "field 'command' is missing"),
        ({"arms": {"vanilla": "none"}}, "field 'arms'"),
        ({"corpus": "text"}, "field 'corpus' is 'text'; accepted is an object"),
    ],
)
def test_settings_are_checked(
    make_results: Callable[..., Path], changes: dict[str, Any], complaint: str
) -> None:
    folder = make_results(seeds=1)
    edit_settings(folder, **changes)
    with pytest.raises(HeadwayError) as raised:
        read_results(folder)
    assert str(raised.value).startswith("settings.json:")
    assert complaint in str(raised.value)
