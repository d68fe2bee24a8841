"""The study `hops`: how far a model can follow its own induction steps.

Multi-hop induction of chsanford/hop-induction-heads, which arXiv 2411.19574 (section 3.2) runs with
the attention changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from headway.mechanisms import KVShift
from headway.report.curves import OVER_SEEDS, bands
from headway.report.figures import CurveText, Figure, curve_figure
from headway.studies.claims import NOT_TESTED, Claim, Results, Size
from headway.studies.criteria import Criterion, Estimate, at_least, at_most, beyond_zero
from headway.studies.estimates import mean_of, paired
from headway.studies.races.caveat import race_caveat, rates_apart
from headway.studies.races.courses import Course
from headway.studies.races.speed import faster, steps_ratio
from headway.studies.races.token_races import TokenArm, TokenRace, decoder, race_study, told_rates
from headway.studies.races.tuning import (
    Points,
    Tuning,
    compared_runs,
    score_points,
    scores_of,
    steps_of,
)
from headway.tasks.hops import Hops

GPT2 = {"position": "learned", "norm": "layer", "hidden_act": "gelu", "attention_bias": True}
FEW, MANY = "hops_8", "hops_16"


def _race(task: Hops, width: int, layers: int, **sizes: object) -> TokenRace:
    plain = decoder(width, layers, task, heads=4, **GPT2)
    shifted = decoder(width, layers, task, heads=4, mechanisms=[KVShift()], **GPT2)
    return TokenRace(
        arms={
            "plain": TokenArm(about="plain attention", config=plain),
            "kv-shift": TokenArm(about="keys and values shifted", config=shifted),
        },
        task=task,
        scores=("existing", *(f"hops_{k}" for k in range(task.max_hops + 1))),
        **sizes,  # type: ignore[arg-type]
    )


RACES: dict[Size, TokenRace] = {
    "small": _race(
        Hops(max_hops=4, length=32, vocab_size=12),
        32,
        2,
        batch=16,
        rows=256,
        course=Course(limit=1_500, every=50, together=10, target=0.99, beyond=True),
        tuning=Tuning(rates=(0.003, 0.01), seeds=2),
        warm_up=50,
        copies=20,
    ),
    "paper": _race(
        Hops(),
        128,
        5,
        batch=32,
        rows=2_048,
        course=Course(limit=20_000, every=500, together=10, target=0.99, beyond=True),
        tuning=Tuning(rates=(0.0001, 0.0003, 0.001), further=(0.00003, 0.003), seeds=2),
        warm_up=1_000,
        copies=24,
    ),
}


def _at_the_end(score: str, arm: str, results: Results) -> dict[int, float]:
    """Accuracies by seed; none where a run ended at the score that is raced."""
    race = RACES[results.size]
    if score not in race.scores or _ended(arm, results):
        return {}
    return scores_of(results, arm, score)


def _ended(arm: str, results: Results) -> int:
    """How many runs got to the score that is raced and were not trained on."""
    ran = [result.measures for result in compared_runs(results, arm)]
    limit = RACES[results.size].course.limit
    return sum(m["steps"] is not None and m["trained"] < limit for m in ran)


def _accuracy(score: str, arm: str, results: Results) -> Estimate | None:
    return mean_of(_at_the_end(score, arm, results), bounds=(0, 1))


def _loss_of_hops(arm: str, results: Results) -> Estimate | None:
    return paired(*_many_and_few(arm, results), bounds=(-1, 1))


def _more_lost(arm: str, base: str, results: Results) -> Estimate | None:
    """What an arm loses from few to many hops beyond what another does: accuracy, below zero."""
    ours, theirs = (_lost(name, results) for name in (arm, base))
    return paired(ours, theirs, bounds=(-2, 2))


def _lost(arm: str, results: Results) -> dict[int, float]:
    """Accuracy at many hops less that at few, by seed."""
    many, few = _many_and_few(arm, results)
    return {seed: many[seed] - few[seed] for seed in many}


def _many_and_few(arm: str, results: Results) -> tuple[dict[int, float], dict[int, float]]:
    return _at_the_end(MANY, arm, results), _at_the_end(FEW, arm, results)


def _gain(arm: str, base: str, results: Results) -> Estimate | None:
    ours, theirs = (_at_the_end(MANY, name, results) for name in (arm, base))
    return paired(ours, theirs, bounds=(-1, 1))


def _caveat(arms: Sequence[str], results: Results, ours: Estimate | None) -> str:
    told = (_told_ended(arms, results), rates_apart(arms, results))
    return " ".join(filter(None, told))


def _with_the_other(arm: str, other: str, results: Results, ours: Estimate | None) -> str:
    """What an arm's row on hops that are lost says, and how much another arm loses."""
    told = [_caveat((arm,), results, ours)]
    if theirs := _loss_of_hops(other, results):
        told += [f"The same of {other}: {theirs.told('.1%')}.", rates_apart((arm, other), results)]
    return " ".join(filter(None, told))


