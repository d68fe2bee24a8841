"""The journal: it keeps what ended, drops what did not, and touches nothing that is not its own."""

import fcntl
import json
import os

import pytest
from small_comparisons import contents, records

from headway import HeadwayError
from headway.studies.journal import Journal

HEADER = {
    "settings": {"steps": 10, "seeds": 2, "out": "runs/a", "json": False},
    "arms": {"vanilla": [], "kv_shift": [{"name": "kv_shift", "window": 1}]},
    "command": "headway compare",
}


def header(**changes):
    return HEADER | {"settings": HEADER["settings"] | changes}


@pytest.fixture
def folder(tmp_path):
    """One finished run, a cost, and two lines of a run that did not finish."""
    with Journal(tmp_path / "run", HEADER) as journal:
        journal.write("train", arm="vanilla", seed=0, step=1, loss=3.5)
        journal.write("finish", arm="vanilla", seed=0, status="done", validation_loss=3.25)
        journal.write("cost", arm="vanilla", parameters=7)
        journal.write("train", arm="kv_shift", seed=0, step=1, loss=3.0)
        journal.write("eval", arm="kv_shift", seed=0, step=1, validation_loss=2.5)
    return tmp_path / "run"


def append(folder, content):
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(content)


def refused(folder, made=HEADER):
    with pytest.raises(HeadwayError) as caught:
        Journal(folder, made)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_a_new_folder_holds_the_header_and_the_records(folder):
    assert json.loads((folder / "settings.json").read_text()) == HEADER
    assert [r["kind"] for r in records(folder)] == ["train", "finish", "cost", "train", "eval"]
    assert records(folder)[1]["validation_loss"] == 3.25


def test_opened_again_it_keeps_ended_runs_and_costs_and_drops_the_rest(folder):
    with Journal(folder, HEADER) as journal:
        assert journal.has("finish", arm="vanilla", seed=0)
        assert journal.has("cost", arm="vanilla")
        assert not journal.has("finish", arm="kv_shift", seed=0)
        assert not journal.has("train", arm="kv_shift")
        journal.write("train", arm="kv_shift", seed=0, step=1, loss=2.75)
    kept = [(r["kind"], r["arm"]) for r in records(folder)]
    assert kept == [
        ("train", "vanilla"), ("finish", "vanilla"), ("cost", "vanilla"), ("train", "kv_shift")
    ]  # fmt: skip


def test_a_seed_that_ended_does_not_keep_another_one(folder):
    append(folder, b'{"kind": "train", "arm": "vanilla", "seed": 1, "step": 1, "loss": 3.0}\n')
    Journal(folder, HEADER).__exit__(None, None, None)
    assert {r.get("seed") for r in records(folder)} == {0, None}


def test_a_diverged_run_is_an_ended_run(folder):
    append(folder, b'{"kind": "finish", "arm": "kv_shift", "seed": 0, "status": "diverged"}\n')
    with Journal(folder, HEADER) as journal:
        assert journal.has("finish", arm="kv_shift", seed=0)
    assert len(records(folder)) == 6


@pytest.mark.parametrize(
    "torn", [b'{"kind": "finish", "arm": "vanil', b"{", b"\x00\x00\x00", b'{"kind": "\xff']
)
def test_a_torn_last_line_is_dropped(folder, torn):
    append(folder, torn)
    with Journal(folder, HEADER) as journal:
        assert journal.has("finish", arm="vanilla", seed=0)
    assert len(records(folder)) == 3


def test_a_last_line_without_its_end_is_kept(folder):
    append(folder, b'{"kind": "finish", "arm": "kv_shift", "seed": 0, "status": "done"}')
    with Journal(folder, HEADER) as journal:
        assert journal.has("finish", arm="kv_shift", seed=0)
        journal.write("cost", arm="kv_shift", parameters=8)
    assert len(records(folder)) == 7


@pytest.mark.parametrize("broken", ['{"kind": "tra', "[1]", "3", '{"arm": "vanilla"}'])
def test_a_broken_middle_line_is_refused_with_its_number(folder, broken):
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = broken
    path.write_text("\n".join(lines) + "\n")
    before = contents(folder)
    sentence = refused(folder)
    assert f"line 3 of {path} is broken" in sentence
    assert "accepted is" in sentence
    assert contents(folder) == before


def test_a_changed_setting_is_refused_with_the_difference(folder):
    before = contents(folder)
    sentence = refused(folder, header(steps=20))
    assert "steps was 10 and is 20" in sentence
    assert "seeds" not in sentence
    assert "give another --out" in sentence
    assert contents(folder) == before


def test_all_changed_settings_are_named_new_and_missing_ones_too(folder):
    sentence = refused(folder, header(steps=20, seeds=3, dtype="bfloat16"))
    for part in ("steps was 10", "seeds was 2 and is 3", "dtype was None and is 'bfloat16'"):
        assert part in sentence


def test_where_results_go_may_change(folder):
    with Journal(folder, header(out="elsewhere", json=True)) as journal:
        assert journal.has("finish", arm="vanilla", seed=0)
    assert json.loads((folder / "settings.json").read_text()) == HEADER


