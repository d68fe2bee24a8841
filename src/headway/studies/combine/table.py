"""Tables and figures of `combine`: what each part does, what the chosen ones give and cost."""

from __future__ import annotations

import math
from statistics import fmean

from headway.report import words
from headway.report.cells import Table
from headway.report.figures import CurveText, Figure
from headway.report.marks import interval_figure
from headway.report.statistics import PairedDifference, mean_or_none, paired_difference
from headway.report.tables import escaped, markdown_table
from headway.studies.claims import Results
from headway.studies.combine.found import (
    IN_CONTEXT,
    chosen_parts,
    effects_on,
    pairs_on,
    soonest,
    step_median,
    step_ratio,
    time_needed,
    tokens_needed,
    tokens_share,
)
from headway.studies.combine.parts import (
    ARMS,
    PARTS,
    PLAIN,
    SHARES,
    STEP,
    TOKENS,
    name_of,
    without,
)
from headway.studies.criteria import Estimate
from headway.studies.language_models.claims import SEEDS
from headway.studies.language_models.rates import best_rate, loss_figures, measured

READING_PARTS = (
    "Main effects in the screening, at equal operations: the mean of all runs with a part less "
    "that of all runs without it. Loss in nats per token; chosen are parts that lower it with "
    "their whole 95 % interval."
)
READING_PAIRS = (
    "Pairs of parts in the same runs: the mean loss of models with both or neither, less that of "
    "models with one of the two. Above zero, the two together give less than the sum of their "
    "effects; below zero, more. Pairs of one row cannot be told apart. The intervals above count "
    "these as noise."
)
READING_ARMS = (
    "Fresh seeds, each model at its own learning rate. Loss in nats per token, its differences "
    "paired by seed. Tokens: the share of plain's with which a model gets to plain's final loss, "
    "each share a run with a whole schedule. Step time: median over plain's of steps in turn. "
    "In-context gain, repeat accuracy and prefix score as headway compare has them: the first is "
    "the loss around token 50 less that late in the context, more is better, and its differences "
    "are as those of the loss."
)
EFFECTS = CurveText(
    "effects",
    "What each part does",
    "Main effects in the screening, at equal operations: the mean loss of all models with a part "
    "less that of all without it, with its 95 % interval. Left of the zero line it helps.",
    "nats per token",
    "part",
)


def part_table(results: Results) -> Table:
    """One row a part, once the screening is done."""
    on = {
        name: effects_on(results, name)
        for name in ("loss", IN_CONTEXT, "repeat_accuracy", "operations", "parameters")
    }
    chosen = chosen_parts(results)
    return Table(
        title="What each part does",
        columns=(
            "part", "what it is", "loss [95 % interval]", "in-context gain", "repeat accuracy",
            "operations", "parameters", "chosen",
        ),
        rows=tuple(
            (
                part,
                PARTS[part].about,
                _effect(effect),
                _effect(on[IN_CONTEXT].get(part)),
                _effect(on["repeat_accuracy"].get(part)),
                words.percent(round(on["operations"][part].value, 4)),
                words.count(on["parameters"][part].value),
                "yes" if part in chosen else "no",
            )
            for part, effect in on["loss"].items()
        ),
    )  # fmt: skip


def pair_table(results: Results) -> Table:
    """One row for pairs of parts that the screening cannot tell apart, the largest first."""
    return Table(
        title="What pairs of parts do beyond that",
        columns=("pairs", "loss"),
        rows=tuple(
            (", or ".join(" with ".join(pair) for pair in pairs), words.signed(found))
            for pairs, found in pairs_on(results, "loss").items()
        ),
    )


def arm_table(results: Results) -> Table:
    """Plain, the chosen parts, and these less each of them, where they were run."""
    chosen = chosen_parts(results)
    rows = {PLAIN: PLAIN}
    if chosen:
        rows |= {name_of(chosen): name_of(chosen)}
        rows |= {f"less {part}": name_of(left) for part, left in without(chosen).items() if left}
    there = {told: arm for told, arm in rows.items() if measured(results, arm, "loss")}
    return Table(
        title="What the chosen parts give and cost",
        columns=(
            "model", "seeds", "learning rate", "loss", "less plain's [95 % interval]",
            f"the same, with {TOKENS:g} of the tokens", "tokens to plain's loss",
            "step time (processes)", "time to plain's loss", "parameters", "in-context gain",
            "that gain less plain's [95 % interval]", f"that with {TOKENS:g} of the tokens",
            "repeat accuracy", "prefix score",
        ),
        rows=tuple(_row(told, arm, results) for told, arm in there.items()),
    )  # fmt: skip


