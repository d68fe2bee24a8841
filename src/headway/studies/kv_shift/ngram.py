"""The study `ngram`: shifted keys and values are no help where a table has to be learned.

Section 3.2 of arXiv 2411.19574: about 200 pairs of tokens, each with its own third token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

from headway.mechanisms import KVShift
from headway.report.curves import bands
from headway.report.figures import CurveText, Figure, curve_figure
from headway.studies.claims import Claim, Results, Size
from headway.studies.criteria import EVERY_SEED, Estimate, within
from headway.studies.estimates import share_of_seeds
from headway.studies.races.caveat import not_all_there, race_caveat
from headway.studies.races.courses import Course
from headway.studies.races.speed import as_seen, seen_ratio
from headway.studies.races.token_races import TokenArm, TokenRace, decoder, race_study, told_rates
from headway.studies.races.tuning import Tuning, score_points, steps_of
from headway.tasks.ngram import NGram

SHIFTED = [KVShift()]
LAYERS = (1, 2)


def _layers(count: int) -> str:
    return f"{count} layer" + "s" * (count > 1)


def _arms(task: NGram, width: int) -> dict[str, TokenArm]:
    return {
        name: arm
        for layers in LAYERS
        for name, arm in {
            f"plain-{layers}": TokenArm(about=_layers(layers), config=decoder(width, layers, task)),
            f"kv-shift-{layers}": TokenArm(
                about=_layers(layers) + ", keys and values shifted",
                config=decoder(width, layers, task, mechanisms=SHIFTED),
            ),
        }.items()
    }


SMALL = NGram(contexts=40, vocab_size=16, length=24)
WIDTHS: Mapping[Size, int] = {"small": 32, "paper": 128}
RACES: dict[Size, TokenRace] = {
    "small": TokenRace(
        arms=_arms(SMALL, WIDTHS["small"]),
        task=SMALL,
        scores=("all",),
        batch=16,
        rows=128,
        course=Course(limit=600, every=10, together=10, target=0.99),
        tuning=Tuning(rates=(0.003, 0.01), seeds=2),
        warm_up=50,
        copies=20,
    ),
    "paper": TokenRace(
        arms=_arms(NGram(), WIDTHS["paper"]),
        task=NGram(),
        scores=("all",),
        batch=32,
        rows=512,
        course=Course(limit=4_000, every=10, together=10, target=0.99),
        tuning=Tuning(rates=(0.0003, 0.001, 0.003, 0.01), further=(0.0001, 0.03, 0.1), seeds=3),
        warm_up=100,
        copies=60,
    ),
}


AS_FAST = as_seen(within(1.0, 0.15))


def _ratio(arm: str, base: str, results: Results) -> Estimate | None:
    steps, others = (steps_of(results, name) for name in (arm, base))
    return seen_ratio(AS_FAST, steps, others, RACES[results.size].course.limit)


def _both_there(arm: str, base: str, results: Results) -> Estimate | None:
    """The share of seeds in which both arms get there, of those in which one does."""
    steps, others = (steps_of(results, name) for name in (arm, base))
    there = {s: [math.isfinite(n) for n in (steps[s], others[s])] for s in steps.keys() & others}
    return share_of_seeds({seed: all(both) for seed, both in there.items() if any(both)})


SECTION = "arXiv 2411.19574, section 3.2"
ASKED = "2026-11-30"


def _speed(layers: int) -> Claim:
    arm, base = _pair(layers)
    return Claim(
        claim=f"KV shifting is neither better nor worse, {_layers(layers)}: ratio of steps to 99 % "
        "of the third tokens",
        source=SECTION,
        published=1.0,
        told="no difference",
        shown=".2f",
        criterion=AS_FAST,
        arms=(arm, base),
        estimate=partial(_ratio, arm, base),
        sizes=("paper",),
        seeds=10,
        caveat=partial(race_caveat, RACES, AS_FAST, arm, base),
    )


def _outcome(layers: int) -> Claim:
    arm, base = pair = _pair(layers)
    return Claim(
        claim="What is learned with KV shifting is learned without, and the reverse, "
        f"{_layers(layers)}: share of seeds in which both get to 99 % of the third tokens, where "
        "one does",
        source=SECTION,
        published=None,
        told="neither better nor worse",
        shown=".1%",
        criterion=EVERY_SEED,
        arms=pair,
        estimate=partial(_both_there, arm, base),
        sizes=("paper",),
        seeds=10,
        differs="A run ends where it gets to 99 %, so that no accuracy at the end is compared.",
        caveat=lambda results, _: not_all_there(pair, results),
        asked=ASKED,
    )


def _pair(layers: int) -> tuple[str, str]:
    return f"kv-shift-{layers}", f"plain-{layers}"


CLAIMS = (*map(_speed, LAYERS), *map(_outcome, LAYERS))

CURVE = CurveText(
    "third-tokens", "Accuracy on third tokens, each arm at its best learning rate",
    "Line: mean over seeds. Band: from the least to the largest seed. A seed stays where it got "
    "to 99 %.", "steps", "accuracy (0 to 1)",
)  # fmt: skip


def _figures(results: Results) -> Sequence[Figure]:
    race = RACES[results.size]
    there = [arm for arm in race.arms if results.of([arm])]
    shown = bands({arm: score_points(results, arm) for arm in there})
    return [curve_figure(CURVE, shown, there)] if shown else []


def _differs(size: Size) -> str:
    race, task = RACES[size], RACES[size].task
    assert isinstance(task, NGram)
    return (
        f"{task.contexts} pairs of {task.vocab_size} ids, rows of {task.length} tokens, width "
        f"{WIDTHS[size]}: the paper tells the number of pairs (200) and of parameters (0.8K in one "
        "layer, 0.4M in two and 50M in four, which are not run here) alone. Accuracy is looked at "
        f"on {race.rows} rows every {race.course.every} steps up to {race.course.limit:,}; "
        f"{told_rates(race)}."
    )


NGRAM = race_study(
    RACES,
    name="ngram",
    claim="Shifting keys and values neither helps nor harms where n-grams are learned by heart.",
    source="arXiv 2411.19574, section 3.2",
    published="neither better nor worse",
    measure="Steps of training until 99 % of the third tokens are right, as the median of the "
    "ratios of paired seeds with a bootstrap interval, and the share of seeds that get there.",
    claims=CLAIMS,
    differs={size: _differs(size) for size in RACES},
    figures=_figures,
)
