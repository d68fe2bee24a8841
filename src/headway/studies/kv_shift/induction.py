"""The study `induction`: one layer with shifted keys and values against plain layers.

Section 3.2 of arXiv 2411.19574 on a clean generator, with the controls that its reviewers asked
for: keys or values alone, another start, smeared keys and a short convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from headway.mechanisms import KVShift, ShortConv, SmearedKey
from headway.report.curves import OVER_SEEDS, bands
from headway.report.figures import CurveText, Figure, curve_figure, tick_axis
from headway.studies.claims import NOT_TESTED, Claim, Results, Size
from headway.studies.criteria import (
    EVERY_SEED,
    Criterion,
    Estimate,
    at_least,
    at_most,
    within,
)
from headway.studies.estimates import mean_of, paired, share_of_seeds
from headway.studies.races.caveat import (
    RISING,
    between_looks,
    not_all_there,
    not_at_their_end,
    race_caveat,
    still_learning,
)
from headway.studies.races.courses import Course
from headway.studies.races.speed import as_seen, faster, seen_ratio, steps_ratio
from headway.studies.races.token_races import TokenArm, TokenRace, decoder, race_study, told_rates
from headway.studies.races.tuning import (
    Points,
    Tuning,
    compared_runs,
    race_points,
    score_points,
    scores_of,
    steps_of,
)
from headway.tasks.induction import Induction

UNMOVED = (1.0, 0.0)
"""Taps that leave a projection as it is."""
PREVIOUS = (0.0, 1.0)
"""Taps that put the previous token's in its place."""
KEY, VALUE = "kv_shift.key", "kv_shift.value"


BY_CHANNEL = KVShift(targets=("key",), granularity="channel")


