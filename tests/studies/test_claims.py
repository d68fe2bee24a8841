"""Claims, verdicts and the running of studies: what is judged, kept, continued and refused."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_studies import ALWAYS, MEAN, claim, fixed, result, results, settings, study, written
from scipy import stats

import headway_cli
from headway import HeadwayError
from headway.studies import catalogue
from headway.studies.claim_page import claim_table, render, told
from headway.studies.claims import (
    Criterion,
    Estimate,
    Measures,
    Results,
    Run,
    Verdict,
    at_least,
    at_most,
    difference,
    findings,
    no_difference,
    within,
)
from headway.studies.estimates import mean_of, median_ratio, paired, resampled
from headway.studies.run_files import add_run, read_runs
from headway.studies.running import run_study, still_missing
from headway_settings import StudySettings

YES, PARTLY, NO = Verdict.REPRODUCED, Verdict.PARTLY, Verdict.NOT_REPRODUCED


@pytest.mark.parametrize(
    ("criterion", "value", "low", "high", "verdict"),
    [
        (within(0.9, 0.015), 0.905, 0.89, 0.915, YES),
        (within(0.9, 0.015), 0.905, 0.88, 0.915, PARTLY),
        (within(0.9, 0.015), 0.95, 0.91, 0.99, PARTLY),
        (within(0.9, 0.015), 0.95, 0.92, 0.98, NO),
        (within(0.9, 0.015, 0.01), 0.95, 0.92, 0.98, PARTLY),
        (within(0.9, 0.015, 0.01), 0.85, 0.80, 0.87, NO),
        (at_most(1.0), 0.9, 0.8, 1.0, YES),
        (at_most(1.0), 0.9, 0.8, 1.1, PARTLY),
        (at_most(1.0), 1.1, 0.8, 1.2, NO),
        (at_least(1.0), 1.1, 1.0, 1.2, YES),
        (at_least(1.0), 1.1, 0.9, 1.2, PARTLY),
        (at_least(1.0), 0.9, 0.8, 1.2, NO),
        (difference(-0.03), -0.02, -0.03, -0.01, YES),
        (difference(-0.03), -0.01, -0.012, -0.008, PARTLY),
        (difference(-0.03), -0.02, -0.05, 0.01, NO),
        (difference(-0.03), 0.02, 0.01, 0.03, NO),
        (difference(24, share=1), 24, 20, 28, YES),
        (difference(24, share=1), 23, 20, 26, PARTLY),
        (no_difference(0.01), 0.001, -0.009, 0.008, YES),
        (no_difference(0.01), 0.001, -0.02, 0.03, PARTLY),
        (no_difference(0.01), 0.02, 0.005, 0.03, NO),
    ],
)
def test_criteria(
    criterion: Criterion, value: float, low: float, high: float, verdict: Verdict
) -> None:
    assert criterion.judge(Estimate(value, low, high, 10)) == verdict


def test_a_difference_that_holm_takes_away_is_not_reproduced() -> None:
    ours = Estimate(-0.02, -0.03, -0.01, 10, p=0.04)
    assert difference(-0.03).judge(ours) == YES
    assert difference(-0.03).judge(replace(ours, p=0.05)) == NO


def test_criteria_say_their_numbers() -> None:
    assert within(0.9, 0.015, 0.02, ".1%").words == (
        "within 1.5% of it with its interval; partly: an interval that reaches there, its own "
        "sampling error of 2.0% added"
    )
    assert at_most(1).words == "at most 1 with its interval; partly: without it"
    assert "at least 50% of the published" in difference(-1).words
    assert difference(-1).words.startswith("below zero")
    assert difference(1).words.startswith("above zero")
    assert no_difference(0.01).words.startswith("within 0.01 of zero")


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12))
def test_a_mean_has_scipys_interval(values: list[float]) -> None:
    found = mean_of(dict(enumerate(values)))
    assert found is not None
    assert found.seeds == len(values)
    assert math.isclose(found.value, fmean(values), abs_tol=1e-12)
    error = stats.sem(values)
    if error > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, fmean(values), error)
        assert math.isclose(found.low, low, rel_tol=1e-9, abs_tol=1e-9)
        assert math.isclose(found.high, high, rel_tol=1e-9, abs_tol=1e-9)
    assert mean_of({0: 1.0}) is None


def test_a_paired_difference_takes_the_seeds_that_both_have() -> None:
    found = paired({1: 1.0, 2: 3.0, 3: 4.0, 9: 7.0}, {1: 0.0, 2: 1.0, 3: 3.0, 8: 5.0})
    assert found is not None
    assert (found.seeds, found.value) == (3, pytest.approx(4 / 3))
    wanted = stats.ttest_rel([1, 3, 4], [0, 1, 3])
    assert found.p == pytest.approx(wanted.pvalue)
    low, high = wanted.confidence_interval()
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_the_bootstrap_interval_is_scipys() -> None:
    values = [0.3, 0.9, 1.4, 0.7, 0.8, 1.1, 0.2, 0.75, 0.66, 0.91]
    found = resampled([(v,) for v in values], lambda rows: fmean(r[0] for r in rows))
    wanted = stats.bootstrap((values,), fmean, method="percentile", vectorized=False,
                             rng=0).confidence_interval  # fmt: skip
    assert found is not None
    assert found.low == pytest.approx(wanted.low, abs=0.01)
    assert found.high == pytest.approx(wanted.high, abs=0.01)
    assert resampled([(1.0,)], lambda rows: 0.0) is None


def test_a_median_ratio_counts_runs_that_never_got_there() -> None:
    never = math.inf
    found = median_ratio(dict.fromkeys(range(9), 76.0), dict.fromkeys(range(9), 100.0))
    assert found is not None
    assert (found.value, found.low, found.high, found.seeds) == (0.76, 0.76, 0.76, 9)
    one = median_ratio({0: 50, 1: never, 2: 60, 3: never}, {0: 100, 1: 100, 2: never, 3: never})
    assert one is not None
    assert (one.value, one.seeds, one.high) == (median([0.5, never, 0.0]), 3, never)
    assert median_ratio({0: never, 1: never, 2: 1}, {0: 1, 1: 1, 2: 1}) is None


def test_every_claim_gets_one_of_four_verdicts_or_waits() -> None:
    losses = {"base": {s: 3.0 + s / 100 for s in range(5)}}
    losses["arm"] = {s: 2.0 + s / 100 + s % 2 / 100 for s in range(5)}
    claims = (
        claim("near"),
        claim("touches", criterion=within(-0.88, 0.1, 0.01)),
        claim("far", criterion=within(-0.5, 0.1)),
        claim("too few", seeds=6),
        claim("too small", sizes=("small",)),
        claim("nobody got there", estimate=lambda _: None),
        claim("waits", arms=("other",)),
        claim("waits too", arms=("arm", "other")),
    )
    found = findings(claims, results(losses))
    assert [f.verdict for f in found] == [
        YES, PARTLY, NO, *[Verdict.NOT_TESTABLE] * 3, None, None
    ]  # fmt: skip
    assert found[0].our_text.startswith("-0.996 [-")
    assert found[-1].our_text == "none"
    assert told(found) == ("1 reproduced, 1 partly, 1 not reproduced, 3 not testable at this scale")


def test_p_values_are_corrected_over_the_claims_of_a_study() -> None:
    def with_p(p: float) -> Any:
        return lambda _: Estimate(-1.0, -1.5, -0.5, 10, p)

    claims = [
        claim(f"{p}", criterion=difference(-1.0), estimate=with_p(p)) for p in (0.03, 0.01, 0.04)
    ]
    claims.append(claim("none", criterion=ALWAYS, estimate=fixed(1, 1, 1)))
    found = findings(claims, results({"base": {0: 1.0}, "arm": {0: 1.0}}))
    shown = [f.ours.p if f.ours else None for f in found]
    assert shown == [pytest.approx(0.06), pytest.approx(0.03), pytest.approx(0.06), None]
    assert [f.verdict for f in found] == [NO, YES, NO, YES]
    assert [f.verdict for f in findings(claims[:1], results({"base": {0: 1}, "arm": {0: 1}}))] == [
        YES
    ]


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
        ({"text": "a"}, "text: 'a' is not accepted; the study made takes arms, device, "),
        ({"steps": 4}, "steps: 4 is not accepted"),
        ({"compile": True}, "compile: True is not accepted"),
        ({"arms": ("amr",)}, r"arms: 'amr' is unknown \(did you mean 'arm'\?\); accepted are base"),
        ({"seeds": 0}, "seeds: 0 is not accepted; accepted are 1 and more"),
        ({"seed": -1}, "seed: -1 is not accepted"),
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
    assert shown[0] == "made: Something helps."
    assert shown[-1] == "  state: not run"
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
