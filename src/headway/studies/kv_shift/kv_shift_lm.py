"""The study `kv-shift-lm`: does KV shifting make a better language model at its best rate?

The open figures of the first author's logs (3.3456 and 3.3132 nats, one run each) and what
arXiv 2411.19574 says of high learning rates and of the taps that are learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean

import torch
from torch import Tensor

from headway.decoder import HeadwayForCausalLM
from headway.mechanisms import KVShift
from headway.mechanisms.kv_shift import KVShiftModule
from headway.report.cells import Table
from headway.report.figures import CurveText
from headway.report.marks import Mark
from headway.studies.claims import NOT_TESTED, Claim, Measures, Results, Run, Size, Study
from headway.studies.criteria import (
    EVERY_SEED,
    Estimate,
    difference,
    no_difference,
    share_error,
    within,
)
from headway.studies.estimates import mean_of, paired, share_of_seeds
from headway.studies.language_models.claims import LOWER, OURS, SEEDS, adds, compare
from headway.studies.language_models.course import HEEDS, Arm, Course, Extent, Shape, performing
from headway.studies.language_models.marks import losses_and_marks, mean_cells
from headway.studies.language_models.rates import Rates, best_rate, compared, measured
from headway.studies.races.tuning import TUNING

HIGH, HIGHER = 1e-2, 4e-2
"""Learning rates that should be too high: the paper's, and one of ours."""
BARE = {"qk_norm": False}

ARMS = {
    "plain": Arm(about="no mechanism"),
    "kv-shift": Arm(about="KV shifting as published", mechanisms=(KVShift(),)),
    "kv-shift-identity": Arm(
        about="KV shifting whose taps start at (1, 0)", mechanisms=(KVShift(init="identity"),)
    ),
    "plain-large": Arm(about="no mechanism, the larger model", shape=1),
    "kv-shift-large": Arm(about="KV shifting, the larger model", mechanisms=(KVShift(),), shape=1),
    "plain-bare": Arm(
        about="no mechanism, no QK-norm, at high rates", fields=BARE, at=(HIGH, HIGHER)
    ),
    "kv-shift-bare": Arm(
        about="KV shifting, no QK-norm, at high rates",
        mechanisms=(KVShift(),),
        fields=BARE,
        at=(HIGH, HIGHER),
    ),
}

EXTENTS: Mapping[Size, Extent] = {
    "small": Extent(
        shapes=(
            Shape(layers=2, width=48, heads=3, kv_heads=1),
            Shape(layers=3, width=96, heads=6, kv_heads=2),
        ),
        fields={"qk_norm": True},
        context=128,
        vocab_size=1024,
        max_characters=2_000_000,
        batch_size=8,
        steps=200,
        held_tokens=32_768,
        rates=Rates(first=(4e-3, 8e-3), most=4),
    ),
    "paper": Extent(
        shapes=(
            Shape(layers=6, width=384, heads=6, kv_heads=2),
            Shape(layers=12, width=768, heads=12, kv_heads=4),
        ),
        fields={"qk_norm": True},
        context=512,
        vocab_size=8192,
        max_characters=100_000_000,
        batch_size=64,
        steps=1_500,
        held_tokens=1_048_576,
        rates=Rates(first=(1e-3, 2e-3, 4e-3), most=6),
    ),
}

QUADRANTS = ("keep both", "induction", "shift values", "shift both")
"""Which tap is larger: the current key's and value's; the previous key's; the previous value's;
both previous."""


def quadrants(key: Tensor, value: Tensor) -> dict[str, int]:
    """How many heads have taps of each kind.

    Args:
        key, value: taps `(G, 2)`, the current token's first.
    """
    keeps_key, keeps_value = key[:, 0] > key[:, 1], value[:, 0] > value[:, 1]
    kinds = (
        keeps_key & keeps_value,
        ~keeps_key & keeps_value,
        keeps_key & ~keeps_value,
        ~keeps_key & ~keeps_value,
    )
    return {name: int(kind.sum()) for name, kind in zip(QUADRANTS, kinds, strict=True)}