def _offset(channels: int) -> list[tuple[float, float]]:
    """Taps of each channel; the rotation pairs channel i with i + channels / 2, fast ones first."""
    fast, slow = [UNMOVED] * (channels // 4), [PREVIOUS] * (channels // 4)
    return [*fast, *slow, *fast, *slow]


def _arms(task: Induction, width: int, narrow: Sequence[int]) -> dict[str, TokenArm]:
    shifted = decoder(width, 1, task, mechanisms=[KVShift()])

    def plain(layers: int, of_width: int = width) -> TokenArm:
        return TokenArm(
            about=_layers(layers) + _of_width(of_width, width),
            config=decoder(of_width, layers, task),
        )

    def shift(about: str, *held: str) -> TokenArm:
        return TokenArm(about=about, config=shifted, start=dict.fromkeys(held, UNMOVED),
                        held=frozenset(held))  # fmt: skip

    return {
        "plain-1": shift("one layer", KEY, VALUE),
        "plain-2": plain(2),
        "plain-4": plain(4),
        "kv-shift": shift("one layer, keys and values shifted"),
        "key-shift": shift("one layer, keys alone shifted", VALUE),
        "value-shift": shift("one layer, values alone shifted", KEY),
        "kv-shift-identity": TokenArm(
            about="one layer, keys and values shifted, taps start at (1, 0)",
            config=shifted,
            start={KEY: UNMOVED, VALUE: UNMOVED},
        ),
        "smeared-key": TokenArm(
            about="one layer, smeared keys",
            config=decoder(width, 1, task, mechanisms=[SmearedKey()]),
        ),
        "key-offset": TokenArm(
            about="one layer, a partial key offset: half of a key's channels, those that rotate "
            "slowest, are the previous token's",
            config=decoder(width, 1, task, mechanisms=[BY_CHANNEL]),
            start={KEY: _offset(shifted.dims().head_dim)},
            held=frozenset({KEY}),
        ),
        "short-conv": TokenArm(
            about="one layer, queries, keys and values convolved over 4 tokens",
            config=decoder(width, 1, task, mechanisms=[ShortConv()]),
        ),
    } | {
        name: arm
        for small in narrow
        for name, arm in {
            f"plain-2-w{small}": plain(2, small),
            f"kv-shift-w{small}": TokenArm(
                about="one layer, keys and values shifted" + _of_width(small, width),
                config=decoder(small, 1, task, mechanisms=[KVShift()]),
            ),
        }.items()
    }


def _layers(count: int) -> str:
    return "one layer" if count == 1 else f"{count} layers"


def _of_width(width: int, usual: int) -> str:
    return "" if width == usual else f" of width {width}"


def _race(task: Induction, width: int, narrow: Sequence[int], **sizes: Any) -> TokenRace:
    return TokenRace(arms=_arms(task, width, narrow), task=task, scores=("all", "first"), **sizes)


WIDTHS: Mapping[Size, int] = {"small": 32, "paper": 128}
RACES: dict[Size, TokenRace] = {
    "small": _race(
        Induction(length=24, candidates=12, vocab_size=16, first_id=0),
        WIDTHS["small"],
        (8,),
        batch=16,
        rows=128,
        course=Course(limit=600, every=20, together=10, target=0.99),
        tuning=Tuning(rates=(0.003, 0.01), seeds=2),
        warm_up=50,
        copies=20,
    ),
    "paper": _race(
        Induction(length=128, candidates=64, vocab_size=256, first_id=0),
        WIDTHS["paper"],
        (8, 16, 32, 64),
        batch=32,
        rows=512,
        course=Course(limit=4_000, every=10, together=10, target=0.99, apart=0.05),
        tuning=Tuning(rates=(0.0003, 0.001, 0.003, 0.01), further=(0.0001, 0.03, 0.1), seeds=3),
        warm_up=100,
        copies=60,
    ),
}


def _ratio(arm: str, base: str, results: Results) -> Estimate | None:
    limit = RACES[results.size].course.limit
    return steps_ratio(steps_of(results, arm), steps_of(results, base), limit)


def _seen_ratio(criterion: Criterion, arm: str, base: str, results: Results) -> Estimate | None:
    """As `seen_ratio`, with what the looks leave open: they are far apart where a run is quick, and
    an arm that is only seen to be as slow is no evidence that it is."""
    limit = RACES[results.size].course.limit
    seen = seen_ratio(criterion, steps_of(results, arm), steps_of(results, base), limit)
    return seen and between_looks(limit, arm, base, results, seen)


def _got_there(arm: str, results: Results) -> Estimate | None:
    """The share of seeds; one that was still learning when its training ended does not count."""
    ran = {r.run.seed: r.measures for r in compared_runs(results, arm)}
    counted = {seed: measures for seed, measures in ran.items() if not still_learning(measures)}
    return share_of_seeds({seed: m["steps"] is not None for seed, m in counted.items()})


def _accuracy(arm: str, results: Results) -> Estimate | None:
    return mean_of(scores_of(results, arm), bounds=(0, 1))


def _gain(arm: str, base: str, results: Results) -> Estimate | None:
    return paired(scores_of(results, arm), scores_of(results, base), bounds=(-1, 1))


FIGURE = "arXiv 2411.19574, Figure 1"
OFFSET = "modded-nanogpt, pull request 169"


def _claim(
    sentence: str, estimate: Callable[..., Estimate | None], arms: tuple[str, ...],
    criterion: Criterion, told: str, source: str = FIGURE, shown: str = ".1%", differs: str = "",
) -> Claim:  # fmt: skip
    return Claim(
        claim=sentence,
        source=source,
        published=None,
        told=told,
        shown=shown,
        criterion=criterion,
        arms=arms,
        estimate=partial(estimate, *arms),
        sizes=("paper",),
        seeds=10,
        differs=differs,
        caveat=lambda results, _: not_at_their_end(arms, results),
    )


def _every_seed(sentence: str, arm: str, told: str, source: str) -> Claim:
    """A claim on the share of seeds that get there, which tells of those that do not count."""

    def caveat(results: Results, _: Estimate | None) -> str:
        sentences = (not_all_there((arm,), results), not_at_their_end((arm,), results))
        return " ".join(filter(None, sentences))

    sentence += " gets to 99 %: share of seeds"
    made = _claim(sentence, _got_there, (arm,), EVERY_SEED, told, source)
    return replace(made, caveat=caveat)


def _speed(
    sentence: str, arm: str, base: str, criterion: Criterion, told: str, source: str = FIGURE,
    differs: str = "", slow_counts: bool = False,
) -> Claim:  # fmt: skip
    """A claim on a ratio of steps; `slow_counts`: a slow arm can meet the criterion."""
    if slow_counts:
        criterion = _looks_counted(as_seen(criterion))
    estimate = partial(_seen_ratio, criterion) if slow_counts else _ratio
    sentence += ": ratio of steps to 99 %"
    made = _claim(sentence, estimate, (arm, base), criterion, told, source, ".2f", differs)
    return replace(made, caveat=partial(race_caveat, RACES, criterion, arm, base))


def _looks_counted(criterion: Criterion) -> Criterion:
    words = "the interval counts that a run can have got there anywhere between two looks"
    return replace(criterion, words=f"{criterion.words}; {words}")


LOSS = "The paper compares losses of a language model."
CLAIMS = (
    _every_seed("One layer of KV shifting", "kv-shift", "near perfect", FIGURE + "a"),
    _every_seed("A plain model of two layers", "plain-2", "near perfect", FIGURE + "a"),
    _claim("One plain layer fails: accuracy at the end", _accuracy, ("plain-1",),
           at_most(0.5, shown=".0%"), "fails", FIGURE + "a"),
    _speed("One layer of KV shifting is much faster than two plain ones", "kv-shift", "plain-2",
           faster(0.5, share=1.0), "much faster", FIGURE + "a"),
    _speed("Four plain layers are no faster than two", "plain-4", "plain-2", at_least(0.9),
           "no faster", FIGURE + "a", slow_counts=True),
    _claim("Two plain layers of width 8 are very poor: accuracy at the end", _accuracy,
           ("plain-2-w8",), at_most(0.5, shown=".0%"), "very poor", FIGURE + "b"),
    _claim("At width 8 one layer of KV shifting is far better than two plain ones: accuracy at "
           "the end less theirs", _gain, ("kv-shift-w8", "plain-2-w8"),
           at_least(0.25, shown=".0%"), "far better", FIGURE + "b"),
    _speed("Shifting both is faster than keys alone", "kv-shift", "key-shift", faster(1.0),
           "keys alone are worse", "arXiv 2411.19574, Figure 8", LOSS),
    _speed("Shifting both is faster than values alone", "kv-shift", "value-shift", faster(1.0),
           "values alone are worse", "arXiv 2411.19574, Figure 8", LOSS),
    _speed("The start of the taps does not matter: from (1, 0) it takes as long",
           "kv-shift-identity", "kv-shift", within(1.0, 0.25), NOT_TESTED, slow_counts=True),
    _every_seed("One layer with smeared keys", "smeared-key", "induction in one layer",
                "Olsson et al. 2022"),
    _speed("KV shifting is faster than smeared keys", "kv-shift", "smeared-key", faster(1.0),
           NOT_TESTED),
    _every_seed("One layer with a partial key offset", "key-offset", "induction in one layer",
                OFFSET),
    _speed("KV shifting is faster than a partial key offset", "kv-shift", "key-offset",
           faster(1.0), NOT_TESTED),
    _speed("KV shifting is faster than a short convolution", "kv-shift", "short-conv",
           faster(1.0), NOT_TESTED),
)  # fmt: skip

DEPTH = CurveText(
    "depth", "Accuracy by depth and mechanism, each arm at its best learning rate",
    OVER_SEEDS + " A seed stays where it got to 99 %.", "steps", "accuracy (0 to 1)",
)  # fmt: skip
WIDTH = CurveText("width", "Accuracy at the end over the width", OVER_SEEDS, "hidden width",
                  "accuracy (0 to 1)")  # fmt: skip
BY_RATE = CurveText(
    "by-rate", "Steps to 99 % over the learning rate",
    "The races by which rates were chosen. " + OVER_SEEDS + " A race ends when one rate has won, "
    "so that slow ones have no point.", "learning rate", "steps",
)  # fmt: skip


def _figures(results: Results) -> Sequence[Figure]:
    race = RACES[results.size]
    there = [arm for arm in race.arms if results.of([arm])]
    wide = [arm for arm in there if "-w" not in arm]
    over_width: dict[str, Points] = {
        family: [
            (float(race.arms[arm].config.hidden_size), score)
            for arm in there
            if arm.partition("-w")[0] == family
            for score in scores_of(results, arm).values()
        ]
        for family in ("plain-2", "kv-shift")
    }
    sets: dict[CurveText, dict[str, Points]] = {
        DEPTH: {arm: score_points(results, arm) for arm in wide},
        WIDTH: over_width,
        BY_RATE: {arm: race_points(results, arm) for arm in there},
    }
    axes = {
        text: tick_axis(x for of_arm in sets[text].values() for x, _ in of_arm)
        for text in (WIDTH, BY_RATE)
    }
    return [
        curve_figure(text, shown, there, axes.get(text))
        for text, points in sets.items()
        if (shown := bands(points))
    ]


def _differs(size: Size) -> str:
    race, task = RACES[size], RACES[size].task
    assert isinstance(task, Induction)
    return (
        f"Width {WIDTHS[size]} in the place of 1,024, {task.vocab_size} ids of 8,000, "
        f"{task.candidates} candidates of 512, rows of {task.length} tokens of 512, batches of "
        f"{race.batch} of 4,096; heads of 16 channels; feed-forward parts as wide as a "
        "Llama's, not evened out to equal parameters. The generator is clean: what follows a "
        "token is never overwritten; all answers that agree with it are trained on and scored, on "
        f"{race.rows} rows {race.course.told_looks} (each run's curve names its own looks), "
        f"up to {race.course.limit:,}; "
        f"{told_rates(race)}. A seed that did not get there and gained more than {RISING:.0%} in "
        "the second half of its training does not count in a share of seeds. A partial key offset "
        "has zeros before the first token."
    )


INDUCTION = race_study(
    RACES,
    name="induction",
    claim="Shifting keys and values lets one layer do induction, and a narrow one at that, where "
    "plain attention needs two.",
    source="arXiv 2411.19574, section 3.2",
    published="one plain layer fails; two plain layers and one of KV shifting are near perfect, "
    "the latter much faster; four are no faster than two; two of width 8 are very poor",
    measure="Steps of training until 99 % of the repeated tokens are followed by the right one, as "
    "the median of the ratios of paired seeds with a bootstrap interval, and accuracy at the end. "
    "An arm that never gets there is infinitely slow; the other one, if it does not, is taken to "
    "have got there at the end of training.",
    claims=CLAIMS,
    differs={size: _differs(size) for size in RACES},
    figures=_figures,
)
