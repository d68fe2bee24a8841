"""Claims of `selective-lm` on how sharp attention is, and on what temperatures follow."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from statistics import fmean

from headway.studies.claims import NOT_TESTED, Claim, Results
from headway.studies.criteria import Criterion, Estimate, at_least, at_most, difference
from headway.studies.estimates import mean_of
from headway.studies.language_models.claims import OURS, SEEDS, compare
from headway.studies.language_models.rates import best_rate, measured
from headway.studies.races.tuning import TEST
from headway.studies.selective.arms import FINE, PAPER

SPIKINESS, NORM, TEMPERED = "spikiness", "operator_norm", "tempered_norm"
MEASURES = {SPIKINESS: "the spikiness", NORM: "the norm", TEMPERED: "tau x the norm"}
SPIKIER = 0.26 - 0.39
WEAK = 0.1
"""The least correlation that counts as one: a weak one by Cohen's convention."""
ASKED = "2026-11-30"
"""The day on which claims were added to results that were there."""
ADDED_LATE = "There temperatures from the first step of training on."


def _norm_ratio(name: str, arm: str, base: str, results: Results) -> Estimate | None:
    """A norm of the base over that of an arm."""
    theirs, ours = (measured(results, one, name) for one in (base, arm))
    shared = sorted(theirs.keys() & ours.keys())
    return mean_of({seed: theirs[seed] / ours[seed] for seed in shared}, bounds=(0, math.inf))


def _mean_correlation(arm: str, target: str, other: str, results: Results) -> Estimate | None:
    return mean_of(measured(results, arm, "temperatures", target, other), bounds=(-1, 1))


def rate_caveat(
    name: str, shown: str, arm: str, base: str, results: Results, _: Estimate | None
) -> str:
    """Sentences on two arms that were run at different learning rates: the rates, and what each
    measured at others that it was run at. Nothing of arms that were run at the same one.

    Args:
        name: of the measure.
        shown: its format.
        arm, base: that are compared.
        results: of the study.
    """
    chosen = {one: rate for one in (arm, base) if (rate := best_rate(results, one)) is not None}
    if len(set(chosen.values())) < 2:
        return ""
    rates = ", ".join(f"{one} {rate:g}" for one, rate in chosen.items())
    others = (_elsewhere(name, shown, one, rate, results) for one, rate in chosen.items())
    return " ".join(filter(None, (f"Learning rates differ: {rates}.", *others)))


def _elsewhere(name: str, shown: str, arm: str, chosen: float, results: Results) -> str:
    tested = {r.run.options["rate"] for r in results.of([arm], stage=TEST)}
    told = {
        rate: format(fmean(found.values()), shown)
        for rate in sorted(tested)
        if (found := measured(results, arm, name, rate=rate))
    }
    here = told.pop(chosen, None)
    if here is None or not told:
        return ""
    others = ", ".join(f"{value} at {rate:g}" for rate, value in told.items())
    return f"With {arm} {MEASURES[name]} is {here} at {chosen:g}, {others}."


def _spikier(sentence: str, arm: str, base: str, differs: str = "", asked: str = ASKED) -> Claim:
    made = compare(
        f"{sentence} (mean of ||s||_1 / (n ||s||_2^2), less {base}'s)", f"{PAPER}, Figure 2",
        SPIKIER, difference(SPIKIER), arm, base, told="-0.13 (0.39 to 0.26)", part=(SPIKINESS,),
        bounds=(-1, 1), shown="+.3f",
        differs=f"Over contexts of 512, there of 1,000. {differs}".strip(),
    )  # fmt: skip
    return replace(made, asked=asked, caveat=partial(rate_caveat, SPIKINESS, ".3f", arm, base))


def _smaller(sentence: str, name: str, arm: str, base: str, differs: str, asked: str) -> Claim:
    """A claim that a norm is smaller: that of the weights alone is published."""
    alone = name == NORM
    return Claim(
        claim=sentence, source=f"{PAPER}, Figure 2" if alone else OURS,
        published=3.0 if alone else None, told="about 3" if alone else NOT_TESTED, shown=".2f",
        criterion=at_least(2), arms=(base, arm), estimate=partial(_norm_ratio, name, arm, base),
        sizes=("paper",), seeds=SEEDS, differs=differs, asked=asked,
        caveat=partial(rate_caveat, name, ".2f", arm, base),
    )  # fmt: skip


def _sharpness(start: str, way: str, differs: str, asked: str) -> tuple[Claim, ...]:
    """What Figure 2 of the paper shows.

    Args:
        start: of the names of arms.
        way: how they were trained, the last word of each sentence.
        differs: where our set-up differs.
        asked: as in a claim.
    """
    arm, base = f"{start}qv-both", f"{start}plain"
    return (
        _spikier(f"Attention is spikier{way}", arm, base, differs, asked),
        _smaller(f"The operator norm of W_q W_k^T is smaller{way}: {base}'s over that with "
                 "temperatures", NORM, arm, base, differs, asked),
        _smaller(f"It is smaller with the temperature counted too{way}: {base}'s over tau x the "
                 "norm", TEMPERED, arm, base, differs, asked),
    )  # fmt: skip


def _correlation(sentence: str, arm: str, target: str, other: str, criterion: Criterion) -> Claim:
    """A claim on the correlation of an arm's temperatures with something else."""
    return Claim(
        claim=f"{sentence} ({arm})", source=OURS, published=None, told=NOT_TESTED, shown="+.2f",
        criterion=criterion, arms=(arm,), estimate=partial(_mean_correlation, arm, target, other),
        sizes=("paper",), seeds=SEEDS, asked=ASKED,
        differs="Mean over layers of Pearson's correlation over tokens.",
    )  # fmt: skip


def _what_temperatures_follow() -> tuple[Claim, ...]:
    """The norm of a query sharpens it already, unless QK-norm takes it away: a temperature can even
    norms out, or bring them back. Rare tokens stand for the paper's specific ones, whose queries
    would be sharper, and frequent tokens for those that say little, whose values would count less.
    """
    starts, tau = ("", FINE), "correlation of tau with"
    return (
        *(_correlation(f"Temperatures of queries even out their norms: {tau} ||q||",
                       f"{start}{arm}", "query", "with_norm", at_most(-WEAK))
          for start in starts for arm in ("q-both", "qv-both")),
        *(_correlation("Under QK-norm temperatures of queries bring back the norms that it takes "
                       f"away: {tau} ||q||", f"{start}qv-both-norm", "query", "with_norm",
                       at_least(WEAK)) for start in starts),
        *(_correlation(f"Queries of rare tokens have a larger tau: {tau} ln frequency",
                       f"{start}qv-both", "query", "with_frequency", at_most(-WEAK))
          for start in starts),
        *(_correlation(f"Values of frequent tokens have a smaller tau: {tau} ln frequency",
                       f"{start}qv-both", "value", "with_frequency", at_most(-WEAK))
          for start in starts),
    )  # fmt: skip


SHARPNESS_CLAIMS = (
    *_sharpness("", "", "", ""),
    *_sharpness(FINE, ", fine-tuned", ADDED_LATE, ASKED),
    _spikier("With temperatures of queries alone attention is spikier, fine-tuned",
             f"{FINE}q-both", f"{FINE}plain", ADDED_LATE),
    _spikier("Under QK-norm attention is spikier", "qv-both-norm", "plain-norm",
             "There without QK-norm."),
    _spikier("Under QK-norm attention is spikier, fine-tuned", f"{FINE}qv-both-norm",
             f"{FINE}plain-norm", f"There without QK-norm. {ADDED_LATE}"),
    *_what_temperatures_follow(),
)  # fmt: skip
