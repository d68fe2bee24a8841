"""The study `value-stream-lm`: does a residual stream of values make a better language model?

The small language model of arXiv 2412.15113, and indirect-object identification with every
checkpoint in its own forward pass. The released script loads both arms into the model with the
stream, weights that were trained without it too; what that measures is measured as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

import torch

from headway.decoder import HeadwayForCausalLM
from headway.mechanisms import ResidualStream
from headway.report.cells import Table
from headway.report.figures import CurveText
from headway.report.marks import Mark
from headway.studies.claims import NOT_TESTED, Claim, Measures, Results, Run, Size, Study
from headway.studies.criteria import Estimate, beyond_zero, difference, no_difference
from headway.studies.estimates import mean_of, paired
from headway.studies.language_models.claims import (
    LOSS,
    LOWER,
    MATTERS,
    OURS,
    SEEDS,
    Part,
    adds,
    compare,
)
from headway.studies.language_models.course import (
    DIGITS,
    HEEDS,
    Arm,
    Course,
    Extent,
    Shape,
    performing,
)
from headway.studies.language_models.marks import losses_and_marks, mean_cells
from headway.studies.language_models.names import PROMPTS, names_measured
from headway.studies.language_models.rates import Rates, best_rate, measured

ARMS = {
    "plain": Arm(about="no stream"),
    "previous": Arm(about="V_n + V_(n-1), as published", mechanisms=(ResidualStream(),)),
    "previous-scaled": Arm(
        about="(V_n + V_(n-1)) / sqrt 2, whose variance at the start is that of V_n",
        mechanisms=(ResidualStream(scale=0.5**0.5),),
    ),
    "first": Arm(about="V_n + V_1", mechanisms=(ResidualStream(source="first"),)),
    "first-half": Arm(
        about="(V_n + V_1) / 2, ResFormer", mechanisms=(ResidualStream(source="first", scale=0.5),)
    ),
    "first-learned": Arm(
        about="a V_n + b V_1, learned in each layer from (1, 1)",
        mechanisms=(ResidualStream(source="first", scale="layer"),),
    ),
}
CROSSED = {"plain": "previous", "previous": "plain"}
"""Arms whose weights are evaluated in the forward pass of another one, too."""

GPT2_LIKE = {
    "hidden_act": "gelu",
    "norm": "layer",
    "position": "learned",
    "attention_bias": True,
    "attention_multiplier": 1.0,
}
"""The released model: no 1 / sqrt d on the scores."""

EXTENTS: Mapping[Size, Extent] = {
    "small": Extent(
        shapes=(Shape(layers=3, width=64, heads=4, kv_heads=4),),
        fields=GPT2_LIKE,
        context=64,
        vocab_size=3072,
        max_characters=4_000_000,
        batch_size=8,
        steps=200,
        held_tokens=32_768,
        rates=Rates(first=(4e-3, 8e-3), most=4),
    ),
    "paper": Extent(
        shapes=(Shape(layers=8, width=256, heads=16, kv_heads=16),),
        fields=GPT2_LIKE,
        context=256,
        vocab_size=8192,
        max_characters=100_000_000,
        batch_size=64,
        steps=3_000,
        held_tokens=1_048_576,
        rates=Rates(first=(1e-3, 2e-3, 4e-3), most=6),
    ),
}


def look(course: Course, model: HeadwayForCausalLM, run: Run) -> Measures:
    """Names in a model's own forward pass and, for two arms, loss and names in the other one's."""
    found = {"names": names_measured(course, model)}
    if run.arm in CROSSED:
        other = crossed(course, model, run)
        found["crossed"] = {
            "loss": round(course.loss(other, run), DIGITS),
            "names": names_measured(course, other),
        }
    return found


def crossed(course: Course, model: HeadwayForCausalLM, run: Run) -> HeadwayForCausalLM:
    """The weights of a model in the forward pass of the arm that it is crossed with."""
    other = HeadwayForCausalLM(course.config(course.arms[CROSSED[run.arm]]))
    other.load_state_dict(model.state_dict())
    torch.nn.Module.to(other, course.device)
    return other


NAMES_OWN: Part = ("names", "all")
NAMES_CROSSED: Part = ("crossed", *NAMES_OWN)
LOSS_CROSSED: Part = ("crossed", *LOSS)
Side = tuple[str, Part]
"""An arm, and what is measured of it: in its own forward pass or in the other one's."""
PAPER = "arXiv 2412.15113"
CODE = f"code of {PAPER}"
RESFORMER = "arXiv 2410.17897, second-hand"
RAISED = 0.41 - 0.07
RAISED_TOLD = "+0.34 (7 % to 41 %)"
CHANCE = 0.5
"""That the indirect object is the likelier name by a guess between the two."""
ABOVE_CHANCE = replace(
    difference(RAISED),
    words=f"{difference(RAISED).words}; not testable where neither side does the task, which is to "
    "give the indirect object more probability than the subject in more than "
    f"{CHANCE:.0%} of the prompts, with the interval of that share",
)
TINY_STORIES = "hf:roneneldan/TinyStories"
"""The paper's text, as `--text` names it."""
RESFORMER_GAIN = 2.712 - 2.739
LEARNED_GAIN = 3.3065 - 3.3151

