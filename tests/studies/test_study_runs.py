"""The running of studies: what is kept, continued, shared and refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_studies import MEAN, claim, result, results, settings, study, written

import headway_cli
from headway import HeadwayError
from headway.studies import catalogue
from headway.studies.claim_page import claim_table, render
from headway.studies.claims import Measures, Results, Run
from headway.studies.run_files import add_run, read_runs
from headway.studies.running import run_study, still_missing
from headway_settings import StudySettings


def test_a_run_is_kept_and_a_rerun_adds_what_is_missing(tmp_path: Path) -> None:
    made = study()
    asked = settings(tmp_path)
    some = run_study(made, replace(asked, seeds=2), "headway study made --seeds 2")
    assert [(r.run.arm, r.run.seed) for r in some] == [
        ("base", 0), ("base", 1), ("arm", 0), ("arm", 1)
    ]  # fmt: skip
    before = (tmp_path / "arm.json").stat().st_mtime_ns
    assert run_study(made, replace(asked, seeds=2), "again") == some
    assert (tmp_path / "arm.json").stat().st_mtime_ns == before
    assert {r.key for r in still_missing(made, some)} == {Run("base", 2).key, Run("arm", 2).key}
    whole = run_study(made, asked, "headway study made")
    assert len(whole.found) == 6
    assert still_missing(made, whole) == []
    assert [r.command for r in whole.of(["arm"])] == [
        "headway study made --seeds 2", "headway study made --seeds 2", "headway study made"
    ]  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["arm.json", "base.json"]
    content = json.loads((tmp_path / "arm.json").read_text())
    assert [run["seed"] for run in content["runs"]] == [0, 1, 2]
    assert [m["command"] for m in content["made"]] == [
        "headway study made --seeds 2", "headway study made"
    ]  # fmt: skip
    assert "verdict" not in (tmp_path / "arm.json").read_text()
    assert set(content["made"][0]["versions"]) == {"headway", "python", "torch", "transformers"}


def test_a_run_that_was_cut_continues(tmp_path: Path) -> None:
    did: list[str] = []

    def cut(runs: Sequence[Run], _: StudySettings) -> Iterator[tuple[Run, Measures]]:
        for run in runs:
            if len(did) == 3:
                did.append("cut")
                raise KeyboardInterrupt
            did.append(run.key)
            yield run, {"loss": 1.0 * run.seed}

    made = study(perform=cut)
    with pytest.raises(KeyboardInterrupt):
        run_study(made, settings(tmp_path), "a")
    assert len((read_runs(tmp_path, made) or Results("small", {})).found) == 3
    whole = run_study(made, settings(tmp_path), "b")
    assert len(whole.found) == 6
    assert len(did) == len(set(did)) == 7  # nothing was done twice
    plain = run_study(study(), settings(tmp_path / "whole"), "c")
    assert [(r.run, r.measures) for r in whole] == [(r.run, r.measures) for r in plain]


def test_later_runs_may_follow_from_earlier_ones(tmp_path: Path) -> None:
    """Learning rates are tuned on seeds of their own, for every arm; then the best one is run."""

    def runs(_: StudySettings, found: Results) -> list[Run]:
        tuning = [
            Run(arm, 100, {"stage": "tune", "rate": rate})
            for arm in ("base", "arm") for rate in (0.1, 0.2)
        ]  # fmt: skip
        done = {r.run.key: r.measures["loss"] for r in found}
        if not all(run.key in done for run in tuning):
            return tuning
        best = {}
        for arm in ("base", "arm"):
            best[arm] = min((r for r in tuning if r.arm == arm), key=lambda r: done[r.key])
        return tuning + [
            Run(arm, seed, {"stage": "final", "rate": run.options["rate"]})
            for arm, run in best.items()
            for seed in range(2)
        ]

    def perform(missing: Sequence[Run], _: StudySettings) -> Iterator[tuple[Run, Measures]]:
        for run in missing:
            wanted = 0.1 if run.arm == "arm" else 0.2
            yield run, {"loss": abs(run.options["rate"] - wanted)}

    found = run_study(study(runs=runs, perform=perform), settings(tmp_path), "a")
    final = [(r.run.arm, r.run.seed, r.run.options["rate"]) for r in found
             if r.run.options["stage"] == "final"]  # fmt: skip
    assert final == [("base", 0, 0.2), ("base", 1, 0.2), ("arm", 0, 0.1), ("arm", 1, 0.1)]
    assert found.measure("arm", "loss", stage="final") == {0: 0.0, 1: 0.0}
    assert len(found.found) == 8


def test_runs_of_other_arms_on_which_later_ones_hang_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a command that ends at once looks as if nothing was left to do."""
    first = [Run("base", 0), Run("base", 1)]

    def runs(_: StudySettings, found: Results) -> list[Run]:
        return first + [Run("arm", 0)] * ({r.run.key for r in found} >= {r.key for r in first})

    made, asked = study(runs=runs), settings(tmp_path)
    assert not run_study(made, replace(asked, arms=("arm",)), "a").found
    told = "made: runs of other arms are missing: base (2); what hangs on them waits\n"
    assert capsys.readouterr().err == told
    run_study(made, replace(asked, arms=("base",)), "a")
    assert "missing: arm (1);" in capsys.readouterr().err
    assert len(run_study(made, replace(asked, arms=("arm",)), "a").found) == 3
    assert "missing" not in capsys.readouterr().err


