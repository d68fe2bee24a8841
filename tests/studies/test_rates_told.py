"""How learning rates were chosen, as the ledger and a study's page tell it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_studies import ARMS, claim, result, study, written

from headway.studies.catalogue import CLAIM_STUDIES
from headway.studies.claim_page import render
from headway.studies.claims import Result, Results, Run
from headway.studies.language_models.rates import best_rate
from headway.studies.ledger import SMALL, ledger
from headway.studies.races.tuning import FIRST_TUNING_SEED, TEST, TUNING, chosen_rate
from headway.studies.rates_told import COLUMNS, rate_tables
from headway.studies.run_files import add_run, read_runs

SEEDS = {"small": 2, "paper": 3}


def runs(arm: str, stage: str, rate: float, *losses: float, **options: Any) -> list[Result]:
    """A seed for each loss."""
    first = FIRST_TUNING_SEED if stage == TUNING else 0
    made = {"stage": stage, "rate": rate, **options}
    return [result(Run(arm, first + n, made), loss=loss) for n, loss in enumerate(losses)]


def tuned(arm: str, best: float, *rates: float, tests: int = 3) -> list[Result]:
    """An arm whose loss is least at one of the rates, and its tests there."""
    races = [run for rate in rates for run in runs(arm, TUNING, rate, 3.0 + (rate != best))]
    return races + runs(arm, TEST, best, *[3.0] * tests)


def lines(*found: Result, **fields: Any) -> dict[str, tuple[str, ...]]:
    """The other cells by what stands in the first one."""
    made = study(**{"rate": best_rate, "seeds": SEEDS} | fields)
    tables = rate_tables(made, Results("paper", {}, found))
    return {row[0]: row[1:] for table in tables for row in table.rows}


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ((0.2, 0.4), "0.2, the least tried"),
        ((0.1, 0.2), "0.2, the largest tried"),
        ((0.4, 0.1, 0.2), "0.2"),
        ((0.2,), "0.2, the only one tried"),
    ],
)
def test_a_best_rate_at_the_edge_of_what_was_tried_is_told(
    rates: tuple[float, ...], chosen: str
) -> None:
    tried = ", ".join(f"{rate:g}" for rate in sorted(rates))
    assert lines(*tuned("arm", 0.2, *rates)) == {"arm": (tried, "1", chosen, "3", "")}


def test_a_rate_that_is_still_to_be_tried_is_told() -> None:
    asked = [Run("arm", FIRST_TUNING_SEED, {"stage": TUNING, "rate": rate}) for rate in (0.2, 0.4)]
    there = tuned("arm", 0.2, 0.1, 0.2)
    told = lines(*there, runs=lambda *_: asked)
    assert told["arm"][2] == "0.2, the largest tried; 0.4 is still to be tried"
    assert lines(*there, runs=lambda *_: asked[:1])["arm"][2] == "0.2, the largest tried"


def test_unequal_tuning_seeds_are_told_from_least_to_most() -> None:
    more = [run for rate in (0.1, 0.2) for run in runs("arm", TUNING, rate, 3.0, 3.0, 3.0)]
    assert lines(*more)["arm"][1] == "3"
    assert lines(*more, *runs("arm", TUNING, 0.4, 4.0, 4.0))["arm"][1] == "2 to 3"


def test_tests_at_a_rate_no_longer_chosen_are_told_beside_those_at_the_chosen_one() -> None:
    there = tuned("arm", 0.2, 0.1, 0.2, 0.4)
    before = [*runs("arm", TEST, 0.4, 4.0, 4.5), *runs("arm", TEST, 0.1, 3.5)]
    told = (
        "0.1: 1 seed, mean loss 3.5000 (3.0000 at the chosen rate); "
        "0.4: 2 seeds, mean loss 4.2500 (3.0000 at the chosen rate)"
    )
    assert lines(*there, *before)["arm"][3:] == ("3", told)
    shorter = runs("arm", TEST, 0.4, 5.0, share=0.75)
    assert lines(*there, *shorter)["arm"][4] == ""


def test_tests_at_another_rate_alone_are_beside_none_at_the_chosen_one() -> None:
    there = [*tuned("arm", 0.2, 0.1, 0.2, tests=0), *runs("arm", TEST, 0.1, 3.5)]
    assert lines(*there)["arm"][3:] == ("0, the study asks for 3", "0.1: 1 seed, mean loss 3.5000")


@pytest.mark.parametrize(
    ("tests", "told"),
    [(2, "2, the study asks for 3"), (3, "3"), (6, "6, the study asks for 3")],
)
def test_other_seeds_than_the_study_asks_for_are_told(tests: int, told: str) -> None:
    assert lines(*tuned("arm", 0.2, 0.1, 0.2, tests=tests))["arm"][3] == told


def test_races_are_told_without_a_loss_and_by_their_own_choice() -> None:
    def raced(stage: str, seed: int, rate: float, steps: int) -> Result:
        measures = {"steps": steps, "trained": steps, "diverged": False, "score": 1.0}
        return result(Run("arm", seed, {"stage": stage, "rate": rate}), **measures)

    races = [raced(TUNING, FIRST_TUNING_SEED, rate, steps) for rate, steps in ((1, 20), (2, 10))]
    tests = [raced(TEST, seed, rate, 10) for seed in range(3) for rate in (0.5, 2)]
    told = ("1, 2", "1", "2, the largest tried", "3", "0.5: 3 seeds")
    assert lines(*races, *tests, rate=chosen_rate) == {"arm": told}


def test_arms_of_which_the_same_is_told_share_a_row_and_those_not_tuned_have_none() -> None:
    arms = {**ARMS, "other": "else", "fixed": "at a given rate", "waiting": "not run"}
    same = [run for arm in ("other", "base") for run in tuned(arm, 0.2, 0.1, 0.2)]
    found = [*same, *tuned("arm", 0.1, 0.1, 0.2), *runs("fixed", TEST, 0.4, 3.0)]
    assert list(lines(*found, arms=arms)) == ["base, other", "arm"]
    untuned = Results("paper", {}, tuple(runs("fixed", TEST, 0.4, 3.0)))
    assert rate_tables(study(arms=arms), untuned) == []


def test_a_rate_is_not_chosen_before_one_seed_was_tried_with_all() -> None:
    races = runs("arm", TUNING, 0.1, 3.0, 3.0)
    assert lines(races[0], *runs("arm", TUNING, 0.2, 3.0, 3.0)[1:])["arm"][2] == "n/a"


def test_the_ledger_tells_each_size_below_the_claims_and_the_page_of_a_study_too(
    tmp_path: Path,
) -> None:
    made = study(
        claim("both"),
        claim("waiting", arms=("other",)),
        arms={**ARMS, "other": "something else"},
        rate=best_rate,
        seeds=SEEDS,
    )
    there = Results("paper", {}, tuple(tuned("base", 0.2, 0.1, 0.2) + tuned("arm", 0.1, 0.1, 0.2)))
    folder = written(tmp_path / "results", made, there)
    small = Results("small", {}, tuple(tuned("other", 0.4, 0.2, 0.4, tests=2)))
    for one in small:
        add_run(folder / "made" / SMALL, made, small, one)
    below = ledger(folder, [made]).partition("| both |")[2].partition("Where our set-up differs")[0]
    assert below.count("How learning rates were chosen, size ") == 2
    head = f"| {' | '.join(COLUMNS)} |\n"
    assert f"chosen, size paper:\n\n{head}" in below
    assert "| base | 0.1, 0.2 | 1 | 0.2, the largest tried | 3 |  |\n" in below
    assert f"chosen, size small:\n\n{head}" in below
    assert "| other | 0.2, 0.4 | 1 | 0.4, the largest tried | 2 |  |\n" in below
    page = render(made, there)
    assert "How learning rates were chosen" in page
    assert "0.2, the largest tried" in page


def test_rates_of_small_runs_that_tell_of_no_claim_are_left_out(tmp_path: Path) -> None:
    made = study(claim("both"), rate=best_rate, seeds=SEEDS)
    found = tuple(run for arm in ARMS for run in tuned(arm, 0.2, 0.1, 0.2))
    folder = written(tmp_path / "results", made, Results("paper", {}, found))
    for one in found:
        add_run(folder / "made" / SMALL, made, Results("small", {}), one)
    page = ledger(folder, [made])
    assert "chosen, size paper:" in page
    assert "chosen, size small:" not in page


def test_every_study_that_tunes_rates_says_how_one_is_chosen() -> None:
    results = Path(__file__).parents[2] / "docs" / "results"
    told = {}
    for made in CLAIM_STUDIES:
        if (found := read_runs(results / made.name, made)) is not None:
            tuning = {r.run.arm for r in found if r.run.options.get("stage") == TUNING}
            rows = [row for table in rate_tables(made, found) for row in table.rows]
            told[made.name] = {arm for row in rows for arm in row[0].split(", ")}
            assert told[made.name] == tuning
    assert {"combine", "denoise", "icl-classification", "ngram", "shortcuts-text"} <= {
        name for name, arms in told.items() if arms
    }