NAMES = CurveText(
    "names",
    "The right name, in a model's own forward pass and in the other one's",
    "One mark a seed. The released script measures models without the stream in the pass with it: "
    "how far such a mark lies below the diagonal is what that takes from them.",
    "probability of the right name, own pass",
    "the other arm's pass",
)


def _marks(results: Results, arm: str) -> Iterator[Mark]:
    own, other = (measured(results, arm, *part, "right") for part in (NAMES_OWN, NAMES_CROSSED))
    for seed in sorted(own.keys() & other.keys()):
        yield own[seed], other[seed], f"{own[seed]:.4f}, in the other pass {other[seed]:.4f}"


PREFERRED = "preferred"
SCORES = {
    "right": ("right name", ".4f"),
    "wrong": ("other name", ".4f"),
    PREFERRED: ("right one likelier", ".1%"),
    "accuracy": ("right one likeliest of all tokens", ".1%"),
}
"""Of names, as the table heads them, with their formats."""


def name_tables(results: Results) -> list[Table]:
    """What models say of names: one row an arm and forward pass; none without prompts."""
    passes = [(arm, arm, NAMES_OWN, LOSS) for arm in ARMS]
    passes += [(arm, other, NAMES_CROSSED, LOSS_CROSSED) for arm, other in CROSSED.items()]
    rows = []
    for arm, other, names, loss in passes:
        scores = [
            (measured(results, arm, *names, score), shown) for score, (_, shown) in SCORES.items()
        ]
        if scores[0][0]:
            cells = mean_cells(*scores, (measured(results, arm, *loss), ".4f"))
            rows.append((arm, other, *cells))
    heads = [head for head, _ in SCORES.values()]
    title = "Names and loss, in a model's own forward pass and in the other one's: means over seeds"
    columns = ("weights of", "forward pass of", "seeds", *heads, "loss")
    return [Table(title, columns, tuple(rows))] if rows else []


def _harm(results: Results) -> Estimate | None:
    """How much more the loss of plain weights is in the model with the stream."""
    return paired(measured(results, "plain", *LOSS_CROSSED), measured(results, "plain", *LOSS))


def _preferred(side: Side, results: Results) -> Estimate | None:
    """Share of the prompts in which the indirect object is the likelier of the two names."""
    arm, part = side
    return mean_of(measured(results, arm, *part, PREFERRED), bounds=(0, 1))


def _apart(sides: Sequence[Side], results: Results) -> Estimate | None:
    """How much likelier the right name is on the first side."""
    ours, theirs = (measured(results, arm, *part, "right") for arm, part in sides)
    return paired(ours, theirs, bounds=(-1, 1))