def test_a_study_that_does_nothing_is_a_defect_of_ours(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="did none of the runs"):
        run_study(study(perform=lambda runs, _: iter(())), settings(tmp_path), "a")


def test_processes_that_share_a_folder_lose_nothing(tmp_path: Path) -> None:
    made, empty = study(), Results("small", {})

    def add(first: int) -> None:
        for seed in range(first, 40, 4):
            add_run(tmp_path, made, empty, result(Run("arm", seed), loss=1.0))

    threads = [threading.Thread(target=add, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_runs(tmp_path, made)
    assert found is not None
    assert [r.run.seed for r in found] == list(range(40))
    add_run(tmp_path, made, empty, result(Run("arm", 7), loss=9.0))
    assert (read_runs(tmp_path, made) or empty).measure("arm", "loss")[7] == 1.0


def test_arms_and_first_seed_can_be_chosen(tmp_path: Path) -> None:
    found = run_study(study(), settings(tmp_path, arms=("arm",), seed=7, seeds=2), "a")
    assert [(r.run.arm, r.run.seed) for r in found] == [("arm", 7), ("arm", 8)]
    assert claim_table(study(), found).rows == ()
    both = run_study(study(), settings(tmp_path, seed=7, seeds=2), "a")
    (row,) = claim_table(study(), both).rows
    assert row[-1] == "not testable at this scale"


def test_settings_that_a_study_heeds_are_part_of_what_its_results_are(tmp_path: Path) -> None:
    made = study(heeds=("steps", "corpus", "rates"))
    first = settings(tmp_path, steps=5, corpus=Path("here"), rates=(("arm", 0.1),))
    found = run_study(made, first, "a")
    assert found.settings == {"steps": 5, "rates": [["arm", 0.1]]}
    assert run_study(made, replace(first, corpus=Path("there")), "b") == found
    with pytest.raises(HeadwayError, match=r"size small with steps 5, .* not of size small with "):
        run_study(made, replace(first, steps=6), "b")
    with pytest.raises(HeadwayError, match="not of size small with its own settings"):
        run_study(made, settings(tmp_path), "b")
    with pytest.raises(HeadwayError, match="not of size paper"):
        run_study(made, replace(first, size="paper"), "b")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"text": "a"}, "text: 'a' is not accepted; the study made takes --arms, --"),
        ({"steps": 4}, "steps: 4 is not accepted; .*, --executor-options, .*, --no-page, --seed"),
        ({"compile": True}, "compile: True is not accepted"),
        ({"arms": ("amr",)}, r"arms: 'amr' is unknown \(did you mean 'arm'\?\); accepted are base"),
        ({"seeds": 0}, "seeds: 0 is not accepted; accepted are 1 and more"),
        ({"seed": -1}, "seed: -1 is not accepted"),
        ({"job": "run"}, "job: 'run' is not accepted without executor"),
        ({"executor_options": (("num_gpus", "1"),)}, "executor_options: .* without executor"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    tmp_path: Path, fields: dict[str, Any], told: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(HeadwayError, match=told):
        run_study(study(), settings(out, **fields), "a")
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "cannot be read"),
        ("[]", "is of another kind"),
        ('{"study": "other", "size": 1, "settings": {}, "arm": "arm", "made": [], "runs": []}',
         "is of another kind"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "arm.json").write_text(text)
    with pytest.raises(HeadwayError, match=told):
        run_study(study(), settings(tmp_path), "a")
    assert (tmp_path / "arm.json").read_text() == text


