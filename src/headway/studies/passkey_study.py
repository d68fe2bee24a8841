"""The study `passkey`: do temperatures help to find a number in a long text?

Section 5.2 of arXiv 2411.12892 with models that learn the task from nothing, where the paper
fine-tunes Pythia: rows of one length in training, shorter and longer ones in tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from headway.decoder import HeadwayConfig
from headway.mechanisms import SelectiveAttention
from headway.report.curves import OVER_SEEDS, bands
from headway.report.figures import CurveText, Figure, curve_figure, tick_axis
from headway.studies.claims import NOT_TESTED, Claim, Results, Size
from headway.studies.courses import Course, Scores, seed_of
from headway.studies.criteria import Criterion, Estimate, beyond_zero, difference
from headway.studies.estimates import paired
from headway.studies.race_caveat import rates_apart
from headway.studies.token_races import LOOKED_AT, TokenArm, TokenRace, race_study, told_rates
from headway.studies.tuning import Points, Tuning, score_points, scores_of
from headway.tasks.base import IGNORED
from headway.tasks.passkey import Passkey
from headway.tasks.words import Words
from headway.training.ensemble import Call, Ensemble

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""At which keys stand in tests."""
ALL = "all"
"""The score that is raced: over all lengths and depths."""


def cell(length: int, depth: float | None = None) -> str:
    """The name of the score at a length, at a depth or over all."""
    return f"length_{length}" if depth is None else f"length_{length}_depth_{depth:g}"


@dataclass(frozen=True, kw_only=True)
class PasskeyRace(TokenRace):
    """Rows with a key, judged as a whole: all of the key's tokens are right or it is not found.

    `rows` counts the trials at each length and depth.

    Attributes:
        lengths: of the rows that are tested.
    """

    lengths: tuple[int, ...]

    @property
    def learned(self) -> int:
        """Tokens of a row in training."""
        assert isinstance(self.task, Passkey)
        return self.task.length

    def cells(self) -> list[tuple[int, float]]:
        """Lengths and depths that are tested."""
        return [(length, depth) for length in self.lengths for depth in DEPTHS]

    def tests(self, ensemble: Ensemble, seeds: Sequence[int], device: str) -> Scores:
        """Gives the share of keys that each copy finds in the rows of its seed."""
        assert isinstance(self.task, Passkey)
        different = list(dict.fromkeys(seeds))
        of_copy = torch.tensor([different.index(seed) for seed in seeds], device=device)
        drawing = [torch.Generator(device).manual_seed(seed_of("tests", s)) for s in different]
        tests: dict[tuple[int, float], dict[str, Tensor]] = {}
        for length, depth in self.cells():
            task = replace(self.task, length=length, depth=depth)
            drawn = [task.sample(self.rows, generator) for generator in drawing]
            tests[length, depth] = {
                "inputs": torch.stack([s.inputs for s in drawn]),
                "targets": torch.stack([s.targets for s in drawn]),
            }
        judge = replace(ensemble, loss=_found)

        def share(length: int, depth: float) -> Tensor:
            test = tests[length, depth]
            # As many tokens at once at every length.
            at_once = max(1, LOOKED_AT * self.batch * self.learned // length)
            parts = zip(*(test[n].split(at_once, 1) for n in ("inputs", "targets")), strict=True)
            found = [judge.losses({"inputs": i[of_copy], "targets": t[of_copy]}) for i, t in parts]
            return torch.stack(found).sum(0) / self.rows

        def score() -> dict[str, Tensor]:
            at = {cell(*place): share(*place) for place in self.cells()}
            over = {
                cell(length): torch.stack([at[cell(length, depth)] for depth in DEPTHS]).mean(0)
                for length in self.lengths
            }
            return {ALL: torch.stack(list(over.values())).mean(0)} | over | at

        return score


def _found(call: Call, batch: Mapping[str, Tensor]) -> Tensor:
    """How many keys are found."""
    targets = batch["targets"]
    right = call(batch["inputs"], use_cache=False).logits.argmax(-1) == targets
    found: Tensor = (right | (targets == IGNORED)).all(-1).sum()
    return found


def known_words() -> Words:
    """Words that hold all of a prompt, and no more: none is added whatever is drawn."""
    words = Words()
    length = 512  # long enough for all sentences of the filler
    Passkey(encode=words, length=length).sample(1, torch.Generator().manual_seed(0))
    for digit in range(10):
        words(f" {digit}{digit}")
    words.vocab_size = len(words.tokens)
    return words


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


LEARNED, BEYOND = "learned", "beyond"
"""Parts of the lengths besides all of them."""


def _found_in(results: Results, arm: str, part: str) -> dict[int, float]:
    """The mean share of keys found by seed, over the lengths of a part."""
    race = RACES[results.size]
    lengths = [n for n in race.lengths if part == ALL or (n <= race.learned) == (part == LEARNED)]
    of_length = [scores_of(results, arm, cell(n)) for n in lengths]
    return {seed: fmean(scores[seed] for scores in of_length) for seed in of_length[0]}


def _gain(arm: str, base: str, part: str, results: Results) -> Estimate | None:
    ours, theirs = (_found_in(results, name, part) for name in (arm, base))
    return paired(ours, theirs, bounds=(-1, 1))


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
        seeds=3,
        caveat=lambda results, _: rates_apart((arm, base), results),
        asked=asked,
    )


ASKED = "2026-11-30"
MORE = beyond_zero(0.02, ".0%")
"""Two points would matter, about a tenth of the published gain."""
CLAIMS = (
    _claim("With temperatures of queries and values more keys are found, over all lengths and "
           "depths", "both", "plain", difference(SELECTIVE - PLAIN),
           told=f"{SELECTIVE - PLAIN:+.1%} ({PLAIN:.1%} to {SELECTIVE:.1%})"),
    _claim("The same in rows no longer than in training", "both", "plain", MORE, LEARNED),
    _claim("The same in longer rows", "both", "plain", MORE, BEYOND),
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
        f"tokens. Tested at {lengths} tokens and {len(DEPTHS)} depths, {race.rows} trials each, "
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
)
