"""The study `selective-lm` made small enough for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_language_models import asked, make_tiny

from headway.studies.language_models.course import Extent
from headway.studies.language_models.fine import FineCourse
from headway.studies.selective import selective_lm
from headway.studies.selective.arms import ARMS, CONTINUATIONS


def make_tiny_selective(monkeypatch: pytest.MonkeyPatch) -> Extent:
    """Put tiny extents and continuations in the place of both sizes."""
    short = replace(CONTINUATIONS["small"], base_steps=6, steps=10)
    monkeypatch.setattr(selective_lm, "CONTINUATIONS", {"small": short, "paper": short})
    return make_tiny(monkeypatch, selective_lm)


def tiny_course(tiny: Extent, text: Path, folder: Path) -> FineCourse:
    """What the runs of the tiny study share."""
    continuation = selective_lm.CONTINUATIONS["small"]
    return FineCourse(ARMS, tiny, asked(text, folder), continuation=continuation)
