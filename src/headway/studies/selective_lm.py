"""The study `selective-lm`: which temperatures make a better language model, from scratch?

The language models of arXiv 2411.12892: queries, keys and values, by the token and by its position,
with the controls that the paper lacks. Its fine-tuning of published checkpoints is no part of this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from itertools import product

import torch

from headway.decoder import HeadwayForCausalLM
from headway.mechanisms import OutputGate, ScalableSoftmax, SelectiveAttention
from headway.studies.claims import (
    Claim,
    Estimate,
    Measures,
    Results,
    Run,
    Size,
    Study,
    at_least,
    at_most,
    difference,
)
from headway.studies.estimates import mean_of
from headway.studies.lm_claims import LOWER, OURS, SEEDS, compare
from headway.studies.lm_course import DIGITS, HEEDS, Arm, Course, Extent, Shape, performing
from headway.studies.lm_rates import Rates, loss_figures, measured
from headway.studies.lm_sharpness import Spikiness, Temperatures, operator_norm
from headway_settings import StudySettings

TARGETS = {"q": ("query",), "k": ("key",), "v": ("value",), "qv": ("query", "value")}
PARTS = ("token", "position", "both")
NORM = {"qk_norm": True}


def selective(target: str, part: str) -> SelectiveAttention:
    """The mechanism of an arm.

    Args:
        target: key of `TARGETS`.
        part: of `PARTS`.
    """
    return SelectiveAttention(
        query="query" in TARGETS[target],
        key="key" in TARGETS[target],
        value="value" in TARGETS[target],
        token="none" if part == "position" else "shared",
        position=part != "token",
    )


ARMS = {
    "plain": Arm(about="no temperature"),
    **{
        f"{target}-{part}": Arm(
            about=f"temperature of {' and '.join(TARGETS[target])} by "
            + ("token and position" if part == "both" else part),
            mechanisms=(selective(target, part),),
        )
        for target, part in product(TARGETS, PARTS)
    },
    "plain-norm": Arm(about="no temperature, QK-norm", fields=NORM),
    "qv-both-norm": Arm(
        about="temperature of query and value by token and position, QK-norm",
        mechanisms=(selective("qv", "both"),),
        fields=NORM,
    ),
    "scalable-softmax": Arm(
        about="a learned slope of ln n and a learned constant in each head",
        mechanisms=(ScalableSoftmax(bias=True, init="identity"),),
    ),
    "output-gate": Arm(
        about="a gate on each head's output", mechanisms=(OutputGate(granularity="head"),)
    ),
}

EXTENTS: Mapping[Size, Extent] = {
    "small": Extent(
        shapes=(Shape(layers=2, width=48, heads=3, kv_heads=3),),
        context=128,
        vocab_size=1024,
        max_characters=2_000_000,
        batch_size=8,
        steps=150,
        held_tokens=32_768,
        rates=Rates(first=(8e-3,), most=1),
    ),
    "paper": Extent(
        shapes=(Shape(layers=6, width=384, heads=6, kv_heads=6),),
        context=512,
        vocab_size=8192,
        max_characters=100_000_000,
        batch_size=64,
        steps=1_000,
        held_tokens=1_048_576,
        rates=Rates(first=(2e-3, 4e-3), most=5),
    ),
}
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
    frequency = (course.counts + 1.0).log()[ids]
    return {
        "spikiness": round(float(by_position.mean()), DIGITS),
        "spikiness_by_position": [
            (place + 1, round(float(by_position[place]), DIGITS)) for place in places
        ],
        "operator_norm": round(operator_norm(model), DIGITS),
        "temperatures": {
            target: temperatures.told(target, frequency) for target in temperatures.tau
        },
    }


def _norm_ratio(results: Results) -> Estimate | None:
    plain, ours = (measured(results, arm, "operator_norm") for arm in ("plain", "qv-both"))
    return mean_of({seed: plain[seed] / ours[seed] for seed in sorted(plain.keys() & ours.keys())})


def _added_share(results: Results) -> Estimate | None:
    """Parameters that temperatures add, as a share of plain's."""
    plain, ours = (measured(results, arm, "parameters") for arm in ("plain", "qv-both"))
    return mean_of({seed: ours[seed] / plain[seed] - 1 for seed in plain.keys() & ours.keys()})


PAPER = "arXiv 2411.12892"
RELATED = "-0.006 (perplexity 26.681 to 26.514)"
PPL_GAIN = math.log(26.514 / 26.681)