def taps_of(model: HeadwayForCausalLM) -> tuple[Tensor, Tensor] | None:
    """Taps of keys and values of all layers `(layers * G, 2)`; None without KV shifting."""
    modules = [m for m in model.modules() if isinstance(m, KVShiftModule)]
    if not modules:
        return None
    key, value = (
        torch.cat([m.taps(target).detach().float().cpu() for m in modules])
        for target in ("key", "value")
    )
    return key, value


def look(course: Course, model: HeadwayForCausalLM, run: Run) -> Measures:
    """What the taps of a model are."""
    taps = taps_of(model)
    if taps is None:
        return {}
    key, value = taps
    return {
        "heads": len(key),
        "quadrants": quadrants(key, value),
        "taps": [[round(x, 4) for x in row] for row in torch.cat([key, value], 1).tolist()],
        "sum_off_one": float((torch.stack([key, value]).sum(-1) - 1).abs().mean()),
        "negative": float((torch.cat([key, value]) < 0).float().mean()),
    }


QUADRANT_TEXT = CurveText(
    "taps",
    "What the taps learn",
    "One mark a head and seed. Upper right keeps keys and values; upper left, where the previous "
    "key and the current value weigh more, is the induction kind; lower left shifts both.",
    "key: current tap less previous",
    "value: current tap less previous",
)


def _marks(results: Results, arm: str) -> Iterator[Mark]:
    for result in compared(results, arm):
        for now_k, then_k, now_v, then_v in result.measures.get("taps", ()):
            told = f"keys {now_k:.2f} and {then_k:.2f}, values {now_v:.2f} and {then_v:.2f}"
            yield now_k - then_k, now_v - then_v, told


def _spared(rate: float, results: Results) -> Estimate | None:
    """Share of seeds in which plain diverges and KV shifting does not."""
    plain, shifted = (
        measured(results, arm, "diverged", rate=rate) for arm in ("plain-bare", "kv-shift-bare")
    )
    shared = plain.keys() & shifted.keys()
    return share_of_seeds({seed: plain[seed] > shifted[seed] for seed in shared})


def _races(results: Results) -> dict[float, list[dict[int, float]]]:
    """Losses of KV shifting and of plain by rate that was tried for both, and by tuning seed."""
    arms = "kv-shift", "plain"
    tried = [{r.run.options["rate"] for r in results.of([arm], stage=TUNING)} for arm in arms]
    return {
        rate: [results.measure(arm, "loss", stage=TUNING, rate=rate) for arm in arms]
        for rate in sorted(set.intersection(*tried))
    }


def _at_each_rate(results: Results) -> Estimate | None:
    """KV shifting less plain at the rate whose interval ends highest: where that is below zero, so
    are all. None where a rate has no interval."""
    found = [paired(shifted, plain) for shifted, plain in _races(results).values()]
    known = [each for each in found if each is not None]
    return max(known, key=lambda each: each.high) if 0 < len(found) == len(known) else None


def _told_by_rate(results: Results, ours: Estimate | None) -> str:
    """Losses at each rate in sentences, and why there is no interval."""
    told = []
    for rate, losses in _races(results).items():
        if seeds := set[int].intersection(*map(set, losses)):
            means = (f"{fmean(each[seed] for seed in seeds):.4f}" for each in losses)
            told.append(f"{' and '.join(means)} at {rate:g} (seeds: {len(seeds)})")
    if not told:
        return ""
    alone = "" if ours else " One seed gives no interval."
    return f"Losses of KV shifting and of plain on tuning seeds: {', '.join(told)}.{alone}"


