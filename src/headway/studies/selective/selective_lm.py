"""The study `selective-lm`: which temperatures make a better language model?

The language models of arXiv 2411.12892, from scratch and fine-tuned: queries, keys and values, by
the token and by its position, with and without QK-norm, and the controls that the paper lacks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from headway.decoder import HeadwayForCausalLM
from headway.studies.claims import NOT_TESTED, Claim, Measures, Results, Run, Study
from headway.studies.criteria import Estimate, at_least, at_most, beyond_zero, difference
from headway.studies.estimates import mean_of
from headway.studies.language_models.claims import LOWER, MATTERS, OURS, SEEDS, compare
from headway.studies.language_models.course import DIGITS, HEEDS, Course, performing
from headway.studies.language_models.fine import FineCourse
from headway.studies.language_models.rates import best_rate, measured
from headway.studies.language_models.shares import share_needed
from headway.studies.language_models.sharpness import Spikiness, Temperatures, operator_norms
from headway.studies.races.speed import faster
from headway.studies.selective.arms import (
    ARMS,
    CONTINUATIONS,
    EXTENTS,
    FINE,
    PAPER,
    SCRATCH,
    SHARED,
    SHARES,
    TUNED,
)
from headway.studies.selective.page import selective_figures
from headway.studies.selective.sharpness import SHARPNESS_CLAIMS
from headway.studies.selective.table import selective_tables
from headway_settings import StudySettings

LOOKED_AT = 16
"""Windows of the test split that attention is looked at in."""


@torch.no_grad()
def look(course: Course, model: HeadwayForCausalLM, run: Run) -> Measures:
    """Spikiness, norms, and what temperatures follow.

    On the CPU, where each temperature is a module's output: a GPU computes them inside a kernel.
    """
    torch.nn.Module.to(model, "cpu")
    ids = course.held(run)[:LOOKED_AT, :-1]
    spikiness, temperatures = Spikiness(), Temperatures()
    with temperatures.of(model):
        model(ids, use_cache=False, logits_to_keep=1, probe=spikiness)
    by_position = spikiness.means()
    places = [2**n - 1 for n in range(len(by_position).bit_length())]
    norms = operator_norms(model)
    frequency = (course.counts + 1.0).log()[ids]
    return {
        "spikiness": round(float(by_position.mean()), DIGITS),
        "spikiness_by_position": [
            (place + 1, round(float(by_position[place]), DIGITS)) for place in places
        ],
        "operator_norm": round(float(norms.mean()), DIGITS),
        "tempered_norm": round(float((norms * temperatures.sharpening()).mean()), DIGITS),
        "temperatures": {
            target: temperatures.told(target, frequency) for target in temperatures.tau
        },
    }


def _added_share(results: Results) -> Estimate | None:
    """Parameters that temperatures add, as a share of plain's."""
    plain, ours = (measured(results, arm, "parameters") for arm in ("plain", "qv-both"))
    return mean_of({seed: ours[seed] / plain[seed] - 1 for seed in plain.keys() & ours.keys()})


PERPLEXITIES = {
    "Pythia-160M": (26.681, 26.514),
    "GPT-2": (36.503, 34.618),
    "Llama-3-8B": (12.416, 10.982),
}
"""Published of Wikitext, without temperatures and with them: second-hand."""
ASKED = "2026-11-30"
FINE_MATTERS = -0.001
"""As `MATTERS`, where all that fine-tuning with temperatures gives is 0.009 nats."""


def _perplexity(sentence: str, model: str, start: str, differs: str, asked: str = "") -> Claim:
    """A claim that the loss is lower as is published of a model.

    Args:
        sentence: without the two arms.
        model: key of `PERPLEXITIES`.
        start: of the arms' names.
        differs, asked: as in a claim.
    """
    before, after = PERPLEXITIES[model]
    gain, arm, base = math.log(after / before), f"{start}qv-both", f"{start}plain"
    return compare(f"{sentence} (nats, less {base}'s)", f"{PAPER}, {model}, second-hand", gain,
                   difference(gain), arm, base, differs=differs, asked=asked,
                   told=f"{gain:+.3f} (perplexity {before} to {after})")  # fmt: skip


