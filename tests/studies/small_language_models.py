"""Language-model studies made small enough for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from made_studies import result

from headway.studies.claims import Result, Run
from headway.studies.language_models.course import Extent, Shape
from headway.studies.language_models.rates import Rates
from headway.studies.races.tuning import FIRST_TUNING_SEED, TEST, TUNING
from headway_settings import StudySettings

TINY = Extent(
    shapes=(Shape(layers=2, width=16, heads=2, kv_heads=1),) * 2,
    context=16,
    vocab_size=300,
    max_characters=100_000,
    batch_size=4,
    steps=12,
    held_tokens=512,
    rates=Rates(first=(0.01, 0.02), most=2),
)


def make_tiny(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> Extent:
    """Put the tiny extent, with the fields of the small one, in the place of both sizes."""
    small = module.EXTENTS["small"]
    one = replace(TINY, fields=small.fields)
    monkeypatch.setattr(module, "EXTENTS", {"small": one, "paper": one})
    return one


def asked(text: Path, folder: Path, **fields: Any) -> StudySettings:
    given: dict[str, Any] = {"device": "cpu", "seeds": 1, "text": str(text)}
    return StudySettings(
        name=("made",), out=folder / "out", corpus=folder / "corpus", **given | fields
    )


def raced(arm: str, losses: Mapping[float, float], seed: int = 0) -> list[Result]:
    """Races of an arm on one of the seeds for them."""
    return [
        result(
            Run(arm, FIRST_TUNING_SEED + seed, {"stage": TUNING, "rate": rate}),
            loss=loss,
            corpus="one",
        )
        for rate, loss in losses.items()
    ]


def compared_run(arm: str, rate: float, seed: int, **measures: Any) -> Result:
    """A run that is compared."""
    given = {"corpus": "one", "curve": [[10, 1.0]]} | measures
    return result(Run(arm, seed, {"stage": TEST, "rate": rate}), **given)