def test_arms_that_another_study_runs_the_same_are_taken_from_its_files(tmp_path: Path) -> None:
    other, made = study(name="other"), study(takes=("other",))
    for arm in ("base", "arm"):
        add_run(tmp_path, other, Results("small", {}), result(Run(arm, 0), loss=7.0))
    results = run_study(made, settings(tmp_path), "a")
    assert results.measure("arm", "loss") == {0: 7.0, 1: 1.0, 2: 2.0}
    assert json.loads((tmp_path / "arm.json").read_text())["study"] == "made"
    with pytest.raises(HeadwayError, match=r"json is of another kind; accepted is a f"):
        read_runs(tmp_path, other)


def test_a_folder_of_another_study_is_refused_before_its_page_is_lost(tmp_path: Path) -> None:
    other = study(name="other", arms={"theirs": "something else"})
    add_run(tmp_path, other, Results("small", {}), result(Run("theirs", 0), loss=7.0))
    (tmp_path / "notes.json").write_text("{")
    with pytest.raises(HeadwayError, match="holds results of headway study other; accepted is an"):
        run_study(study(), settings(tmp_path), "a")
    assert {path.name for path in tmp_path.iterdir()} == {"theirs.json", "notes.json"}


@pytest.mark.parametrize("lost", ["measures", "made", "options"])
def test_a_run_that_lacks_a_part_is_refused(tmp_path: Path, lost: str) -> None:
    made = study()
    add_run(tmp_path, made, Results("small", {}), result(Run("arm", 0), loss=7.0))
    content = json.loads((tmp_path / "arm.json").read_text())
    del content["runs"][0][lost]
    (tmp_path / "arm.json").write_text(json.dumps(content))
    with pytest.raises(HeadwayError, match=rf"arm\.json is damaged \(KeyError\('{lost}'\)\)"):
        read_runs(tmp_path, made)


def test_files_of_different_sizes_are_no_study(tmp_path: Path) -> None:
    made = study()
    add_run(tmp_path, made, Results("small", {}), result(Run("arm", 0), loss=1.0))
    add_run(tmp_path, made, Results("paper", {}), result(Run("base", 0), loss=1.0))
    with pytest.raises(HeadwayError, match=r"arm\.json was made with size 'small', another"):
        read_runs(tmp_path, made)


def test_the_page_shows_claims_and_escapes_what_was_typed(tmp_path: Path) -> None:
    made = study(claim("is <b>better</b>", **MEAN), name="made")
    found = run_study(made, settings(tmp_path), "headway study made --out '<script>x'")
    page = render(made, found)
    assert "is &lt;b&gt;better" in page
    assert "<script>x" not in page
    assert "Something helps." in page
    assert "Less of it." in page


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "STUDIES", {"made": catalogue._entry(study())})


@pytest.mark.usefixtures("listed")
def test_the_verb_runs_and_lists_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert headway_cli.main(["study", "--list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == ["made: Something helps.", "  1 claim; state: not run"]
    assert headway_cli.main(["study", "made", "--seeds", "2"]) == 0
    shown = capsys.readouterr()
    assert "made: base seed 0 done in" in shown.err
    assert shown.out.splitlines()[0].startswith("claim ")
    assert shown.out.splitlines()[-1] == f"The page: {Path('runs', 'made', 'report.html')}"
    assert headway_cli.main(["study", "made", "--no-page", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["size"] == "small"
    assert told["found"][0]["measures"] == {"loss": 0.0}
    (tmp_path / "runs" / "made" / "base.json").unlink()
    assert headway_cli.main(["study", "--list"]) == 0
    assert "state: 3 of 6 runs of size small: no verdict yet" in capsys.readouterr().out
    assert headway_cli.main(["study", "made", "--no-page"]) == 0
    capsys.readouterr()
    (tmp_path / "runs").rename(tmp_path / "kept")
    assert headway_cli.main(["study", "--list", "--out", "kept"]) == 0
    assert "state: 6 of 6 runs of size small: 1 not reproduced" in capsys.readouterr().out


def test_results_come_back_from_their_files(tmp_path: Path) -> None:
    made = study()
    found = results({"base": {0: 1.0, 1: 0.1 + 0.2}, "arm": {0: 1e-300}})
    assert read_runs(written(tmp_path, made, found) / "made", made) == found
    assert read_runs(tmp_path / "none", made) is None
