"""The study `combine`: which mechanisms are worth having together?

A fractional factorial screens the parts at equal operations; what it chooses is confirmed on fresh
seeds, whole and less each of its parts, each arm at its own learning rate. The claims are on the
parts of `HeadwayConfig.recommended`.
"""

from __future__ import annotations

from functools import partial

from headway.studies.claims import NOT_TESTED, Claim, Results, Study
from headway.studies.combine_found import (
    chosen_parts,
    effects_on,
    loss_gap,
    step_ratio,
    tokens_needed,
)
from headway.studies.combine_parts import (
    ARMS,
    CONFIRMING,
    DESIGN,
    PARTS,
    PLAIN,
    RECOMMENDED_PARTS,
    SCREENED_SEEDS,
    SCREENING,
    SHARES,
    STEP,
    TOKENS,
    name_of,
    without,
)
from headway.studies.combine_runs import perform, runs
from headway.studies.combine_table import arm_table, losses_and_effects, pair_table, part_table
from headway.studies.criteria import Criterion, Estimate, at_most, within
from headway.studies.estimates import exact
from headway.studies.lm_claims import LOWER, OURS, SEEDS, compare
from headway.studies.lm_course import HEEDS
from headway.studies.lm_rates import best_rate

CHOSEN = name_of(RECOMMENDED_PARTS)
DESIGNED = tuple(map(name_of, DESIGN.runs))


def _effect(part: str, results: Results) -> Estimate | None:
    return effects_on(results, "loss").get(part)


def _apart(results: Results) -> Estimate | None:
    """How many parts are recommended and not chosen by the screening, or the other way round."""
    if not effects_on(results, "loss"):
        return None
    return exact(len(set(chosen_parts(results)) ^ set(RECOMMENDED_PARTS)))


def _effect_claim(name: str) -> Claim:
    part = PARTS[name]
    return Claim(
        claim=f"{name.capitalize()}, {part.about}, lowers the loss (nats, mean of the "
        f"{len(DESIGN.runs)} models of the screening with it less mean without)",
        source=part.source,
        published=part.published,
        told=part.told,
        shown="+.4f",
        criterion=LOWER,
        arms=DESIGNED,
        estimate=partial(_effect, name),
        sizes=("paper",),
        seeds=SEEDS,
        differs="Among the other parts, at equal operations and one learning rate for all; the "
        "interval is that of least squares, in which interactions count as noise.",
    )


def _target(sentence: str, told: str, criterion: Criterion, shown: str, seeds: int, differs: str,
            estimate: partial[Estimate | None], *arms: str) -> Claim:  # fmt: skip
    return Claim(
        claim=sentence,
        source=OURS,
        published=None,
        told=told,
        shown=shown,
        criterion=criterion,
        arms=(CHOSEN, *arms),
        estimate=estimate,
        sizes=("paper",),
        seeds=seeds,
        differs=differs,
    )


TARGETS = (
    _target(f"With {TOKENS:g} of the tokens, {CHOSEN} ends with plain's loss or less (nats, less "
            "plain's with all)", f"target: {TOKENS:g} of the tokens", at_most(0), "+.4f", SEEDS,
            "The shorter run has a whole schedule of its own and the learning rate of the whole "
            "run.", partial(loss_gap, CHOSEN, TOKENS), PLAIN),
    _target(f"The share of its tokens with which {CHOSEN} gets to plain's final loss",
            f"target: {TOKENS:g}", at_most(TOKENS), ".2f", SEEDS, "Straight lines between runs "
            f"with {', '.join(f'{share:g}' for share in SHARES)} and all of the tokens; the least "
            "stands for any smaller one, infinity for more than all.",
            partial(tokens_needed, CHOSEN), PLAIN),
    _target(f"A training step of {CHOSEN} takes little longer (median over plain's, in turn)",
            f"target: {STEP:g}", at_most(STEP), ".4f", 1, "Seeds are processes; the "
            "interval is over the rounds of all.", partial(step_ratio, CHOSEN)),
)  # fmt: skip

CLAIMS = (
    *map(_effect_claim, DESIGN.factors),
    Claim(
        claim="The screening chooses what HeadwayConfig.recommended has: parts in which they "
        "differ",
        source=OURS,
        published=0,
        shown=".0f",
        criterion=within(0, 0),
        arms=DESIGNED,
        estimate=_apart,
        sizes=("paper",),
    ),
    compare(f"On fresh seeds {CHOSEN} has the lower loss (nats, less plain's)", OURS, None, LOWER,
            CHOSEN, PLAIN, told=NOT_TESTED),
    *TARGETS,
    *(
        compare(f"{out.capitalize()} is needed beside the others: {CHOSEN} has a lower loss with "
                "it (nats, less that without)", OURS, None, LOWER, CHOSEN, name_of(left),
                told=NOT_TESTED)
        for out, left in without(RECOMMENDED_PARTS).items() if left
    ),
)  # fmt: skip

COMBINE = Study(
    name="combine",
    claim="Some of the mechanisms are worth having together: they reach a plain model's loss with "
    "a quarter fewer tokens at nearly its step time.",
    source="five papers and rivals, each mechanism's own source beside it",
    published="each mechanism alone, beside a plain model of its own; together: not tested",
    arms={name: arm.about for name, arm in ARMS.items()},
    measure="Loss on held-out text in nats per token. Screening: main effects in a design of "
    f"{len(DESIGN.runs)} models of resolution {DESIGN.resolution} (the same in all runs: "
    f"{', '.join(' x '.join(word) for word in DESIGN.defining)}). Confirmation: fresh seeds "
    "paired, each model at the learning rate that is best for it; what is chosen also with "
    f"{' and '.join(f'{share:g}' for share in SHARES)} of the tokens, and less each of its parts.",
    claims=CLAIMS,
    seeds={"small": 2, "paper": 3},
    differs={
        size: f"Screening, {SCREENED_SEEDS[size]} seed(s): {SCREENING[size].told} It is judged on "
        "the validation split, and models that need more operations take fewer steps. "
        f"Confirmation: {CONFIRMING[size].told}"
        for size in SCREENING
    },
    heeds=HEEDS,
    runs=runs,
    perform=perform,
    figures=losses_and_effects,
    tables=lambda results: (part_table(results), pair_table(results), arm_table(results)),
    rate=best_rate,
)