def _claim(
    sentence: str, arm: str, base: str, source: str, told: str = "lower", differs: str = "",
    asked: str = "",
) -> Claim:  # fmt: skip
    """A claim that an arm has the lower loss."""
    lower = beyond_zero(FINE_MATTERS) if arm.startswith(FINE) else LOWER
    return compare(f"{sentence} (nats, less {base}'s)", source, None, lower, arm, base, told=told,
                   differs=differs, asked=asked)  # fmt: skip


TABLE_5, TABLE_6 = f"{PAPER}, text on Table 5", f"{PAPER}, text on Table 6"
THERE = (
    "There official checkpoints and Wikitext, 3.5M tokens. What would matter was 0.005 until "
    f"{ASKED}, when runs were there."
)

UNTOLD = "There per word of Wikitext; after what training is not told"


def _grid(start: str, way: str, differs: str = "") -> tuple[Claim, ...]:
    """The claims on projections and parts, of arms whose names start so.

    Args:
        start: of the names.
        way: how the arms were trained, the last word of each sentence.
        differs: where our set-up differs.
    """

    def claim(sentence: str, arm: str, base: str, source: str, asked: str = "") -> Claim:
        arms = start + arm, start + base
        return _claim(f"{sentence}{way}", *arms, source, differs=differs, asked=asked)

    return (
        claim("Temperatures of queries alone lower the loss", "q-both", "plain", TABLE_5),
        claim("Temperatures of values alone lower the loss", "v-both", "plain", TABLE_5),
        compare(f"Temperatures of keys alone do not lower the loss{way} (nats, less "
                f"{start}plain's)", TABLE_5, None, at_least(FINE_MATTERS if start else MATTERS),
                f"{start}k-both", f"{start}plain", told="as plain or worse", differs=differs),
        claim("Queries alone are better than keys alone", "q-both", "k-both", TABLE_5, ASKED),
        claim("Values alone are better than keys alone", "v-both", "k-both", TABLE_5, ASKED),
        claim("Queries and values together are better than queries alone", "qv-both", "q-both",
              TABLE_5),
        claim("Queries and values together are better than values alone", "qv-both", "v-both",
              TABLE_5, ASKED),
        claim("Token and position together are better than the token", "qv-both", "qv-token",
              TABLE_6),
        claim("Token and position together are better than the position", "qv-both",
              "qv-position", TABLE_6),
    )  # fmt: skip


def _fewer_steps(way: str, start: str, source: str, published: float | None, told: str,
                 differs: str) -> Claim:  # fmt: skip
    """A claim on the steps to the loss that plain ends with."""
    arm, base = f"{start}qv-both", f"{start}plain"
    return Claim(
        claim=f"Temperatures get to plain's final loss with fewer steps{way}: share of plain's",
        source=source, published=published, told=told, shown=".2f",
        criterion=faster(1 if published is None else published), arms=(arm, base),
        estimate=partial(share_needed, arm, base, SHARES), sizes=("paper",), seeds=SEEDS,
        differs=f"{differs}Each number of steps is a run with a whole schedule; straight lines "
        f"between {', '.join(f'{share:g}' for share in SHARES)} and 1, the least stands for any "
        "smaller one, infinity for more than all.",
    )  # fmt: skip


