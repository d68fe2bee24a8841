"""The induction study: what is claimed, and what its rows tell beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from made_studies import result

from headway.studies import estimates
from headway.studies.claims import Results, Run, findings
from headway.studies.criteria import Verdict
from headway.studies.kv_shift.induction import CLAIMS
from headway.studies.races.tuning import FIRST_TUNING_SEED, TEST, TUNING


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "RESAMPLES", 199)


def run_of(arm: str, seed: int = 0, rate: float = 0.01, stage: str = TEST) -> Run:
    return Run(arm, seed, {"stage": stage, "rate": rate})


SEEDS = 12
AS_PUBLISHED: dict[str, int | float | None] = {
    "plain-1": 0.2, "plain-2": 1000, "plain-4": 1001, "kv-shift": 100, "key-shift": 130,
    "value-shift": 0.3, "kv-shift-identity": 101, "smeared-key": 180, "short-conv": 150,
    "plain-2-w8": 0.2, "kv-shift-w8": 0.9, "key-offset": 160,
}  # fmt: skip
"""Steps to 99 %, or the accuracy of an arm that does not get there."""


def curve_to(steps: int | None) -> list[list[float]]:
    """Looks so close together that the last one tells when a run got there."""
    return [[50, 0.5]] if steps is None else [[steps - 1, 0.5], [steps, 0.995]]


def made(**changed: int | float | None) -> Results:
    arms = AS_PUBLISHED | {name.replace("_", "-"): value for name, value in changed.items()}
    found = []
    for arm, value in arms.items():
        there = isinstance(value, int)
        for seed in [FIRST_TUNING_SEED, *range(SEEDS)]:
            stage = TUNING if seed == FIRST_TUNING_SEED else TEST
            steps = value * (10 + seed % 7) // 10 + seed % 3 if isinstance(value, int) else None
            measures: dict[str, Any] = {
                "steps": steps,
                "score": 0.995 if there else value + seed % 3 / 100,
                "trained": 4_000, "diverged": False, "curve": curve_to(steps), "parameters": 1,
            }  # fmt: skip
            found.append(result(run_of(arm, seed, stage=stage), **measures))
    return Results("paper", {}, tuple(found))


def verdicts(results: Results) -> list[Verdict | None]:
    return [f.verdict for f in findings(CLAIMS, results)]


def test_made_up_results_of_the_published_kind_are_reproduced() -> None:
    assert set(verdicts(made())) == {Verdict.REPRODUCED}
    assert set(verdicts(replace(made(), size="small"))) == {Verdict.NOT_TESTABLE}


@pytest.mark.parametrize(
    ("changed", "number", "verdict"),
    [
        ({"kv_shift": 0.9}, 0, Verdict.NOT_REPRODUCED),
        ({"plain_2": 0.9}, 1, Verdict.NOT_REPRODUCED),
        ({"plain_1": 0.7}, 2, Verdict.NOT_REPRODUCED),
        ({"kv_shift": 700}, 3, Verdict.PARTLY),
        ({"kv_shift": 1200}, 3, Verdict.NOT_REPRODUCED),
        ({"plain_4": 300}, 4, Verdict.NOT_REPRODUCED),
        ({"plain_2_w8": 0.8}, 5, Verdict.NOT_REPRODUCED),
        ({"plain_2_w8": 0.8}, 6, Verdict.NOT_REPRODUCED),
        ({"key_shift": 80}, 7, Verdict.NOT_REPRODUCED),
        ({"value_shift": 80}, 8, Verdict.NOT_REPRODUCED),
        ({"kv_shift_identity": 200}, 9, Verdict.NOT_REPRODUCED),
        ({"smeared_key": 0.5}, 10, Verdict.NOT_REPRODUCED),
        ({"smeared_key": 80}, 11, Verdict.NOT_REPRODUCED),
        ({"key_offset": 0.5}, 12, Verdict.NOT_REPRODUCED),
        ({"key_offset": 80}, 13, Verdict.NOT_REPRODUCED),
        ({"short_conv": 80}, 14, Verdict.NOT_REPRODUCED),
        ({"kv_shift": 0.9, "key_shift": 0.9}, 7, Verdict.NOT_TESTABLE),
        ({"kv_shift": 0.9}, 7, Verdict.NOT_REPRODUCED),
        ({"plain_4": 0.9}, 4, Verdict.REPRODUCED),
    ],
)
def test_each_claim_can_fail(changed: dict[str, Any], number: int, verdict: Verdict) -> None:
    assert verdicts(made(**changed))[number] is verdict


def with_steps(results: Results, **steps: int | None) -> Results:
    """The same where runs that are compared of some arms took so many steps."""
    named = {name.replace("_", "-"): count for name, count in steps.items()}
    changed = [
        replace(
            r, measures=dict(r.measures) | {"steps": (n := named[r.run.arm]), "curve": curve_to(n)}
        )
        if r.run.arm in named and r.run.options["stage"] == TEST
        else r
        for r in results
    ]
    return replace(results, found=tuple(changed))


@pytest.mark.parametrize(
    ("number", "steps", "verdict"),
    [
        (4, {"plain_4": 3_900, "plain_2": None}, Verdict.NOT_TESTABLE),
        (4, {"plain_4": 3_000, "plain_2": None}, Verdict.NOT_REPRODUCED),
        (4, {"plain_4": None, "plain_2": 3_900}, Verdict.REPRODUCED),
        (9, {"kv_shift_identity": 3_900, "kv_shift": None}, Verdict.NOT_TESTABLE),
        (9, {"kv_shift_identity": None, "kv_shift": 3_900}, Verdict.NOT_TESTABLE),
        (9, {"kv_shift_identity": None, "kv_shift": 2_000}, Verdict.NOT_REPRODUCED),
    ],
)
def test_runs_that_never_got_there_are_no_evidence_that_an_arm_is_slow(
    number: int, steps: dict[str, int | None], verdict: Verdict
) -> None:
    found = findings(CLAIMS, with_steps(made(), **steps))[number]
    assert found.verdict is verdict
    assert "not testable where that hangs on how long" in found.claim.criterion.words


@pytest.mark.parametrize("number", [4, 9])
def test_looks_that_are_far_apart_do_not_show_that_arms_take_as_long(number: int) -> None:
    near = made()
    far = [
        replace(r, measures=dict(r.measures) | {"curve": [[r.measures["steps"] // 2, 0.5]]})
        if r.measures["steps"]
        else r
        for r in near
    ]
    apart = Results("paper", {}, tuple(far))
    seen, open_ = (findings(CLAIMS, results)[number] for results in (near, apart))
    assert (seen.verdict, open_.verdict) == (Verdict.REPRODUCED, Verdict.NOT_TESTABLE)
    assert seen.ours is not None
    assert open_.ours is not None
    assert open_.ours.value == seen.ours.value
    assert (open_.ours.low, open_.ours.high) == (
        pytest.approx(seen.ours.low / 2, rel=0.05), pytest.approx(seen.ours.high * 2, rel=0.05)
    )  # fmt: skip
    assert open_.claim.criterion.words.endswith("can have got there anywhere between two looks")
    assert "one look to the next" not in open_.claim.caveat(apart, open_.ours)


def test_rows_of_arms_at_different_rates_tell_the_ratio_at_a_shared_one() -> None:
    """One arm is run at 0.03, where it is twice as fast, and at 0.01 as others are."""
    all_ = made()
    moved = [
        replace(r, run=replace(r.run, options={**r.run.options, "rate": 0.03}),
                measures=dict(r.measures) | {"steps": r.measures["steps"] // 2})
        for r in all_.of(["key-shift"])
    ]  # fmt: skip
    kept = [r for r in all_ if (r.run.arm, r.run.options["stage"]) != ("key-shift", TUNING)]
    results = replace(all_, found=(*kept, *moved))
    told = {f.claim.arms: f.claim.caveat(results, f.ours) for f in findings(CLAIMS, results)}
    assert {arms for arms, words in told.items() if "rates differ" in words} == {
        ("kv-shift", "key-shift")
    }
    assert told["kv-shift", "key-shift"].endswith(
        "kv-shift at 0.01, tuned on 1 seed; key-shift at 0.03, tuned on 1 seed. Both at 0.01: 0.77 "
        "[0.77, 0.77]."
    )


def test_a_share_of_seeds_is_told_with_the_exact_interval_and_one_seed_makes_the_verdict() -> None:
    every = made()
    first = next(r for r in every if r.run.arm == "plain-2" and r.run.seed == 0)
    lost = replace(first, measures=dict(first.measures) | {"steps": None})
    but_one = replace(every, found=tuple(lost if r is first else r for r in every))
    for results, text, verdict in (
        (every, "100.0% [73.5%, 100.0%]", Verdict.REPRODUCED),
        (but_one, "91.7% [61.5%, 99.8%]", Verdict.NOT_REPRODUCED),
    ):
        found = findings(CLAIMS, results)[1]
        assert (found.our_text, found.verdict) == (text, verdict)


def test_ratios_tell_who_got_there_before_the_learning_rate_had_risen() -> None:
    results = with_steps(made(), kv_shift=80, key_shift=120)
    told = {f.claim.claim: f.claim.caveat(results, f.ours) for f in findings(CLAIMS, results)}
    assert all("ratio of steps" in claim for claim, words in told.items() if words)
    early = "Within the 100 steps in which the learning rate rises: kv-shift in 12 of 12 seeds."
    assert sum(early in words for words in told.values()) == 7


@pytest.mark.parametrize(
    ("curve", "verdict"),
    [
        ([(10, 0.1), (100, 0.5), (2000, 0.6), (4000, 0.9)], Verdict.NOT_TESTABLE),
        ([(10, 0.1), (100, 0.5), (2000, 0.86), (4000, 0.9)], Verdict.NOT_REPRODUCED),
        ([], Verdict.NOT_REPRODUCED),
        ([(1000, 0.1), (1950, 0.86), (2050, 0.1), (4000, 0.9)], Verdict.NOT_REPRODUCED),
    ],
)
def test_seeds_that_still_learned_do_not_say_that_an_arm_never_gets_there(
    curve: list[tuple[int, float]], verdict: Verdict
) -> None:
    ran = [
        replace(r, measures=dict(r.measures) | {"curve": curve}) if r.run.arm == "plain-2" else r
        for r in made(plain_2=0.9)
    ]
    results = Results("paper", {}, tuple(ran))
    found = findings(CLAIMS, results)
    assert found[1].verdict is verdict
    told = [one.claim.caveat(results, one.ours) for one in found]
    never = "Got there: plain-2 in 0 of 12 seeds."
    rising = "Still learning when training ended: plain-2 in 12 of 12 seeds, at 90.0% to 92.0%."
    still = verdict is Verdict.NOT_TESTABLE
    assert told[1] == (f"{never} {rising}" if still else never)
    assert [number for number, words in enumerate(told) if rising in words] == [1, 3, 4] * still


def test_accuracies_of_runs_that_still_learned_say_so() -> None:
    curve = [(2_000, 0.1), (4_000, 0.2)]
    ran = [
        replace(r, measures=dict(r.measures) | {"curve": curve}) if r.run.seed == 3 else r
        for r in made().of(["plain-1", "plain-2-w8", "kv-shift-w8"])
    ]
    results = Results("paper", {}, tuple(ran))
    told = [f.claim.caveat(results, f.ours) for f in findings(CLAIMS, results)]
    rising = "Still learning when training ended: "
    assert told[2] == f"{rising}plain-1 in 1 of 12 seeds, at 20.0%."
    assert told[5] == f"{rising}plain-2-w8 in 1 of 12 seeds, at 20.0%."
    assert told[6].startswith(f"{rising}kv-shift-w8 in 1 of 12 seeds")
    assert told[6].endswith("plain-2-w8 in 1 of 12 seeds, at 20.0%.")
