"""Claims on layerwise attention shortcuts under one condition, and what their studies say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

from headway.report import words
from headway.studies.claims import NOT_TESTED, Claim, Results, Size
from headway.studies.criteria import Criterion, Estimate, at_least
from headway.studies.estimates import Bounds, mean_of
from headway.studies.language_models.claims import LOWER, OURS, SEEDS, compare
from headway.studies.language_models.rates import measured, not_tried
from headway.studies.shortcuts.arms import (
    ALL,
    OPERATIONS,
    OWN,
    PARAMETERS,
    PLAIN,
    SAME,
    SHORTCUT,
    STATIC,
    Condition,
    taps_of,
)

PAPER = "arXiv 2409.10870"
MAPS = f"{PAPER}, attention maps, second-hand"
ALIKE = 0.05
"""How much larger or dearer an arm can be than another one without a word on it."""
COSTS = {"parameters": "parameters", "operations": "operations a token"}
"""Measures of size, as they are told."""
EVEN = 0.99
"""Share of all layers that are read over which attention spreads before it has learned anything."""
MEASURE = (
    "Loss on held-out tokens in nats, paired by seed, each arm at the learning rate that is best "
    "for it. Of shortcuts over positions, how the last layer's attention lies over layers and "
    "distances, and what the loss is more when one layer is taken out of its softmax."
)


def _lower(
    condition: Condition,
    sentence: str,
    kind: str,
    base: str,
    published: str,
    *,
    differs: str = "",
    asked: str = "",
) -> Claim:
    """A claim that an arm has the lower loss; `published` says where, or that nothing is. One that
    is asked when there are results has no figure of arms that were not tried alike."""
    arm, other = condition.arm(kind), condition.arm(base)
    made = compare(
        f"{condition.name}: {sentence} (nats, less {base}'s)",
        OURS if published == NOT_TESTED else published,
        None,
        LOWER,
        arm,
        other,
        told=NOT_TESTED if published == NOT_TESTED else "lower; no figure could be read",
        differs=differs,
        asked=asked,
    )
    estimate = partial(_if_tried, made) if asked else made.estimate
    return replace(made, estimate=estimate, caveat=partial(_unlike, made))


def _if_tried(made: Claim, results: Results) -> Estimate | None:
    """The figure of a claim on two arms; None where one was not tried at the other's rate."""
    return None if not_tried(made.arms, results) else made.estimate(results)


def _unlike(made: Claim, results: Results, ours: Estimate | None) -> str:
    """Sentences on what the arms of a claim differ in besides what is compared: how their rates
    were tuned, which were tried, and sizes."""
    untried, found = not_tried(made.arms, results), made.estimate(results)
    if untried and ours is None and found is not None:
        untried += f" So nothing follows from {found.told(made.shown)}."
    said = made.caveat(results, ours), untried, unlike_sizes(made.arms, results)
    return " ".join(filter(None, said))


def unlike_sizes(arms: Sequence[str], results: Results) -> str:
    """A sentence on parameters and operations of two arms, where these are not about the same."""
    arm, base = arms
    apart: dict[str, str] = {}
    for name, unit in COSTS.items():
        sizes = [max(measured(results, one, name).values(), default=0) for one in arms]
        if 0 < min(sizes) * (1 + ALIKE) < max(sizes):
            ours, theirs = map(words.count, sizes)
            apart[f"{ours} {unit}"] = theirs
    if not apart:
        return ""
    return f"{arm} has {' and '.join(apart)}, {base} {' and '.join(apart.values())}."


def _of_map(condition: Condition, kind: str, name: str, results: Results) -> Estimate | None:
    """A measure of where attention lies; None where it lies as evenly as before training."""
    [shape] = condition.extents[results.size].shapes
    layers = shape.layers - 1 if kind == ALL else len(taps_of(shape.layers))
    spread = list(measured(results, condition.arm(kind), "effective").values())
    if not spread or fmean(spread) > EVEN * layers:
        return None
    bounds: dict[str, Bounds] = {
        "effective": (1.0, layers),
        "adaptive": (0.0, math.log(layers)),
        "rank_correlation": (-1.0, 1.0),
        "elsewhere": (0.0, 1.0),
    }
    return mean_of(measured(results, condition.arm(kind), name), bounds[name])


