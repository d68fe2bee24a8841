"""An interrupted comparison, continued by the same command, ends like an uninterrupted one."""

import errno
import json
import os
import signal
import time
from pathlib import Path

import pytest
from small_comparisons import by_place, contents, records, settings, words

import headway_cli
from command_processes import start
from headway.studies.comparison.compare import compare


def interrupt(command, metrics, number, after):
    """Start the command; send the signal once `after` runs ended and one more is under way."""
    told, errors = (metrics.parents[1] / f"told-{after}-{name}" for name in ("out", "err"))
    process = start(command, told, errors)
    try:
        deadline = time.monotonic() + 120
        while not _under_way(metrics, after):
            assert process.is_alive(), errors.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, number)
        process.join(60)
    finally:
        process.kill()
    return process.exitcode, told.read_text(), errors.read_text()


def _under_way(metrics, after):
    """Whether the file's whole lines hold `after` ends, and some lines of a run after the last."""
    if not metrics.exists():
        return False
    kinds = [json.loads(line)["kind"] for line in metrics.read_bytes().split(b"\n")[:-1]]
    return kinds.count("finish") >= after and kinds[-3:] == ["train"] * 3


def ends(folder):
    return sum(json.loads(line)["kind"] == "finish" for line in whole_lines(folder))


def whole_lines(folder):
    return (folder / "metrics.jsonl").read_bytes().split(b"\n")[:-1]


def test_killed_and_stopped_and_continued_it_ends_like_an_uninterrupted_one(tmp_path, text, capsys):
    """SIGKILL, the same command, Ctrl-C, the same command: bit for bit the same numbers."""
    asked = {"seeds": 4, "steps": 40}
    runs = 8
    compare(settings(tmp_path / "whole", text, **asked), "uninterrupted")
    whole, out = by_place(tmp_path / "whole"), tmp_path / "run"
    command = words(out, text, **asked)

    code, _, _ = interrupt(command, out / "metrics.jsonl", signal.SIGKILL, after=1)
    assert code == -signal.SIGKILL
    first = ends(out)
    assert 1 <= first < runs
    assert not (out / "report.html").exists()

    code, shown, told = interrupt(command, out / "metrics.jsonl", signal.SIGINT, after=first + 1)
    assert code == 130
    assert shown == ""
    assert told.endswith("headway: stopped; the same command continues from what had ended.\n")
    assert "Traceback" not in told
    second = ends(out)
    assert first < second < runs

    capsys.readouterr()
    assert headway_cli.main(command) == 0
    assert capsys.readouterr().err.count("validation loss") == runs - second
    continued = by_place(out)
    assert continued.keys() == whole.keys()
    for place, record in whole.items():
        assert continued[place] == record, place

    before = contents(out)
    assert headway_cli.main(words(out, text, **asked | {"steps": 41})) == 2
    assert "steps was 40 and is 41" in capsys.readouterr().err
    assert contents(out) == before


class Disk:
    """A disk that is full from its n-th fsync on, as the operating system tells it."""

    def __init__(self, monkeypatch, room):
        self.synced, self.room = 0, room
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, handle):
        self.synced += 1
        if self.synced > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._fsync(handle)


@pytest.fixture(scope="module")
def small(tmp_path_factory, text):
    """An uninterrupted comparison, and how often it made sure that something is on the disk."""
    out = tmp_path_factory.mktemp("small") / "run"
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, 1000)
        compare(settings(out, text, seeds=2), "small")
    return by_place(out), disk.synced


def test_every_end_and_cost_is_on_the_disk(small):
    _, synced = small
    # settings, metrics; five files of the corpus and two folders; four ends; two costs
    assert synced == 2 + 7 + 4 + 2


@pytest.mark.parametrize("room", [0, 1, 8, 9, 11, 13])
def test_a_full_disk_is_told_and_then_continued(small, tmp_path, text, capsys, monkeypatch, room):
    whole, _ = small
    out, command = tmp_path / "run", words(tmp_path / "run", text, seeds=2)
    with monkeypatch.context() as patch:
        Disk(patch, room)
        assert headway_cli.main(command) == 2
    told = capsys.readouterr().err.splitlines()
    assert "no space left on" in told[-1]
    assert sum(line.startswith("headway: ") for line in told) == 1
    assert out.exists() == (room >= 9)  # nothing is left of a comparison that did not begin
    if out.exists():
        assert sorted(p.name for p in out.iterdir()) == [
            ".lock", "corpus", "metrics.jsonl", "settings.json"
        ]  # fmt: skip
        assert len(records(out)) > 0
    assert headway_cli.main(command) == 0
    assert by_place(out) == whole


def test_a_full_disk_in_the_middle_of_a_run(small, tmp_path, text, capsys, monkeypatch):
    """A line of metrics that does not fit is torn; the next start drops it."""
    whole, _ = small
    out, command = tmp_path / "run", words(tmp_path / "run", text, seeds=2)
    limit = 4_000
    opened = Path.open

    def full(self, mode="r", *args, **kwargs):
        file = opened(self, mode, *args, **kwargs)
        if self.name == "metrics.jsonl" and mode == "a":
            write = file.write

            def until_full(line):
                if file.tell() + len(line) > limit:
                    write(line[: len(line) // 2])
                    file.flush()
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return write(line)

            return Proxy(file, until_full)
        return file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        assert headway_cli.main(command) == 2
    assert "no space left on the disk" in capsys.readouterr().err
    assert (out / "metrics.jsonl").read_bytes()[-1:] != b"\n"
    assert 0 < len(whole_lines(out)) < len(whole)
    assert headway_cli.main(command) == 0
    assert by_place(out) == whole


class Proxy:
    """A file whose `write` is another."""

    def __init__(self, file, write):
        self._file, self.write = file, write

    def __getattr__(self, name):
        return getattr(self._file, name)
