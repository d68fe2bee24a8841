"""Studies of shortcuts made small enough for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from small_language_models import TINY, compared_run, raced

from headway.corpora.performance import SYMBOLS
from headway.corpora.splits import SPLITS
from headway.corpora.tokens import (
    CorpusDescription,
    SplitDescription,
    TokenCorpus,
    hash_tokens,
)
from headway.corpora.vocabulary import symbol_tokenizer
from headway.studies.claims import Result, Results
from headway.studies.language_models.course import Shape
from headway.studies.language_models.rates import Rates
from headway.studies.shortcuts.arms import (
    ALL,
    OPERATIONS,
    OWN,
    PARAMETERS,
    SAME,
    SHORTCUT,
    STATIC,
    Condition,
)

EXTENT = replace(
    TINY,
    shapes=(Shape(layers=6, width=16, heads=2, kv_heads=2),),
    steps=3,
    held_tokens=128,
    rates=Rates(first=(0.01,), most=1),
)
"""Two taps, layers 2 and 4."""
RATE = 8_000


def make_tiny(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> tuple[Condition, ...]:
    """Put the tiny extent in the place of all extents of a study's conditions."""
    tiny = tuple(
        replace(
            c,
            extents={size: replace(EXTENT, tokenizer=e.tokenizer) for size, e in c.extents.items()},
        )
        for c in module.CONDITIONS
    )
    monkeypatch.setattr(module, "CONDITIONS", tiny)
    return tiny


def save_corpus(folder: Path, kind: str) -> TokenCorpus:
    """A corpus of drawn notes, or of drawn samples of 8 bits."""
    symbols = SYMBOLS if kind == "music" else tuple(f"SOUND_{n}" for n in range(256))
    code = {"codec": "mu-law", "rate": RATE} if kind == "speech" else {}
    drawn, eot = np.random.default_rng(0), len(symbols)
    tokens = {
        split: np.concatenate(
            [[*drawn.integers(0, eot, length), eot] for length in (30, 50, 40, 30)]
        ).astype("<u2")
        for split in SPLITS
    }
    about = {
        split: SplitDescription(4, 0, hash_tokens(tokens[split]), seconds=1.0) for split in SPLITS
    }
    made = TokenCorpus(
        **tokens,
        vocab_size=eot + 1,
        eot=eot,
        tokenizer_json=symbol_tokenizer(symbols),
        description=CorpusDescription(source=kind, kind=kind, code=code, **about),
    )
    made.save(folder)
    return made


def made_up(conditions: Sequence[Condition], gains: dict[str, float], **seen: float) -> Results:
    """Results of three seeds at the paper size: what each kind gains on plain, and what is seen of
    all shortcuts over positions."""
    found: list[Result] = []
    for condition in conditions:
        for arm in condition.arms:
            kind = arm.removesuffix(f"-{condition.name}")
            found += raced(arm, {2e-3: 2, 4e-3: 3})
            for seed in range(3):
                noise = 1e-4 * (seed - 1) * (1 + len(kind) / 7)
                found.append(
                    compared_run(
                        arm, 2e-3, seed, loss=3 + gains.get(kind, 0.0) + noise, parameters=10,
                        **(seen if kind in (SHORTCUT, ALL, OWN) else {}),
                    )
                )  # fmt: skip
    return Results("paper", {}, tuple(found))


GAINS = {SHORTCUT: -0.05, ALL: -0.1, STATIC: -0.01, SAME: -0.02, OWN: -0.01}
GAINS |= {PARAMETERS: -0.02, OPERATIONS: -0.03}
SEEN = {"effective": 3.0, "adaptive": 0.3, "rank_correlation": 0.8, "elsewhere": 0.9}