def test_changed_mechanisms_are_refused(folder):
    before = contents(folder)
    arms = HEADER["arms"] | {"kv_shift": [{"name": "kv_shift", "window": 2}]}
    sentence = refused(folder, HEADER | {"arms": arms})
    assert "other mechanisms for kv_shift" in sentence
    assert "vanilla" not in sentence
    assert contents(folder) == before


def test_an_added_arm_is_refused(folder):
    sentence = refused(folder, HEADER | {"arms": HEADER["arms"] | {"mine": []}})
    assert "other mechanisms for mine" in sentence


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": {}}'])
def test_damaged_settings_are_refused(folder, content):
    (folder / "settings.json").write_text(content)
    before = contents(folder)
    assert f"{folder / 'settings.json'} is damaged" in refused(folder)
    assert contents(folder) == before


def test_a_folder_with_other_things_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    before = contents(tmp_path)
    sentence = refused(tmp_path)
    assert "holds other things (thesis.txt) and no settings.json" in sentence
    assert "accepted is a new folder" in sentence
    assert contents(tmp_path) == before


def test_hidden_files_are_no_other_things(tmp_path):
    (tmp_path / ".gitignore").write_text("*")
    with Journal(tmp_path, HEADER) as journal:
        journal.write("cost", arm="vanilla", parameters=7)
    assert len(records(tmp_path)) == 1


def test_two_at_once_are_refused_and_one_after_the_other_not(folder):
    with Journal(folder, HEADER) as first:
        sentence = refused(folder)
        assert f"{folder} is in use by another headway process" in sentence
        assert first.has("finish", arm="vanilla", seed=0)
        first.write("cost", arm="kv_shift", parameters=8)
    with Journal(folder, HEADER) as second:
        assert second.has("cost", arm="kv_shift")


def test_a_refusal_unlocks(folder):
    refused(folder, header(steps=20))
    with Journal(folder, HEADER) as journal:
        assert journal.has("finish", arm="vanilla", seed=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [[1.0, float("-inf")]]])
def test_what_is_not_finite_is_never_written(folder, value):
    with Journal(folder, HEADER) as journal:
        before = (folder / "metrics.jsonl").read_bytes()
        with pytest.raises(ValueError, match="not JSON compliant"):
            journal.write("train", arm="kv_shift", seed=0, step=1, loss=value)
        assert not journal.has("train", arm="kv_shift")
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_finished_runs_and_costs_reach_the_disk(tmp_path, monkeypatch):
    with Journal(tmp_path / "run", HEADER) as journal:
        synced = []
        monkeypatch.setattr(os, "fsync", lambda _: synced.append(len(records(tmp_path / "run"))))
        for kind in ("train", "eval", "learned", "finish", "cost"):
            journal.write(kind, arm="vanilla", seed=0)
    assert synced == [4, 5]


def fail(error):
    raise error


@pytest.mark.parametrize("exists", [False, True], ids=["missing", "empty"])
def test_an_error_before_any_record_leaves_the_folder_as_it_was(tmp_path, exists):
    folder = tmp_path / "run"
    if exists:
        folder.mkdir()
        (folder / ".gitignore").write_text("*")
    before = contents(folder)

    def start():
        with Journal(folder, HEADER):
            (folder / "corpus").mkdir()
            (folder / "corpus" / "train.npy").write_bytes(b"1")
            fail(HeadwayError("text: 'x' is empty"))

    with pytest.raises(HeadwayError, match="text"):
        start()
    assert contents(folder) == before
    assert folder.exists() == exists


@pytest.mark.parametrize("error", [KeyboardInterrupt(), HeadwayError("late")], ids=repr)
def test_what_can_be_continued_is_kept(tmp_path, error):
    def start():
        with Journal(tmp_path / "run", HEADER) as journal:
            if isinstance(error, HeadwayError):
                journal.write("train", arm="vanilla", seed=0, step=1)
            fail(error)

    with pytest.raises(type(error)):
        start()
    assert (tmp_path / "run" / "settings.json").exists()
    with Journal(tmp_path / "run", HEADER) as journal:
        assert not journal.has("train", arm="vanilla")


def test_an_earlier_comparison_without_records_is_never_removed(tmp_path):
    Journal(tmp_path / "run", HEADER).__exit__(None, None, None)
    with pytest.raises(HeadwayError, match="again"), Journal(tmp_path / "run", HEADER):
        fail(HeadwayError("again"))
    assert (tmp_path / "run" / "settings.json").exists()


def test_what_another_process_did_meanwhile_is_never_removed(tmp_path, monkeypatch):
    """Another comparison comes and ends between the first look at the folder and the lock."""
    folder, flock = tmp_path / "run", fcntl.flock

    def late(handle, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        with Journal(folder, HEADER) as other:
            other.write("train", arm="vanilla", seed=0, step=1)
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(HeadwayError, match="late"), Journal(folder, HEADER):
        fail(HeadwayError("late"))
    assert (folder / "settings.json").exists()
    assert (folder / "metrics.jsonl").exists()