def _raised(sides: Sequence[Side], results: Results) -> Estimate | None:
    """The same; None where neither side does the task."""
    preferred = [_preferred(side, results) for side in sides]
    if not any(found is not None and found.low > CHANCE for found in preferred):
        return None
    return _apart(sides, results)


def _called(side: Side) -> str:
    arm, part = side
    return f"{arm}{' in the other pass' if part == NAMES_CROSSED else ''}"


def _told_names(sides: Sequence[Side], results: Results, ours: Estimate | None) -> str:
    """What a figure of names rests on, in sentences: what decides whether a side does the task,
    what each says of names and, where there is no figure, how far they are apart all the same."""
    told = (
        _told_preferred(sides, results),
        _told_scores(sides, results),
        _told_apart(sides, results) if ours is None else "",
    )
    return " ".join(filter(None, told))


def _told_preferred(sides: Sequence[Side], results: Results) -> str:
    told = [
        f"{_called(side)} {found.told('.0%')}"
        for side in sides
        if (found := _preferred(side, results)) is not None
    ]
    likelier = "Prompts in which the indirect object is the likelier name"
    return f"{likelier}: {', '.join(told)}." if told else ""


def _told_scores(sides: Sequence[Side], results: Results) -> str:
    """Means over seeds of what stands beside that share."""
    told = []
    for side in sides:
        arm, part = side
        scores = [
            f"{head} {fmean(found.values()):{shown}}"
            for name, (head, shown) in SCORES.items()
            if name != PREFERRED and (found := measured(results, arm, *part, name))
        ]
        if scores:
            told.append(f"{_called(side)}: {', '.join(scores)}")
    return f"Means over seeds, {'; '.join(told)}." if told else ""


def _told_apart(sides: Sequence[Side], results: Results) -> str:
    if (found := _apart(sides, results)) is None:
        return ""
    return f"Right name, {' less '.join(map(_called, sides))}: {found.told('+.4f')}."


def _names(
    sentence: str, source: str, told: str, ours: Side, theirs: Side, differs: str = ""
) -> Claim:
    """A claim that the right name is likelier on a side than on another."""
    sides = (ours, theirs)
    return Claim(
        claim=sentence,
        source=source,
        published=RAISED,
        told=told,
        shown="+.3f",
        criterion=ABOVE_CHANCE,
        arms=tuple(dict.fromkeys(arm for arm, _ in sides)),
        estimate=partial(_raised, sides),
        sizes=("paper",),
        seeds=SEEDS,
        differs=differs,
        caveat=partial(_told_names, sides),
    )


OF_LAYERS = "As it is told second-hand, the source there was one layer for all that follow."
ASKED = "2026-11-30"