def _row(told: str, arm: str, results: Results) -> tuple[str, ...]:
    rate, cost = best_rate(results, arm), step_ratio(arm, results)
    losses, counts = (measured(results, arm, name) for name in ("loss", "parameters"))
    of_plain = arm == PLAIN
    return (
        told,
        str(len(losses)),
        words.MISSING if rate is None else f"{rate:g}",
        words.loss(fmean(losses.values())),
        *_gaps("loss", arm, results),
        words.MISSING if of_plain else _tokens(arm, results),
        words.MISSING if cost is None else _step(cost),
        words.ratio(time_needed(arm, results)),
        words.count(next(iter(counts.values()))),
        words.signed(_mean(arm, IN_CONTEXT, results)),
        *_gaps(IN_CONTEXT, arm, results),
        words.fraction(_mean(arm, "repeat_accuracy", results)),
        words.fraction(_mean(arm, "prefix_score", results)),
    )


def _step(cost: Estimate) -> str:
    """The time of a step, and how many processes measured it."""
    return f"{cost.told('.4f')} ({cost.seeds})"


def _mean(arm: str, name: str, results: Results) -> float | None:
    return mean_or_none(list(measured(results, arm, name).values()))


def _gaps(name: str, arm: str, results: Results) -> tuple[str, str]:
    """A measure of an arm with all tokens and with fewer, less plain's; each with its interval from
    two seeds on."""
    if arm == PLAIN:
        return words.MISSING, words.MISSING
    plain = measured(results, PLAIN, name)
    whole, fewer = (
        paired_difference(measured(results, arm, name, share=share), plain)
        for share in (None, TOKENS)
    )
    return _told(whole), _told(fewer)


def _told(found: PairedDifference) -> str:
    return f"{words.signed(found.mean)} {words.interval(found.low, found.high)}".strip()


def _tokens(arm: str, results: Results) -> str:
    """The share of tokens that an arm needs, as it is told."""
    share, sure = tokens_share(arm, results), tokens_needed(arm, results)
    if share is None:
        return words.MISSING
    if math.isinf(share):
        return "more than all"
    told = f"at most {share:.2f}" if share <= SHARES[0] else f"{share:.2f}"
    if sure is None or sure.low == sure.high:
        return told
    return f"{told} [{sure.low:.2f}, {sure.high:.2f}]"


def _effect(effect: Estimate | None) -> str:
    if effect is None:
        return words.MISSING
    return f"{words.signed(effect.value)} {words.interval(effect.low, effect.high)}"


def conclusion(results: Results) -> str:
    """What came out, in a few sentences."""
    if not effects_on(results, "loss"):
        return "The screening is not done."
    chosen = chosen_parts(results)
    if not chosen:
        return "The screening chooses no part: none lowers the loss with its whole interval."
    arm, best = name_of(chosen), soonest(results)
    said = f"The screening chooses {arm}."
    if best is None:
        return f"{said} It is not confirmed yet."
    needs = "; ".join(_needs(one, results) for one in dict.fromkeys((arm, best)))
    return (
        f"{said} To plain's final loss, {needs}; of what ran with fewer tokens, {best} gets there "
        f"soonest. The target, at most {TOKENS:g} and {STEP:g}, is {_target_met(best, results)}."
    )


def _target_met(arm: str, results: Results) -> str:
    """Whether an arm meets the target, and whether the intervals of tokens and step show it, which
    those of fewer seeds than a verdict needs do not."""
    sides = (tokens_needed(arm, results), TOKENS), (step_ratio(arm, results), STEP)
    there = [(found, limit) for found, limit in sides if found is not None]
    shown = [(found, limit) for found, limit in there if found.seeds >= SEEDS]
    if any(found.low > limit for found, limit in shown):
        return "missed"
    if len(shown) == len(sides) and all(found.high <= limit for found, limit in shown):
        return "met"
    value = len(there) == len(sides) and all(found.value <= limit for found, limit in there)
    return f"{'met' if value else 'missed'} by its values, which the intervals do not show"


def _needs(arm: str, results: Results) -> str:
    """How many tokens, and at which step time."""
    step = step_median(arm, results)
    told = words.MISSING if step is None else f"{step:.4f}"
    return f"{arm} needs {_tokens(arm, results)} of plain's tokens at {told} of its step time"


def markdown(results: Results) -> str:
    """The conclusion and all tables, for documentation."""
    parts = [escaped(conclusion(results)), READING_PARTS, markdown_table(part_table(results)),
             READING_PAIRS, markdown_table(pair_table(results)),
             READING_ARMS, markdown_table(arm_table(results))]  # fmt: skip
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def losses_and_effects(results: Results) -> list[Figure]:
    """Losses, and the effects of parts once a seed of the screening is done."""
    drawn = loss_figures(tuple(ARMS), results)
    effects = effects_on(results, "loss")
    if not effects:
        return drawn
    ends = {part: (found.value, found.low, found.high) for part, found in effects.items()}
    return [*drawn, interval_figure(EFFECTS, ends)]