def _claim(sentence: str, arm: str, base: str, source: str, told: str = "lower") -> Claim:
    """A claim that an arm has the lower loss."""
    return compare(f"{sentence} (nats, less {base}'s)", source, None, LOWER, arm, base, told=told)


TABLE_5, TABLE_6 = f"{PAPER}, text on Table 5", f"{PAPER}, text on Table 6"
CLAIMS = (
    compare("Temperatures of queries and values lower the loss (nats, less plain's)",
            f"{PAPER}, Pythia-160M, second-hand", PPL_GAIN, difference(PPL_GAIN), "qv-both",
            "plain", told=RELATED, differs="There per word of Wikitext after SlimPajama."),
    _claim("Temperatures of queries alone lower the loss", "q-both", "plain", TABLE_5),
    _claim("Temperatures of values alone lower the loss", "v-both", "plain", TABLE_5),
    compare("Temperatures of keys alone do not lower the loss (nats, less plain's)", TABLE_5, None,
            at_least(-0.005), "k-both", "plain", told="as plain or worse"),
    _claim("Queries and values together are better than queries alone", "qv-both", "q-both",
           TABLE_5),
    _claim("Token and position together are better than the token", "qv-both", "qv-token",
           TABLE_6),
    _claim("Token and position together are better than the position", "qv-both", "qv-position",
           TABLE_6),
    _claim("The temperature is better than a learned slope of ln n and a constant in each head",
           "qv-both", "scalable-softmax", OURS, "not tested"),
    _claim("The temperature is better than an output gate of each head", "qv-both", "output-gate",
           OURS, "not tested"),
    _claim("Under QK-norm, where nothing else sets a query's sharpness, temperatures lower the "
           "loss", "qv-both-norm", "plain-norm", OURS, "not tested"),
    compare("Attention is spikier (mean of ||s||_1 / (n ||s||_2^2), less plain's)",
            f"{PAPER}, Figure 2", 0.26 - 0.39, difference(0.26 - 0.39), "qv-both", "plain",
            told="-0.13 (0.39 to 0.26)", part=("spikiness",), shown="+.3f",
            differs="Over contexts of 512, there of 1,000."),
    Claim(
        claim="The operator norm of W_q W_k^T is smaller: plain's over that with temperatures",
        source=f"{PAPER}, Figure 2", published=3.0, told="about 3", shown=".2f",
        criterion=at_least(2), arms=("plain", "qv-both"), estimate=_norm_ratio, sizes=("paper",),
        seeds=SEEDS,
    ),
    Claim(
        claim="Shared temperatures add less than 0.5 % of parameters",
        source=f"{PAPER}, shared temperatures", published=0.005, told="less than 0.5 %",
        shown=".3%", criterion=at_most(0.005, shown=".1%"), arms=("plain", "qv-both"),
        estimate=_added_share, sizes=("paper",), seeds=SEEDS,
    ),
)  # fmt: skip


def _runs(settings: StudySettings, results: Results) -> list[Run]:
    return EXTENTS[settings.size].rates.runs(
        {name: arm.at for name, arm in ARMS.items()}, settings, results
    )


SELECTIVE_LM = Study(
    name="selective-lm",
    claim="Temperatures that follow token and position, on queries and values, make a better "
    "language model with spikier attention.",
    source=f"{PAPER}, language models",
    published="perplexity of Pythia-160M 26.681 to 26.514, GPT-2 36.503 to 34.618 (second-hand); "
    "spikiness 0.39 to 0.26; operator norms a third; keys alone do not help",
    arms={name: arm.about for name, arm in ARMS.items()},
    measure="Loss on held-out text in nats per token, paired by seed, each arm at the learning "
    "rate that is best for it; spikiness of attention and what temperatures follow, on "
    f"{LOOKED_AT} windows of the test split.",
    claims=CLAIMS,
    seeds={"small": 2, "paper": 3},
    differs={
        size: "From scratch only, no fine-tuning of published models. The paper states no initial "
        "values: the token part starts at zero, the slope of ln n at 0.0113, as in the official "
        f"code. {extent.told}"
        for size, extent in EXTENTS.items()
    },
    heeds=HEEDS,
    runs=_runs,
    perform=lambda runs, settings: performing(ARMS, EXTENTS, look)(runs, settings),
    figures=partial(loss_figures, tuple(ARMS)),
)
