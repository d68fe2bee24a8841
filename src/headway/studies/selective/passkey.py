"""The study `passkey`: do temperatures help to find a number in a long text?

Section 5.2 of arXiv 2411.12892 with models that learn the task from nothing, where the paper
fine-tunes Pythia: rows of one length in training, shorter and longer ones in tests.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any

from headway.decoder import HeadwayConfig
from headway.mechanisms import SelectiveAttention
from headway.report.cells import Table
from headway.report.curves import OVER_SEEDS, bands
from headway.report.figures import CurveText, Figure, curve_figure, tick_axis
from headway.studies.claims import NOT_TESTED, Claim, Results, Size
from headway.studies.criteria import Criterion, Estimate, beyond_zero, difference
from headway.studies.estimates import paired
from headway.studies.races.caveat import rates_apart
from headway.studies.races.courses import Course
from headway.studies.races.token_races import TokenArm, race_study, told_rates
from headway.studies.races.tuning import TUNING, Points, Tuning, score_points, scores_of
from headway.studies.selective.passkey_race import ALL, DEPTHS, PasskeyRace, cell, known_words
from headway.tasks.passkey import Passkey

TARGETS = ("query", "value")
ABOUT: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "plain": ("no temperature", ()),
    "both": ("temperatures of queries and values by token and position", TARGETS),
    "query": ("a temperature of queries by token and position", ("query",)),
    "value": ("a temperature of values by token and position", ("value",)),
}
UNMOVED = {"alpha": (-100.0,), "weight": (0.0,)}
"""Values at which a temperature is exactly one, by the name of its parameter."""


def _arm(about: str, scaled: Sequence[str], config: HeadwayConfig) -> TokenArm:
    """All arms have one pass, in which what an arm has not is held at one."""
    held = {
        f"selective_attention.{target}.{name}": value
        for target in TARGETS
        if target not in scaled
        for name, value in UNMOVED.items()
    }
    return TokenArm(about=about, config=config, start=held, held=frozenset(held))


def _race(
    *,
    width: int,
    layers: int,
    heads: int,
    digits: int,
    length: int,
    lengths: tuple[int, ...],
    **sizes: Any,
) -> PasskeyRace:
    words = known_words()
    config = HeadwayConfig(
        vocab_size=words.vocab_size,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=max(lengths),
        tie_word_embeddings=False,
        mechanisms=[SelectiveAttention()],
    )
    return PasskeyRace(
        arms={name: _arm(about, scaled, config) for name, (about, scaled) in ABOUT.items()},
        task=Passkey(encode=words, length=length, digits=digits),
        lengths=lengths,
        scores=(
            ALL,
            *(cell(n) for n in lengths),
            *(cell(n, depth) for n in lengths for depth in DEPTHS),
        ),
        **sizes,
    )


RACES: dict[Size, PasskeyRace] = {
    "small": _race(
        width=32,
        layers=2,
        heads=2,
        digits=3,
        length=96,
        lengths=(80, 96, 160),
        batch=8,
        rows=20,
        course=Course(limit=400, every=100, together=10, target=math.inf),
        tuning=Tuning(rates=(0.003, 0.006), seeds=2),
        warm_up=50,
        copies=16,
    ),
    "paper": _race(
        width=128,
        layers=4,
        heads=4,
        digits=5,
        length=256,
        lengths=(128, 256, 512, 1024),
        batch=32,
        rows=100,
        course=Course(limit=3_000, every=300, together=10, target=math.inf),
        tuning=Tuning(rates=(0.001, 0.002, 0.004), further=(0.0005, 0.008), seeds=2),
        warm_up=100,
        copies=24,
    ),
}


PARTS: Mapping[str, Callable[[int, int], bool]] = {
    ALL: lambda length, learned: True,
    "learned": operator.le,
    "beyond": operator.gt,
    "trained": operator.eq,
    "other": operator.ne,
}
"""Which lengths are counted, from those of rows in tests and in training."""


def _lengths(part: str, results: Results) -> list[int]:
    race = RACES[results.size]
    return [length for length in race.lengths if PARTS[part](length, race.learned)]


def _found_in(results: Results, arm: str, part: str) -> dict[int, float]:
    """The mean share of keys found by seed, over the lengths of a part."""
    of_length = [scores_of(results, arm, cell(n)) for n in _lengths(part, results)]
    return {seed: fmean(scores[seed] for scores in of_length) for seed in of_length[0]}


def _gain(arm: str, base: str, part: str, results: Results) -> Estimate | None:
    ours, theirs = (_found_in(results, name, part) for name in (arm, base))
    return paired(ours, theirs, bounds=(-1, 1))


def _caveat(arms: Sequence[str], part: str, results: Results, _: Estimate | None) -> str:
    told = [_told_lengths(arms, part, results)]
    if apart := rates_apart(arms, results):
        told += [apart, _told_shared_rates(arms, results)]
    return " ".join(filter(None, told))


def _told_lengths(arms: Sequence[str], part: str, results: Results) -> str:
    """A sentence on the keys that each arm finds at each length of a part."""
    lengths = _lengths(part, results)
    told = []
    for arm in arms:
        at = [scores_of(results, arm, cell(length)).values() for length in lengths]
        if all(at):
            told.append(f"{arm} {', '.join(f'{fmean(shares):.1%}' for shares in at)}")
    learned = RACES[results.size].learned
    tokens = ", ".join(f"{n:,}" + " (as in training)" * (n == learned) for n in lengths)
    return f"Found at {tokens} tokens: {'; '.join(told)}." if told else ""


def _told_shared_rates(arms: Sequence[str], results: Results) -> str:
    """A sentence on the keys that arms find on the seeds that rates are tuned on, at each rate at
    which all are: none of these runs ends before the others."""
    found: dict[float, dict[str, list[float]]] = {}
    for result in results.of(arms, stage=TUNING):
        of_arm = found.setdefault(result.run.options["rate"], {})
        of_arm.setdefault(result.run.arm, []).append(result.measures["score"])
    told = [
        f"at {rate:g} {', '.join(f'{arm} {fmean(of_arm[arm]):.1%}' for arm in arms)}"
        for rate, of_arm in sorted(found.items())
        if of_arm.keys() == set(arms)
    ]
    return f"Found on seeds of tuning: {'; '.join(told)}." if told else ""


PLAIN, SELECTIVE = 0.569, 0.744
"""Published."""


def _claim(
    sentence: str, arm: str, base: str, criterion: Criterion, part: str = ALL,
    told: str = NOT_TESTED, asked: str = "",
) -> Claim:  # fmt: skip
    return Claim(
        claim=f"{sentence}: share of keys found, less {base}'s",
        source="arXiv 2411.12892, section 5.2, Table 4",
        published=None,
        told=told,
        shown="+.1%",
        criterion=criterion,
        arms=(arm, base),
        estimate=partial(_gain, arm, base, part),
        sizes=("paper",),
        seeds=10,
        caveat=partial(_caveat, (arm, base), part),
        asked=asked,
    )


ASKED = "2026-11-30"
MORE = beyond_zero(0.02, ".0%")
"""Two points would matter, about a tenth of the published gain."""
CLAIMS = (
    _claim("With temperatures of queries and values more keys are found, over all lengths and "
           "depths", "both", "plain", difference(SELECTIVE - PLAIN),
           told=f"{SELECTIVE - PLAIN:+.1%} ({PLAIN:.1%} to {SELECTIVE:.1%})"),
    _claim("The same in rows no longer than in training", "both", "plain", MORE,
           "learned"),
    _claim("The same in longer rows", "both", "plain", MORE, "beyond"),
    _claim("The same in rows as long as in training", "both", "plain", MORE, "trained",
           asked=ASKED),
    _claim("The same in rows shorter or longer than in training", "both", "plain", MORE, "other",
           asked=ASKED),
    _claim("Temperatures of queries alone are of use", "query", "plain", MORE),
    _claim("Temperatures of values alone are of use", "value", "plain", MORE),
    _claim("Those of both are better than those of queries alone", "both", "query", MORE),
    _claim("Those of both are better than those of values alone", "both", "value", MORE,
           asked=ASKED),
)  # fmt: skip

BY_LENGTH = CurveText(
    "by-length", "Keys found by the length of a row, each arm at its best learning rate",
    OVER_SEEDS + " Over all depths.", "tokens", "share (0 to 1)",
)  # fmt: skip
BY_DEPTH = CurveText(
    "by-depth", "Keys found by their depth", OVER_SEEDS + " Over all lengths.",
    "share of the filler before the key", "share (0 to 1)",
)  # fmt: skip
CURVE = CurveText("training", "Keys found over training", OVER_SEEDS + " Over all lengths and "
                  "depths.", "steps", "share (0 to 1)")  # fmt: skip


def _figures(results: Results) -> Sequence[Figure]:
    race = RACES[results.size]
    there = [arm for arm in race.arms if results.of([arm])]
    sets: dict[CurveText, dict[str, Points]] = {
        BY_LENGTH: {
            arm: [
                (float(n), share) for n in race.lengths
                for share in scores_of(results, arm, cell(n)).values()
            ]
            for arm in there
        },
        BY_DEPTH: {
            arm: [
                (depth, fmean(scores_of(results, arm, cell(n, depth))[seed] for n in race.lengths))
                for depth in DEPTHS
                for seed in scores_of(results, arm)
            ]
            for arm in there
        },
        CURVE: {arm: score_points(results, arm) for arm in there},
    }  # fmt: skip
    return [
        curve_figure(text, shown, there, tick_axis(race.lengths) if text is BY_LENGTH else None)
        for text, points in sets.items()
        if (shown := bands(points))
    ]


def _table(results: Results) -> Table:
    """Keys found at each length and depth, one row an arm and a length."""
    race = RACES[results.size]

    def share(arm: str, length: int, depth: float | None) -> str:
        return f"{fmean(scores_of(results, arm, cell(length, depth)).values()):.1%}"

    return Table(
        title="Keys found by length and depth: mean over seeds",
        columns=("arm", "tokens", *(f"depth {depth:g}" for depth in DEPTHS), "all depths"),
        rows=tuple(
            (arm, f"{length:,}", *(share(arm, length, depth) for depth in (*DEPTHS, None)))
            for arm in race.arms
            if scores_of(results, arm)
            for length in race.lengths
        ),
    )


def _differs(size: Size) -> str:
    race = RACES[size]
    assert isinstance(race.task, Passkey)
    config = race.arms["plain"].config
    lengths = ", ".join(f"{n:,}" for n in race.lengths)
    return (
        f"Decoders of {config.num_hidden_layers} layers of width {config.hidden_size} learn from "
        "nothing to answer and nothing else, where the paper fine-tunes Pythia-160M as a language "
        f"model: {race.course.limit:,} steps of {race.batch} rows of {race.learned} tokens with a "
        f"key of {race.task.digits} digits anywhere; {config.vocab_size} words and digits are "
        "tokens. As all of these rows are as long, the question and the answer stand at the same "
        "places in all of them, and in rows of another length at places where they never stood: "
        "what is found there takes that, too. "
        f"Tested at {lengths} tokens and {len(DEPTHS)} depths, {race.rows} trials each, "
        f"where the paper has 10 trials and tells no lengths; {told_rates(race)}, by the score "
        "that is compared."
    )


PASSKEY = replace(
    race_study(
        RACES,
        name="passkey",
        claim="Temperatures of queries and values let a model find a number in a long text more "
        "often.",
        source="arXiv 2411.12892, section 5.2",
        published=f"Pythia-160M, fine-tuned: {PLAIN:.1%} to {SELECTIVE:.1%}",
        measure="Share of the rows in which all tokens of the key are right, mean over lengths and "
        "depths; differences are paired by seed, in points.",
        claims=CLAIMS,
        differs={size: _differs(size) for size in RACES},
        figures=_figures,
    ),
    seeds={"small": 3, "paper": 10},
    tables=lambda results: [_table(results)],
)