CLAIMS = (
    _perplexity("Temperatures of queries and values lower the loss", "Pythia-160M", "",
                "There per word of Wikitext after SlimPajama."),
    _perplexity("Temperatures of queries and values lower the loss as is published of GPT-2",
                "GPT-2", "", f"{UNTOLD}.", ASKED),
    *_grid("", ""),
    compare("Temperatures of queries and values lower the loss, fine-tuned (nats, less "
            "fine-plain's)", TABLE_5, None, beyond_zero(FINE_MATTERS), f"{FINE}qv-both",
            f"{FINE}plain", told="lower", differs=THERE),
    _perplexity("Temperatures of queries and values lower the loss as is published of Llama-3-8B, "
                "fine-tuned", "Llama-3-8B", FINE, f"{UNTOLD}: a model of that size was hardly "
                "trained from scratch.", ASKED),
    *_grid(FINE, ", fine-tuned", THERE),
    _fewer_steps(", fine-tuned", FINE, f"{PAPER}, Figure 4", 1 / 1.45, "0.69 (1.45 times fewer)",
                 "There Llama fine-tuned on Wikitext. "),
    _fewer_steps("", "", OURS, None, NOT_TESTED, ""),
    _claim("The temperature is better than as many parameters in a wider feed-forward part",
           "qv-both", "plain-wide", OURS, NOT_TESTED),
    _claim("The temperature is better than a learned number of each head", "qv-both",
           "head-constant", OURS, NOT_TESTED),
    _claim("The temperature is better than a learned number of each head, fine-tuned",
           f"{FINE}qv-both", f"{FINE}head-constant", OURS, NOT_TESTED),
    _claim("The temperature is better than a learned slope of ln n and a constant in each head",
           "qv-both", "scalable-softmax", OURS, NOT_TESTED),
    _claim("The temperature is better than an output gate of each head", "qv-both", "output-gate",
           OURS, NOT_TESTED),
    _claim("Under QK-norm temperatures of queries and values lower the loss", "qv-both-norm",
           "plain-norm", OURS, NOT_TESTED),
    _claim("Under QK-norm temperatures of queries and values lower the loss, fine-tuned",
           f"{FINE}qv-both-norm", f"{FINE}plain-norm", OURS, NOT_TESTED),
    *SHARPNESS_CLAIMS,
    Claim(
        claim="Shared temperatures add less than 0.5 % of parameters",
        source=f"{PAPER}, shared temperatures", published=0.005, told="less than 0.5 %",
        shown=".3%", criterion=at_most(0.005, shown=".1%"), arms=("plain", "qv-both"),
        estimate=_added_share, sizes=("paper",), seeds=SEEDS,
    ),
)  # fmt: skip


def _runs(settings: StudySettings, results: Results) -> list[Run]:
    scratch = EXTENTS[settings.size].rates.runs(
        dict.fromkeys(SCRATCH, ()), settings, results, SHARED
    )
    tuned = CONTINUATIONS[settings.size].rates.runs(
        dict.fromkeys(TUNED, ()), settings, results, SHARED
    )
    return scratch + tuned


def _perform(runs: Sequence[Run], settings: StudySettings) -> Iterator[tuple[Run, Measures]]:
    continuation = CONTINUATIONS[settings.size]
    return performing(ARMS, EXTENTS, look, partial(FineCourse, continuation=continuation))(
        runs, settings
    )


SELECTIVE_LM = Study(
    name="selective-lm",
    claim="Temperatures that follow token and position, on queries and values, make a better "
    "language model with spikier attention.",
    source=f"{PAPER}, language models",
    published="perplexity of "
    + ", ".join(f"{model} {before} to {after}" for model, (before, after) in PERPLEXITIES.items())
    + " (second-hand); 1.45 times fewer steps to the same perplexity; spikiness 0.39 to 0.26; "
    "operator norms a third; keys alone do not help",
    arms={name: arm.about for name, arm in ARMS.items()},
    measure="Loss on held-out text in nats per token, paired by seed, each arm at the learning "
    "rate that is best for it; spikiness of attention, and what temperatures follow, on "
    f"{LOOKED_AT} windows of the test split.",
    claims=CLAIMS,
    seeds={"small": 2, "paper": 3},
    differs={
        size: "The paper states no initial values: the token part starts at zero, the slope of "
        f"ln n at 0.0113, as in the official code. {extent.told} {CONTINUATIONS[size].told}"
        for size, extent in EXTENTS.items()
    },
    heeds=HEEDS,
    runs=_runs,
    perform=_perform,
    figures=selective_figures,
    tables=selective_tables,
    rate=best_rate,
)
