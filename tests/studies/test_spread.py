"""Runs of a study as jobs: results are those of a study at home, whatever did them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_comparisons import write_text

import headway_cli
from headway.errors import HeadwayError
from headway.studies import spread as spread_module
from headway.studies.claims import Run
from headway.studies.running import run_study
from headway.studies.selective.theory import SELECTIVE_THEORY
from headway.studies.sinks.arms import SIZES
from headway.studies.sinks.growth import grow_sinks
from headway.studies.spread import spread_runs
from headway_settings import StudySettings

NAME = "selective-theory"
ARMS = ("selective", "selective-signed", "sparsification")
DEBUG = (("cluster", "debug"),)


def settings(out: Path, **fields: Any) -> StudySettings:
    chosen = {"arms": ARMS, "seeds": 1, "page": False, "device": "cpu"} | fields
    return StudySettings(name=(NAME,), out=out, **chosen)


def found(folder: Path) -> dict[str, Any]:
    """What stands in the files, the clock apart."""
    files = {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    for content in files.values():
        for run in content["runs"]:
            assert run.pop("seconds") >= 0
            assert run.pop("ended")
    return files


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("home")
    run_study(SELECTIVE_THEORY, settings(folder), "command")
    assert {path.stem for path in folder.glob("*.json")} == set(ARMS)
    return found(folder)


@pytest.mark.parametrize("job", ["arm", "run"])
def test_jobs_of_submitit_leave_what_a_study_at_home_does(
    job: str, home: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("submitit")
    asked = settings(tmp_path, executor="slurm", executor_options=DEBUG, job=job)
    results = run_study(SELECTIVE_THEORY, asked, "command")
    assert len(results.found) == len(ARMS)
    assert found(tmp_path) == home
    assert not (tmp_path / ".jobs").exists()


def test_a_job_that_breaks_in_another_process_is_told(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    options = (("cluster", "local"), ("timeout_min", "2"))
    asked = settings(tmp_path, executor="slurm", executor_options=options)
    with pytest.raises(RuntimeError, match=r"1 jobs broke; .*\.jobs has its log") as told:
        list(spread_runs("no-such-study", [Run(ARMS[0], 0)], asked, "command"))
    assert "ValueError: not enough values" in str(told.value.__cause__)


def test_a_task_of_ray(home: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install ray")
    asked = settings(
        tmp_path,
        executor="ray",
        executor_options=(("num_cpus", "1"),),
        arms=("selective-signed", "sparsification"),
        job="arm",
    )
    run_study(SELECTIVE_THEORY, asked, "command")
    assert found(tmp_path) == {
        f"{arm}.json": home[f"{arm}.json"] for arm in ("selective-signed", "sparsification")
    }


def test_what_ended_is_kept_where_another_job_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    really = SELECTIVE_THEORY.perform

    def refusing(runs: Sequence[Run], asked: StudySettings) -> Any:
        yield from really(runs[:1], asked)
        if runs[0].arm == ARMS[1]:
            raise HeadwayError("seconds: 1 were over")
        yield from really(runs[1:], asked)

    asked = settings(tmp_path, executor="slurm", executor_options=DEBUG, seeds=2)
    with monkeypatch.context() as patch:
        made = replace(SELECTIVE_THEORY, perform=refusing)
        patch.setattr("headway.studies.catalogue.CLAIM_STUDIES", (made,))
        with pytest.raises(HeadwayError, match="seconds: 1 were over"):
            run_study(SELECTIVE_THEORY, asked, "command")
    kept = {name: len(content["runs"]) for name, content in found(tmp_path).items()}
    assert kept == {f"{ARMS[0]}.json": 2, f"{ARMS[1]}.json": 1, f"{ARMS[2]}.json": 2}
    run_study(SELECTIVE_THEORY, replace(asked, executor="local", executor_options=()), "command")
    assert all(len(content["runs"]) == 2 for content in found(tmp_path).values())


def test_jobs_are_arms_or_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [Run(arm, seed) for seed in (0, 1) for arm in "ab"]
    monkeypatch.chdir(tmp_path)
    asked = StudySettings(name=("made",), out=Path("out"), executor="ray")
    given: list[Any] = []
    monkeypatch.setattr(spread_module, "_by_ray", lambda jobs, *_: given.extend(jobs) or iter(()))
    list(spread_runs("made", runs, asked, "command"))
    parts = [job.args[0].args[1] for job in given]
    assert parts == [[Run(arm, seed) for seed in (0, 1)] for arm in "ab"]
    assert given[0].args[1] == tmp_path
    given.clear()
    list(spread_runs("made", runs, replace(asked, job="run"), "command"))
    assert [job.args[0].args[1] for job in given] == [[run] for run in runs]


def test_paths_are_those_of_who_asked(tmp_path: Path) -> None:
    before = Path.cwd()
    assert spread_module.there(lambda: [Path.cwd()], tmp_path) == ([tmp_path], None)
    assert Path.cwd() == before
    gone = spread_module.there(lambda: [Path.cwd()], tmp_path / "gone")
    assert "gone is not there on every machine" in str(gone.refusal)
    assert gone.results == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--executor", "slurm", "--executor-options", "partitions", "gpu", "cluster", "debug"),
         "executor_options: not accepted by slurm"),
        (("--executor", "ray", "--executor-options", "gpus", "1"),
         "executor_options: not accepted by ray"),
        (("--executor", "slurm"), "executor: 'slurm' cannot be had here ("),
        (("--executor", "slurm", "--executor-options", "cluster", "moon"),
         "executor_options: not accepted by slurm"),
    ],
)  # fmt: skip
def test_wrong_options(
    words: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ray = pytest.importorskip("ray")
    pytest.importorskip("submitit")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)  # so that no cluster is started
    monkeypatch.setattr("shutil.which", lambda *_: None)  # a machine without Slurm
    assert headway_cli.main(["study", NAME, "--out", str(tmp_path), *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(("executor", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_package_that_is_not_there(
    executor: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(HeadwayError, match=f"executor: '{executor}' needs the package {package}"):
        run_study(SELECTIVE_THEORY, settings(tmp_path, executor=executor), "command")


def test_arms_of_the_study_of_sinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    tiny = replace(
        SIZES["small"], context=64, vocab_size=300, batch_size=2, steps=2, every=2, read_samples=3,
        profile_samples=3, test_tokens=64, width=32,
    )  # fmt: skip
    monkeypatch.setitem(SIZES, "small", tiny)
    text = str(write_text(tmp_path / "text", documents=40, words=200))
    given = {"text": text, "seeds": None, "arms": ("rope", "alibi"), "corpus": tmp_path / "corpus"}
    at_home = settings(tmp_path / "home", **given)
    away = settings(tmp_path / "away", executor="slurm", executor_options=DEBUG, **given)
    results = [grow_sinks(asked, "command") for asked in (at_home, away)]
    assert {path.stem for path in (tmp_path / "away").glob("*.json")} == {"rope", "alibi"}
    for result in results:
        for arm in result.values():
            assert arm["outcome"] == "done"
            for clock in ("seconds", "tokens_per_second", "started", "curve"):
                arm.pop(clock)
    assert results[0] == results[1]