def _shares(
    results: Results, arm: str, kinds: Sequence[str], rate: float | None = None
) -> dict[int, float]:
    """Of heads whose taps are of some kinds, by seed."""
    heads = measured(results, arm, "heads", rate=rate)
    counts = [measured(results, arm, "quadrants", kind, rate=rate) for kind in kinds]
    return {seed: sum(count[seed] for count in counts) / heads[seed] for seed in heads}


def _share(kinds: Sequence[str], arm: str, results: Results) -> Estimate | None:
    return mean_of(_shares(results, arm, kinds), bounds=(0, 1))


def tap_tables(results: Results) -> list[Table]:
    """What the taps learn: one row an arm that has some, and rate; none without any."""
    rows = []
    for arm, spec in ARMS.items():
        for given in spec.at or (None,):
            heads, off, negative = (
                measured(results, arm, name, rate=given)
                for name in ("heads", "sum_off_one", "negative")
            )
            if heads:
                rate = best_rate(results, arm) if given is None else given
                shares = [(_shares(results, arm, [kind], given), ".1%") for kind in QUADRANTS]
                cells = mean_cells((heads, ".0f"), *shares, (off, ".3f"), (negative, ".1%"))
                rows.append((arm, f"{rate:g}", *cells))
    columns = ("arm", "learning rate", "seeds", "heads", *QUADRANTS,
               "sum of two taps: off one by", "negative taps")  # fmt: skip
    title = "What the taps learn: shares of heads, and of taps, as means over seeds"
    return [Table(title, columns, tuple(rows))] if rows else []


def _heads(results: Results) -> float:
    return max(measured(results, "kv-shift", "heads").values(), default=0)


LOGS = "logs of arXiv 2411.19574's first author, xumingyu2021/BlaGPT"
PAPER = "arXiv 2411.19574"
ROBUST = f"{PAPER}, robustness to the learning rate"
PUBLISHED = 3.3132 - 3.3456
ASKED = "2026-11-30"
PUBLISHED_HEADS = 128
"""Behind each published share of heads."""
TUNED = (
    "The difference is the claim, not the losses, whose text and tokenizer are others; there both "
    "were run at 1e-3, here each at its best rate."
)


def _share_of_seeds(rate: float, source: str, published: float | None, told: str) -> Claim:
    return Claim(
        claim=f"At {rate:g} plain diverges and KV shifting does not: share of seeds",
        source=source,
        published=published,
        told=told,
        shown=".0%",
        criterion=EVERY_SEED,
        arms=("kv-shift-bare", "plain-bare"),
        estimate=partial(_spared, rate),
        sizes=("paper",),
        seeds=SEEDS,
    )


def _share_of_heads(
    sentence: str, kinds: Sequence[str], count: int, asked: str = ASKED, tolerance: float = 0.05
) -> Claim:
    share = count / PUBLISHED_HEADS
    return Claim(
        claim=sentence + ": share of heads",
        source=f"{PAPER}, learned taps",
        published=share,
        shown=".1%",
        criterion=within(share, tolerance, share_error(share, PUBLISHED_HEADS), shown=".1%"),
        arms=("kv-shift",),
        estimate=partial(_share, kinds, "kv-shift"),
        sizes=("paper",),
        seeds=SEEDS,
        differs="There 2.9B parameters and 500B tokens; at the start all four kinds are as common.",
        asked=asked,
    )


