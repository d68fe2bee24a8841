"""What rows say of two language models whose learning rates were not tuned alike."""

from __future__ import annotations

from small_language_models import compared_run, raced

from headway.studies.claims import Result, Results
from headway.studies.criteria import at_most
from headway.studies.language_models.claims import compare

CLAIM = compare("lower", "a paper", None, at_most(0), "ours", "base")


def told(*found: Result) -> str:
    results = Results("paper", {}, found)
    return CLAIM.caveat(results, CLAIM.estimate(results))


def compared_at(arm: str, rate: float, losses: list[float]) -> list[Result]:
    return [compared_run(arm, rate, seed, loss=loss) for seed, loss in enumerate(losses)]


BASE = [*raced("base", {1.0: 3, 2.0: 2}), *compared_at("base", 2.0, [3.0, 3.1, 3.2])]
OURS = [*raced("ours", {1.0: 2, 2.0: 3}), *compared_at("ours", 1.0, [2.0, 2.1, 2.2])]
AGAIN = raced("ours", {1.0: 2, 2.0: 3}, seed=1)
"""The same races on another seed."""


def test_arms_that_are_tuned_alike_need_no_caveat() -> None:
    assert told(*BASE, *OURS) == ""
    assert told() == ""


def test_arms_tuned_on_different_seeds_are_told_and_compared_at_a_shared_rate() -> None:
    unlike = (
        "Rates were tuned on different numbers of seeds: ours on 2 (chosen: 1), base on 1 "
        "(chosen: 2)."
    )
    assert told(*BASE, *OURS, *AGAIN) == unlike
    there = compared_at("ours", 2.0, [3.5, 3.6, 3.7])
    same = " With both at the same rate: +0.5000 [+0.5000, +0.5000] at 2."
    assert told(*BASE, *OURS, *AGAIN, *there) == unlike + same


def test_a_comparison_at_a_given_rate_needs_no_tuning() -> None:
    bare = [*compared_at("ours", 2.0, [1.0]), *compared_at("base", 2.0, [2.0])]
    assert told(*bare) == ""
