"""Intervals of measures that have bounds end there, whatever the seeds say."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from small_shortcuts import GAINS, SEEN, made_up

from headway.report import statistics
from headway.studies import estimates
from headway.studies.claims import Results, Study, findings
from headway.studies.kv_shift.induction import INDUCTION
from headway.studies.kv_shift.kv_shift_lm import KV_SHIFT_LM
from headway.studies.kv_shift.theorem3 import THEOREM3
from headway.studies.residual_streams.amicl import AMICL
from headway.studies.run_files import read_runs
from headway.studies.selective.graph import GRAPH
from headway.studies.selective.passkey import PASSKEY
from headway.studies.selective.selective_lm import SELECTIVE_LM
from headway.studies.shortcuts.text import CONDITIONS, SHORTCUTS_TEXT

COMMITTED = Path(__file__).parents[2] / "docs" / "results"
WIDE = 1e9


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds from which nothing follows."""
    for module in (estimates, statistics):
        monkeypatch.setattr(module, "t_interval", lambda _: (-WIDE, WIDE, 0.5))


def ends(study: Study, results: Results, words: str) -> set[tuple[float, float]]:
    """Where the intervals of claims end, by a pattern of their sentences."""
    return {
        (f.ours.low, f.ours.high)
        for f in findings(study.claims, results)
        if f.ours is not None and re.search(words, f.claim.claim)
    }


@pytest.mark.parametrize(
    ("study", "words", "low", "high"),
    [
        (AMICL, "^Accuracy", 0, 1),
        (GRAPH, r"l1 error \(", 0, 16),
        (GRAPH, "rank correlation", -1, 1),
        (INDUCTION, "accuracy at the end$", 0, 1),
        (INDUCTION, "accuracy at the end less", -1, 1),
        (KV_SHIFT_LM, "share of heads", 0, 1),
        (PASSKEY, "share of keys found", -1, 1),
        (SELECTIVE_LM, "spikier", -1, 1),
        (SELECTIVE_LM, "smaller.*plain's over", 0, WIDE),
        (SELECTIVE_LM, "correlation of tau with", -1, 1),
        (THEOREM3, "share of starts", 0, 1),
        (KV_SHIFT_LM, "lowers the loss", -WIDE, WIDE),
    ],
)
def test_committed_intervals_end_where_the_measure_does(
    study: Study, words: str, low: float, high: float
) -> None:
    results = read_runs(COMMITTED / study.name, study)
    assert results is not None
    assert ends(study, results, words) == {(low, high)}


@pytest.mark.parametrize(
    ("words", "low", "high"),
    [
        ("effective number", 1, 4),
        ("nats of the depth", 0, math.log(4)),
        ("rank correlation", -1, 1),
        ("share of it", 0, 1),
    ],
)
def test_intervals_of_maps_end_where_the_measure_does(words: str, low: float, high: float) -> None:
    results = made_up(CONDITIONS, GAINS, **SEEN)
    assert ends(SHORTCUTS_TEXT, results, words) == {(low, high)}
