"""The study `shortcuts-text`: do layerwise attention shortcuts make a better language model?

The text conditions of arXiv 2409.10870, characters and BPE, with the controls that nothing says the
paper had: plain models as large and as costly, a static mix, reads of the same position, and the
perceptrons alone.
"""

from __future__ import annotations

from dataclasses import replace

from headway.studies.claims import Results, Run, Size, Study
from headway.studies.language_models.course import HEEDS, Extent, Shape
from headway.studies.language_models.rates import Rates, best_rate
from headway.studies.shortcuts.arms import KINDS, Condition, perform_conditions, runs_of
from headway.studies.shortcuts.claims import (
    MEASURE,
    PAPER,
    control_claims,
    differs,
    main_claims,
)
from headway.studies.shortcuts.maps import look
from headway.studies.shortcuts.page import loss_tables, shortcut_figures
from headway_settings import StudySettings

BPE: dict[Size, Extent] = {
    "small": Extent(
        shapes=(Shape(layers=6, width=32, heads=2, kv_heads=2),),
        context=64,
        vocab_size=1024,
        max_characters=2_000_000,
        batch_size=8,
        steps=40,
        held_tokens=8_192,
        rates=Rates(first=(8e-3, 16e-3), most=2),
    ),
    "paper": Extent(
        shapes=(Shape(layers=10, width=256, heads=4, kv_heads=4),),
        context=512,
        vocab_size=8192,
        max_characters=100_000_000,
        batch_size=64,
        steps=400,
        held_tokens=524_288,
        rates=Rates(first=(2e-3, 4e-3), most=5, shared=True),
    ),
}

CONDITIONS = (
    Condition(
        name="characters",
        extents={size: replace(extent, tokenizer="characters") for size, extent in BPE.items()},
    ),
    Condition(name="bpe", extents=BPE),
)


def _runs(settings: StudySettings, results: Results) -> list[Run]:
    return runs_of(CONDITIONS, settings, results)


SHORTCUTS_TEXT = Study(
    name="shortcuts-text",
    claim="A last layer that attends to features of earlier layers makes a better model of "
    "characters and of BPE tokens, and its attention varies over depth and position.",
    source=f"{PAPER}, text-8 and WikiText-103",
    published="lower loss on all sets than a plain decoder, no figure of which could be read; "
    "attention that spreads over depths and positions and varies with the input",
    arms={c.arm(kind): f"{about}; {c.name}" for kind, about in KINDS.items() for c in CONDITIONS},
    measure=MEASURE,
    claims=tuple(claim for c in CONDITIONS for claim in (*main_claims(c), *control_claims(c))),
    seeds={"small": 3, "paper": 3},
    differs={
        size: f"Published: text-8, and 1M crops of WikiText-103 with GPT-2's tokenizer. "
        f"{differs(CONDITIONS, size)}."
        for size in BPE
    },
    heeds=HEEDS,
    runs=_runs,
    perform=lambda runs, settings: perform_conditions(CONDITIONS, look, runs, settings),
    figures=lambda results: shortcut_figures(CONDITIONS, results),
    tables=lambda results: loss_tables(CONDITIONS, results),
    rate=best_rate,
)