CLAIMS = (
    _names("The value stream identifies indirect objects (probability of the right name, less "
           "plain's)", f"{PAPER}, small language model", RAISED_TOLD, ("previous", NAMES_OWN),
           ("plain", NAMES_OWN), "Each checkpoint in its own forward pass, without dropout; there "
           "both in the model with the stream, dropout on, 8 prompts."),
    _names("As the released script measures it: the same, less weights trained without the stream "
           "in the model with it", CODE, RAISED_TOLD, ("previous", NAMES_OWN),
           ("plain", NAMES_CROSSED), "Plain weights are loaded into the model with the stream, as "
           "there; no dropout."),
    _names("The script's defect makes the difference: plain's probability of the right name in "
           "its own forward pass, less that in the other", OURS, "all of +0.34",
           ("plain", NAMES_OWN), ("plain", NAMES_CROSSED)),
    Claim(
        claim="The script's defect harms the model that it measures: loss of weights trained "
        "without the stream in the model with it (nats, less that in their own)",
        source=OURS,
        published=None,
        told=NOT_TESTED,
        shown="+.4f",
        criterion=beyond_zero(-MATTERS),
        arms=("plain",),
        estimate=_harm,
        sizes=("paper",),
        seeds=SEEDS,
        asked=ASKED,
    ),
    compare("The value stream lowers the loss (nats, less plain's)", PAPER, None, LOWER,
            "previous", "plain", told="not told; better at 1B"),
    compare("The stream is not only larger values: scaled to the variance of plain ones it does as "
            "well (nats, less the stream's)", OURS, None, no_difference(0.01), "previous-scaled",
            "previous", told=NOT_TESTED),
    compare("Values of the first layer, halves of both, lower the loss (nats, less plain's)",
            RESFORMER, RESFORMER_GAIN, difference(RESFORMER_GAIN), "first-half", "plain",
            told="-0.027 (2.739 to 2.712)", differs="There 82M parameters and 20B tokens."),
    compare("Values of the previous layer give nothing notable (nats, less plain's)", RESFORMER,
            0.0, no_difference(0.01), "previous", "plain", told="nothing notable",
            differs=OF_LAYERS),
    compare("The first layer is the better source (nats, V_n + V_1 less V_n + V_(n-1))", RESFORMER,
            None, LOWER, "first", "previous", told="lower", differs=OF_LAYERS),
    compare("Learned weights are better than halves (nats, less those of halves)",
            "modded-nanogpt, record 9, single runs", LEARNED_GAIN, difference(LEARNED_GAIN),
            "first-learned", "first-half", told="-0.0086 (3.3151 to 3.3065)",
            differs="There weights start at a half, here at (1, 1), which sets the two apart too."),
    compare("Learned weights are better than the fixed ones that they start from (nats, less V_n + "
            "V_1)", OURS, None, LOWER, "first-learned", "first", told=NOT_TESTED, asked=ASKED),
    compare("Values of the first layer lower the loss (nats, V_n + V_1 less plain's)", OURS, None,
            LOWER, "first", "plain", told=NOT_TESTED, asked=ASKED),
    compare("Values of the first layer lower the loss, both weights learned (nats, less plain's)",
            OURS, None, LOWER, "first-learned", "plain", told=NOT_TESTED, asked=ASKED),
    adds("The value stream adds no parameters: how many more are learned", CODE, 0, "previous",
         "plain"),
)  # fmt: skip

VALUE_STREAM_LM = Study(
    name="value-stream-lm",
    claim="A residual stream of values makes a small language model identify indirect objects.",
    source=f"{PAPER}, small language model, and released code; arXiv 2410.17897",
    published="probability of the right name 7 % to 41 %; no losses are given",
    arms={name: arm.about for name, arm in ARMS.items()},
    measure=f"Loss on held-out text in nats per token, and on {PROMPTS} prompts with two names the "
    "probability of the right one at the end; paired by seed, each arm at the learning rate that "
    "is best for its loss. Two arms are evaluated in each other's forward pass too.",
    claims=CLAIMS,
    seeds={"small": 3, "paper": 3},
    differs={
        size: "Published: 8 layers of width 256 on TinyStories, 99,300 steps of 64 stories, a "
        "constant rate of 1e-3, dropout 0.1. Ours is the same model without dropout and without "
        "biases in the perceptrons, on the text that --text names (TinyStories itself is "
        f"{TINY_STORIES}, where there is a hub to have it from), with names that stand in it as "
        "one token. "
        f"{extent.told}"
        for size, extent in EXTENTS.items()
    },
    heeds=HEEDS,
    runs=lambda settings, results: EXTENTS[settings.size].rates.runs(
        {name: arm.at for name, arm in ARMS.items()}, settings, results
    ),
    perform=lambda runs, settings: performing(ARMS, EXTENTS, look)(runs, settings),
    figures=partial(losses_and_marks, tuple(ARMS), NAMES, _marks),
    tables=name_tables,
    rate=best_rate,
)
