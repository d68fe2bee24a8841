"""What the looks and the rising learning rate of a race leave open of a ratio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from made_studies import result

from headway.studies import estimates
from headway.studies.claims import Results, Run
from headway.studies.kv_shift.induction import RACES
from headway.studies.races.caveat import (
    between_looks,
    not_all_there,
    not_at_their_end,
    race_caveat,
    rates_apart,
    still_learning,
)
from headway.studies.races.speed import faster, steps_ratio
from headway.studies.races.tuning import FIRST_TUNING_SEED, TEST, TUNING, steps_of

Looks = Sequence[int]
"""Steps at which a run was looked at; it got there at the last one."""
SEEDS = 12
LIMIT = RACES["paper"].course.limit


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "RESAMPLES", 199)


def made(arms: dict[str, Sequence[Looks | None]], rate: float = 0.01, tuned: int = 1) -> Results:
    """Results of runs with these looks, one a seed; None: a run that never got there. The rate is
    the one that won, on so many seeds."""
    found = []
    for arm, runs in arms.items():
        for seed in range(tuned):
            race = Run(arm, FIRST_TUNING_SEED + seed, {"stage": TUNING, "rate": rate})
            found.append(result(race, steps=1, trained=1, diverged=False, score=1.0))
        for seed, looks in enumerate(runs):
            curve = [[step, 0.5] for step in looks or [LIMIT - 10, LIMIT]]
            run = Run(arm, seed, {"stage": TEST, "rate": rate})
            found.append(result(run, steps=looks and looks[-1], curve=curve, score=0.5))
    return Results("paper", {}, tuple(found))


def caveat(arm: Sequence[Looks | None], base: Sequence[Looks | None]) -> str:
    results = made({"kv-shift": arm, "plain-2": base})
    ours = steps_ratio(steps_of(results, "kv-shift"), steps_of(results, "plain-2"), LIMIT)
    return race_caveat(RACES, faster(1.0), "kv-shift", "plain-2", results, ours)


def all_at(*looks: int) -> list[Looks]:
    return [looks] * SEEDS


def test_seeds_that_got_there_while_the_rate_rose_are_counted() -> None:
    told = caveat(all_at(99, 100), [(100, 101)] * 11 + [(60, 70)])
    assert told.startswith(
        "Within the 100 steps in which the learning rate rises: kv-shift in 12 of 12 seeds, "
        "plain-2 in 1 of 12 seeds."
    )
    told = caveat(all_at(90, 100), all_at(500, 510))
    assert "kv-shift in 12 of 12 seeds. Steps are" in told
    assert "rises" not in caveat(all_at(200, 210), all_at(500, 510))


def test_seeds_that_did_not_get_there_are_counted() -> None:
    told = caveat([(200, 210)] * 11 + [None], [None] * 12)
    assert "Got there: kv-shift in 11 of 12 seeds, plain-2 in 0 of 12 seeds." in told
    results = made({"kv-shift": [(200, 210)] * 11 + [None], "plain-2": all_at(10, 20)})
    assert not_all_there(["plain-2"], results) == ""
    assert not_all_there(["plain-2", "kv-shift"], results, 0.01).endswith(
        "there: kv-shift in 11 of 12 seeds."
    )
    assert not_all_there(["kv-shift"], results, 0.5) == ""


@pytest.mark.parametrize(
    ("steps", "curve", "wanted"),
    [
        (None, [(10, 0.1), (2_000, 0.6), (2_001, 0.7), (4_000, 0.66)], True),
        (None, [(10, 0.1), (2_000, 0.6), (2_001, 0.1), (4_000, 0.64)], False),
        (4_000, [(10, 0.1), (2_000, 0.6), (4_000, 0.99)], False),
        (None, [(4_000, 0.9)], False),
        (None, [], False),
    ],
)
def test_a_run_still_learned_where_the_second_half_of_its_training_gained_much(
    steps: int | None, curve: list[tuple[int, float]], wanted: bool
) -> None:
    assert still_learning({"steps": steps, "curve": curve}) is wanted


def with_ends(results: Results, arm: str, ends: dict[int, float]) -> Results:
    """The same where runs of an arm rise from 0.5 to these scores, by seed."""
    changed = [
        replace(r, measures={**r.measures, "score": (end := ends[r.run.seed]),
                             "curve": [[LIMIT // 2, 0.5], [LIMIT, end]]})
        if r.run.arm == arm and r.run.seed in ends
        else r
        for r in results
    ]  # fmt: skip
    return replace(results, found=tuple(changed))


def test_runs_that_still_learned_when_training_ended_are_counted() -> None:
    never: list[Looks | None] = [None] * SEEDS
    made_ = made({"kv-shift": all_at(190, 200), "plain-2": never, "plain-4": never})
    slow = with_ends(made_, "plain-2", {1: 0.517, 4: 0.54})
    assert not_at_their_end(("kv-shift", "plain-2"), slow) == ""
    results = with_ends(made_, "plain-2", {1: 0.56, 4: 0.9618, 7: 0.6})
    told = "Still learning when training ended: plain-2 in 3 of 12 seeds, at 56.0% to 96.2%"
    assert not_at_their_end(("kv-shift", "plain-2"), results) == f"{told}."
    assert not_at_their_end(("kv-shift", "plain-4"), results) == ""
    both = not_at_their_end(("plain-2", "plain-4"), with_ends(results, "plain-4", {3: 0.7}))
    assert both == f"{told}; plain-4 in 1 of 12 seeds, at 70.0%."
    ratio = steps_ratio(steps_of(results, "kv-shift"), steps_of(results, "plain-2"), LIMIT)
    caveat_ = race_caveat(RACES, faster(1.0), "kv-shift", "plain-2", results, ratio)
    assert f"Got there: plain-2 in 0 of 12 seeds. {told}." in caveat_


def test_looks_that_are_far_apart_widen_the_interval() -> None:
    told = caveat(all_at(200, 300), all_at(400, 600))
    assert told == "Steps are known from one look to the next: the interval with that is " + (
        f"[{201 / 600:.2f}, {300 / 401:.2f}]."
    )
    assert caveat(all_at(1_999, 2_000), all_at(999, 1_000)) == ""


def test_what_comes_after_a_run_got_there_says_nothing_of_when() -> None:
    stopped = made({"kv-shift": all_at(200, 300), "plain-2": all_at(400, 600)})
    went_on = replace(
        stopped,
        found=tuple(
            replace(r, measures={**r.measures, "curve": [*r.measures["curve"], [3_000, 1.0]]})
            if "curve" in r.measures
            else r
            for r in stopped
        ),
    )
    told = [
        race_caveat(RACES, faster(1.0), "kv-shift", "plain-2", results,
                    steps_ratio(steps_of(results, "kv-shift"), steps_of(results, "plain-2"), LIMIT))
        for results in (stopped, went_on)
    ]  # fmt: skip
    assert told[0] == told[1] != ""


def test_a_verdict_that_looks_leave_open_is_told() -> None:
    open_ = "is [0.85, 1.18], and the verdict *not testable at this scale*."
    assert caveat(all_at(50, 60), all_at(50, 60)).endswith(open_)
    assert caveat(all_at(60, 70), all_at(50, 60)).endswith("is [1.02, 1.37].")


def test_before_the_first_look_any_step_can_be_the_one() -> None:
    assert caveat(all_at(120), all_at(230, 240)).endswith(f"[{1 / 240:.2f}, {120 / 231:.2f}].")


def test_runs_that_never_got_there_have_no_look_that_saw_it() -> None:
    never: list[Looks | None] = [None] * SEEDS
    assert caveat(all_at(1_800, 2_000), never).endswith(f"[{1_801 / LIMIT:.2f}, 0.50].")
    none = "Got there: kv-shift in 0 of 12 seeds"
    assert caveat(never, all_at(190, 200)) == f"{none}."
    assert caveat(never, never) == f"{none}, plain-2 in 0 of 12 seeds."


def test_without_a_figure_the_rising_rate_is_told_alone() -> None:
    results = made({"kv-shift": all_at(60, 70), "plain-2": all_at(60, 70)})
    told = race_caveat(RACES, faster(1.0), "kv-shift", "plain-2", results, None)
    assert told == (
        "Within the 100 steps in which the learning rate rises: kv-shift in 12 of 12 seeds, "
        "plain-2 in 12 of 12 seeds."
    )


def at_two_rates() -> Results:
    """One arm whose best rate is 0.03, and one whose best is 0.01; both are run at the latter."""
    ours = made({"kv-shift": all_at(190, 200)}, rate=0.03, tuned=3)
    slower = [r for r in made({"kv-shift": all_at(290, 300)}) if r.run.options["stage"] == TEST]
    base = made({"plain-2": all_at(390, 400)}, tuned=2)
    return replace(ours, found=(*ours.found, *slower, *base.found))


def test_arms_at_different_rates_are_told_with_the_ratio_at_one_that_both_have() -> None:
    results = at_two_rates()
    arms = ("kv-shift", "plain-2")
    ours = steps_ratio(steps_of(results, arms[0]), steps_of(results, arms[1]), LIMIT)
    told = race_caveat(RACES, faster(1.0), *arms, results, ours)
    apart = "kv-shift at 0.03, tuned on 3 seeds; plain-2 at 0.01, tuned on 2 seeds."
    assert told.endswith(f" Learning rates differ: {apart} Both at 0.01: 0.75 [0.75, 0.75].")
    assert rates_apart(arms, results) == f"Learning rates differ: {apart}"


def test_arms_at_one_rate_or_without_one_are_not_told_of() -> None:
    same = made({"kv-shift": all_at(200), "plain-2": all_at(400)})
    assert rates_apart(("kv-shift", "plain-2"), same) == ""
    assert rates_apart(("kv-shift", "plain-4"), same) == ""
    assert rates_apart(("kv-shift",), at_two_rates()) == ""


def test_without_a_shared_rate_there_is_no_ratio_at_one() -> None:
    ours = made({"kv-shift": all_at(190, 200)}, rate=0.03)
    base = made({"plain-2": all_at(390, 400)})
    results = replace(ours, found=(*ours.found, *base.found))
    told = race_caveat(RACES, faster(1.0), "kv-shift", "plain-2", results, None)
    assert told.endswith("plain-2 at 0.01, tuned on 1 seed.")


def test_an_interval_between_looks_keeps_the_figure() -> None:
    results = made({"kv-shift": all_at(200, 300), "plain-2": all_at(400, 600)})
    ours = steps_ratio(steps_of(results, "kv-shift"), steps_of(results, "plain-2"), LIMIT)
    assert ours is not None
    wider = between_looks(LIMIT, "kv-shift", "plain-2", results, ours)
    assert wider == replace(ours, low=201 / 600, high=300 / 401)


def test_a_shared_rate_at_which_no_run_got_there_has_no_ratio() -> None:
    never: list[Looks | None] = [None] * SEEDS
    ours = made({"kv-shift": all_at(190, 200)}, rate=0.03)
    lost = [r for r in made({"kv-shift": never}).found if r.run.options["stage"] == TEST]
    base = made({"plain-2": never})
    results = replace(ours, found=(*ours.found, *lost, *base.found))
    told = race_caveat(RACES, faster(1.0), "kv-shift", "plain-2", results, None)
    assert told.endswith("plain-2 at 0.01, tuned on 1 seed.")