def _told_ended(arms: Sequence[str], results: Results) -> str:
    """Which runs were not trained on, in a sentence."""
    told = [f"{ended} runs of {arm}" for arm in arms if (ended := _ended(arm, results))]
    if not told:
        return ""
    return (
        f"No figure: {' and '.join(told)} ended when they got to "
        f"{RACES[results.size].course.target:.0%} of all answers, before the others did."
    )


def _ratio(arm: str, base: str, results: Results) -> Estimate | None:
    limit = RACES[results.size].course.limit
    return steps_ratio(steps_of(results, arm), steps_of(results, base), limit)


SECTION = "arXiv 2411.19574, section 3.2 (a plot)"
SOONER = faster(1.0)
ASKED = "2026-11-30"


def _claim(
    sentence: str, estimate: Callable[..., Estimate | None], arms: tuple[str, ...],
    criterion: Criterion, told: str, asked: str = "",
) -> Claim:  # fmt: skip
    return Claim(
        claim=sentence,
        source=SECTION,
        published=None,
        told=told,
        shown=".1%",
        criterion=criterion,
        arms=arms,
        estimate=partial(estimate, *arms),
        sizes=("paper",),
        seeds=10,
        caveat=partial(_caveat, arms),
        asked=asked,
    )


CLAIMS = (
    replace(
        _claim("Plain attention of five layers degrades beyond 8 hops: accuracy at 16 less that at "
               "8", _loss_of_hops, ("plain",), at_most(-0.05, shown=".0%"), "degrades beyond 8"),
        caveat=partial(_with_the_other, "plain", "kv-shift"),
    ),
    _claim("KV shifting is still right at 16 hops: accuracy", partial(_accuracy, MANY),
           ("kv-shift",), at_least(0.9, shown=".0%"), "a small error"),
    _claim("KV shifting is better at 16 hops: accuracy less that of plain attention", _gain,
           ("kv-shift", "plain"), at_least(0.05, shown=".0%"), "clearly better"),
    _claim("Plain attention loses more than KV shifting does beyond 8 hops: accuracy at 16 less "
           "that at 8, less the same of KV shifting", _more_lost, ("plain", "kv-shift"),
           beyond_zero(-0.05, ".0%"), "plain degrades, KV shifting has a small error", ASKED),
    Claim(
        claim="KV shifting learns to follow hops sooner: ratio of steps to 99 % of the answers",
        source=SECTION,
        published=None,
        told=NOT_TESTED,
        shown=".2f",
        criterion=SOONER,
        arms=("kv-shift", "plain"),
        estimate=partial(_ratio, "kv-shift", "plain"),
        sizes=("paper",),
        seeds=10,
        differs="A run that does not get there is infinitely slow, or at the end of training "
        "where the other one gets there.",
        caveat=partial(race_caveat, RACES, SOONER, "kv-shift", "plain"),
    ),
)  # fmt: skip

BY_HOPS = CurveText(
    "by-hops", "Accuracy at the end over the number of hops",
    OVER_SEEDS + " Of few hops, the last character tells much.", "hops", "accuracy (0 to 1)",
)  # fmt: skip
CURVE = CurveText("existing", "Accuracy where there is an answer", OVER_SEEDS, "steps",
                  "accuracy (0 to 1)")  # fmt: skip


def _figures(results: Results) -> Sequence[Figure]:
    race = RACES[results.size]
    there = [arm for arm in race.arms if results.of([arm])]
    sets: dict[CurveText, dict[str, Points]] = {
        BY_HOPS: {
            arm: [
                (float(name.removeprefix("hops_")), value)
                for name in race.scores[1:]
                for value in scores_of(results, arm, name).values()
            ]
            for arm in there
        },
        CURVE: {arm: score_points(results, arm) for arm in there},
    }
    return [
        curve_figure(text, shown, there)
        for text, points in sets.items()
        if (shown := bands(points))
    ]


def _differs(size: Size) -> str:
    race = RACES[size]
    config = race.arms["plain"].config
    task = race.task
    assert isinstance(task, Hops)
    return (
        f"{config.num_hidden_layers} layers of width {config.hidden_size}, rows of {task.length} "
        f"with up to {task.max_hops} hops, {race.course.limit:,} steps of {race.batch} rows in the "
        f"place of 100,000; {told_rates(race)} (1e-4 and linear decay there); with an output "
        "matrix, which the code has not."
    )


HOPS = race_study(
    RACES,
    name="hops",
    claim="Plain attention of five layers degrades beyond 8 hops, and with keys and values shifted "
    "less so.",
    source="arXiv 2411.19574, section 3.2; code of chsanford/hop-induction-heads",
    published="at depth 5 plain attention degrades beyond 8 hops, KV shifting has a small error at "
    "16",
    measure="Share of right answers, where there is one, at a number of hops, at the end of "
    "training; differences are paired by seed.",
    claims=CLAIMS,
    differs={size: _differs(size) for size in RACES},
    figures=_figures,
)