def _seen(
    condition: Condition,
    sentence: str,
    kind: str,
    name: str,
    criterion: Criterion,
    told: str,
    shown: str = ".2f",
    asked: str = "",
) -> Claim:
    """A claim on a measure of an arm alone; told as not tested, it is ours."""
    arm = condition.arm(kind)
    return Claim(
        claim=f"{condition.name}: {sentence}",
        source=OURS if told == NOT_TESTED else MAPS,
        published=None,
        told=told,
        shown=shown,
        criterion=criterion,
        arms=(arm,),
        estimate=partial(_of_map, condition, kind, name),
        sizes=("paper",),
        seeds=SEEDS,
        differs="Attention that is as even over layers as before training tells nothing.",
        asked=asked,
    )


def main_claims(condition: Condition) -> tuple[Claim, ...]:
    """Those that are tested wherever shortcuts are."""
    lower, seen = partial(_lower, condition), partial(_seen, condition)
    return (
        lower("the shortcut lowers the loss", SHORTCUT, PLAIN, f"{PAPER}, abstract"),
        lower("it does so at equal parameters", SHORTCUT, PARAMETERS, NOT_TESTED),
        lower("it does so at equal operations", SHORTCUT, OPERATIONS, NOT_TESTED),
        seen("attention spreads over depths: effective number of layers, the exponential of its "
             "entropy", SHORTCUT, "effective", at_least(2), "over several depths"),
        seen("which depth is read varies with the token: nats of the depth that follow from it",
             SHORTCUT, "adaptive", at_least(0.05), "varies with the input", ".3f"),
        seen("the loss follows the attention: rank correlation, over all layers before the last, "
             "of the attention that one has and of the loss without it", ALL, "rank_correlation",
             at_least(0.5), NOT_TESTED),
    )  # fmt: skip


def control_claims(condition: Condition, asked: str = "") -> tuple[Claim, ...]:
    """What of the shortcut does it; `asked` as in a claim."""
    lower = partial(_lower, condition, asked=asked)
    return (
        lower("the shortcut is better than learned weights of the same layers", SHORTCUT, STATIC,
              NOT_TESTED),
        lower("reading earlier positions is better than reading the same one", SHORTCUT, SAME,
              NOT_TESTED),
        lower("it is the earlier layers, not the perceptrons", SHORTCUT, OWN, NOT_TESTED),
        lower("all layers before the last lower the loss", ALL, PLAIN, f"{PAPER}, abstract",
              differs="No plain arm is matched to this one."),
        lower("all layers are better than every other one", ALL, SHORTCUT, NOT_TESTED),
        _seen(condition, "attention is on earlier positions: share of it", SHORTCUT, "elsewhere",
              at_least(0.5), "over positions and depths", asked=asked),
    )  # fmt: skip


def differs(conditions: Sequence[Condition], size: Size) -> str:
    """Where our set-up differs from the published one."""
    told = []
    for condition in conditions:
        extent = condition.extents[size]
        [shape] = extent.shapes
        told.append(
            f"{condition.name}: {shape.layers} layers of width {shape.width}, contexts of "
            f"{extent.context}, "
            f"{extent.steps:,} steps of {extent.batch_size} contexts ({extent.tokens / 1e6:.1f}M "
            "tokens)"
        )
    rates = conditions[0].extents[size].rates
    return (
        "No equation, no figure and of the sizes only the 10 layers could be read: the operation "
        "is our reconstruction, every other layer is read as second-hand sources say, and "
        f"perceptrons are four times as wide as the model. Ours: {'; '.join(told)}. "
        "Warm-up over a tenth and cosine to a tenth, weight decay 0.1, clipping at 1. "
        f"{rates.told}"
    )