CLAIMS = (
    *(
        compare(f"KV shifting lowers the loss{of} (nats, less plain's)", LOGS, PUBLISHED,
                difference(PUBLISHED), f"kv-shift{name}", f"plain{name}",
                told="-0.0324 (3.3456 to 3.3132)", differs=TUNED)
        for name, of in {"": "", "-large": " of the larger model"}.items()
    ),
    compare("Taps that start at (1, 0), as in plain attention, do as well (nats, less random ones)",
            OURS, None, no_difference(0.01), "kv-shift-identity", "kv-shift", told=NOT_TESTED),
    compare("Taps that start at (1, 0) lower the loss as random ones do (nats, less plain's)", OURS,
            PUBLISHED, difference(PUBLISHED), "kv-shift-identity", "plain", told=NOT_TESTED,
            differs="The control of the start that the paper lacks, judged by what is published of "
            "random taps.", asked=ASKED),
    compare(f"At the learning rate {HIGH:g} KV shifting has the lower loss (nats, less plain's)",
            ROBUST, None, LOWER, "kv-shift-bare", "plain-bare", rate=HIGH, told="lower"),
    compare(f"At the learning rate {HIGHER:g} KV shifting has the lower loss (nats, less plain's)",
            OURS, None, LOWER, "kv-shift-bare", "plain-bare", rate=HIGHER, told=NOT_TESTED,
            asked=ASKED),
    Claim(
        claim="KV shifting has the lower loss at each learning rate that was tried (nats, less "
        "plain's, at the rate whose interval ends highest)",
        source=ROBUST,
        published=None,
        told="lower at 1e-4, 2e-4, 1e-3 and 1e-2",
        shown="+.4f",
        criterion=LOWER,
        arms=("kv-shift", "plain"),
        estimate=_at_each_rate,
        sizes=("paper",),
        seeds=SEEDS,
        differs="Of the runs by which rates were chosen, on the validation split.",
        caveat=_told_by_rate,
        asked=ASKED,
    ),
    _share_of_seeds(HIGH, ROBUST, 1.0, "5 of 5 seeds"),
    _share_of_seeds(HIGHER, OURS, None, NOT_TESTED),
    _share_of_heads("Heads that keep both: the current key's tap and the current value's are the "
                    "larger ones", ["keep both"], 50),
    _share_of_heads("Heads that shift both: the previous key's tap and the previous value's are "
                    "the larger ones", ["shift both"], 52),
    _share_of_heads("Most heads keep both, keys and values, or shift both",
                    ["keep both", "shift both"], 50 + 52, tolerance=0.1),
    _share_of_heads("Heads of the induction kind: the previous key's tap and the current value's "
                    "are the larger ones", ["induction"], 17, asked=""),
    _share_of_heads("Heads that shift values alone: the current key's tap and the previous value's "
                    "are the larger ones", ["shift values"], 9),
    adds("Four numbers are added a key-value head", f"{PAPER}, section 2.2", 4, "kv-shift",
         "plain", _heads),
)  # fmt: skip

KV_SHIFT_LM = Study(
    name="kv-shift-lm",
    claim="KV shifting makes a better language model, bears higher learning rates, and its taps "
    "are of few kinds.",
    source=f"{PAPER}, and the first author's logs",
    published="validation loss 3.3456 to 3.3132 at 2.67B tokens; at 1e-2 plain diverges and KV "
    "shifting does not; of 128 heads 50 keep both, 52 shift both, 17 are of the induction kind, "
    "9 shift values alone",
    arms={name: arm.about for name, arm in ARMS.items()},
    measure="Loss on held-out text in nats per token, paired by seed, each arm at the learning "
    "rate that is best for it. A run has diverged where its loss is not finite or no better than "
    "that of token frequencies; without a finite one it counts as an even guess.",
    claims=CLAIMS,
    seeds={"small": 3, "paper": 3},
    differs={
        size: "Published: 12 layers of width 768, 2.67B tokens of FineWeb, no weight decay, one "
        f"run. Ours: {extent.told}"
        for size, extent in EXTENTS.items()
    },
    heeds=HEEDS,
    runs=lambda settings, results: EXTENTS[settings.size].rates.runs(
        {name: arm.at for name, arm in ARMS.items()}, settings, results
    ),
    perform=lambda runs, settings: performing(ARMS, EXTENTS, look)(runs, settings),
    figures=partial(losses_and_marks, tuple(ARMS), QUADRANT_TEXT, _marks),
    tables=tap_tables,
    rate=best_rate,
)
