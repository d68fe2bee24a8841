"""The page of a study of growing sinks: curves through training, and the table at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headway.files import write_atomically
from headway.report.curves import bands
from headway.report.figures import CurveText, Figure, curve_figure
from headway.report.page import REPORT_NAME, Section, fill_page, legend, pairs
from headway.studies.sinks.table import READING, sink_table

STEP = "optimiser step"
CURVES = (
    CurveText("sink-rate", "Sink at position 0", "Share of layers, heads and windows.", STEP,
              "share (0 to 1)"),
    CurveText("value-ratio", "Value norm of position 0", "Over the median; mean over heads.", STEP,
              "ratio"),
    CurveText("massive-ratio", "Largest activation", "Over the median, in its layer.", STEP,
              "ratio"),
    CurveText("entropy", "Entropy of attention", "Mean over rows.", STEP, "nats"),
    CurveText("loss", "Training loss", "Mean since the reading before.", STEP, "nats per token"),
)  # fmt: skip
"""Each shows the number of the curve that its id names."""


def write_sink_page(folder: Path, results: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write `report.html` into the folder in one step; the path that was written."""
    return write_atomically(folder / REPORT_NAME, render(results))


def render(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page as HTML."""
    arms = list(results)
    some = next(iter(results.values()))
    figures = [f for text in CURVES for f in _figure(text, results)]
    sections = [
        Section("growth", "Through training", "Windows of 64 tokens of held-out text.", figures),
        Section("end", "At the end", READING, tables=(sink_table(results),)),
    ]
    head = {
        "name": "sinks",
        "headline": "Sinks grown under each position encoding and mechanism",
        "remarks": [],
        "device": some["device"],
        "started": some["started"],
        "command": "\n".join(dict.fromkeys(r["command"] for r in results.values())),
    }
    facts = [
        ("Settings", pairs({k: v for k, v in some["shared"].items() if k != "size"})),
        ("Size", pairs(some["shared"]["size"])),
        ("With what", pairs(some["versions"])),
    ]
    return fill_page(head, sections, legend(arms), facts)


def _figure(text: CurveText, results: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    points = {
        arm: [(entry["step"], entry[text.id.replace("-", "_")]) for entry in result["curve"]]
        for arm, result in results.items()
    }
    drawn = bands(points)
    return [curve_figure(text, drawn, list(results))] if drawn else []
