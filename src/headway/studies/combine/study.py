"""The study `combine`: which mechanisms are worth having together?

A fractional factorial screens the parts at equal operations; what it chooses is confirmed on fresh
seeds, whole and less each of its parts, each arm at its own learning rate. The claims are on what
it chose, and on what `HeadwayConfig.recommended` has: of these, what gets to plain's loss soonest.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from headway.report import words
from headway.studies.claims import NOT_TESTED, Claim, Results, Study
from headway.studies.combine.found import (
    IN_CONTEXT,
    effects_on,
    left_of,
    less_plain,
    step_ratio,
    tokens_needed,
)
from headway.studies.combine.parts import (
    ARMS,
    CHOSEN_PARTS,
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
from headway.studies.combine.runs import perform, runs
from headway.studies.combine.table import arm_table, losses_and_effects, pair_table, part_table
from headway.studies.criteria import Criterion, Estimate, at_most, beyond_zero
from headway.studies.language_models.claims import LOWER, MATTERS, OURS, SEEDS, compare
from headway.studies.language_models.course import HEEDS
from headway.studies.language_models.rates import best_rate

CHOSEN, RECOMMENDED = map(name_of, (CHOSEN_PARTS, RECOMMENDED_PARTS))
ASKED = "2026-11-30"
DESIGNED = tuple(map(name_of, DESIGN.runs))


def _effect(part: str, results: Results) -> Estimate | None:
    return effects_on(results, "loss").get(part)


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


def _ours(arm: str, asked: str, sentence: str, told: str, criterion: Criterion, shown: str,
          differs: str, estimate: partial[Estimate | None], *arms: str) -> Claim:  # fmt: skip
    return Claim(
        claim=sentence,
        source=OURS,
        published=None,
        told=told,
        shown=shown,
        criterion=criterion,
        arms=(arm, *arms),
        estimate=estimate,
        sizes=("paper",),
        seeds=SEEDS,
        differs=differs,
        asked=asked,
    )


SHORTER = "The shorter run has a whole schedule of its own and the learning rate of the whole run."


def _targets(arm: str, differs: str = "", asked: str = "") -> tuple[Claim, ...]:
    """Plain's loss with so many of its tokens, the tokens for it, and the time of a step."""
    return (
        _ours(arm, asked, f"With {TOKENS:g} of the tokens, {arm} ends with plain's loss or less "
              "(nats, less plain's with all)", f"target: {TOKENS:g} of the tokens", at_most(0),
              "+.4f", f"{SHORTER}{differs}", partial(less_plain, "loss", arm, TOKENS), PLAIN),
        _ours(arm, asked, f"The share of its tokens with which {arm} gets to plain's final loss",
              f"target: {TOKENS:g}", at_most(TOKENS), ".2f", "Straight lines between runs "
              f"with {', '.join(f'{share:g}' for share in SHARES)} and all of the tokens; the "
              f"least stands for any smaller one, infinity for more than all.{differs}",
              partial(tokens_needed, arm), PLAIN),
        _ours(arm, asked, f"A training step of {arm} takes little longer (median over plain's, "
              "in turn)", f"target: {STEP:g}", at_most(STEP), ".4f", "Seeds are processes; "
              f"the interval is over the rounds of all.{differs}", partial(step_ratio, arm)),
    )  # fmt: skip


MORE = beyond_zero(-MATTERS)
"""Of a difference of in-context gains, which are losses less other losses."""


def _in_context(arm: str, share: float | None) -> Claim:
    """Whether an arm with a share of its tokens, or all, is better in context too."""
    start = "" if share is None else f"With {share:g} of the tokens "
    made = _ours(arm, ASKED, f"{start}{arm} gains more from its context than plain with all of "
                 "them (loss around token 50 less that late in the context, nats, less plain's)",
                 NOT_TESTED, MORE, "+.4f", "" if share is None else SHORTER,
                 partial(less_plain, IN_CONTEXT, arm, share), PLAIN)  # fmt: skip
    return replace(made, caveat=partial(_beside, arm, share))


def _beside(arm: str, share: float | None, results: Results, _: Estimate | None) -> str:
    """The difference in loss: what is learned early in the context leaves less to gain later."""
    loss = less_plain("loss", arm, share, results)
    if loss is None:
        return ""
    return f"Its loss, less plain's: {loss.value:+.4f} {words.interval(loss.low, loss.high)}."


PICKED = " Picked before the other arm that was run with fewer tokens by these very runs."

CLAIMS = (
    *map(_effect_claim, DESIGN.factors),
    compare(f"On fresh seeds {CHOSEN} has the lower loss (nats, less plain's)", OURS, None, LOWER,
            CHOSEN, PLAIN, told=NOT_TESTED),
    *_targets(CHOSEN),
    *(
        compare(f"{out.capitalize()} is needed beside the others: {CHOSEN} has a lower loss with "
                "it (nats, less that without)", OURS, None, LOWER, CHOSEN, name_of(left),
                told=NOT_TESTED)
        for out, left in without(CHOSEN_PARTS).items() if left
    ),
    *_targets(RECOMMENDED, PICKED, ASKED),
    *(_in_context(arm, None) for arm in (CHOSEN, *left_of(CHOSEN_PARTS))),
    *(_in_context(arm, TOKENS) for arm in (CHOSEN, RECOMMENDED)),
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
    f"{' and '.join(f'{share:g}' for share in SHARES)} of the tokens, and less each of its parts, "
    "the best of these with fewer tokens too.",
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
