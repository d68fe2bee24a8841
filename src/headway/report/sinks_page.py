"""One self-contained HTML page of a sink profile: it asks nothing of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from headway import plots
from headway.files import write_atomically
from headway.report.figures import as_data
from headway.report.sinks_data import (
    ARRAYS,
    kept_positions,
    packed,
    plain,
    strongest,
    values_of,
    visible,
)
from headway.report.sinks_table import (
    LEGEND,
    headline,
    massive_table,
    remarks,
    sinks_table,
)
from headway.report.sinks_verdict import effect_table, evidence_table, waiver_table
from headway.report.style import label
from headway.report.templating import fill
from headway.waiver.battery import Battery
from headway.waiver.profile import SinkProfile
from headway.waiver.verdict import Verdict

NOTES = {
    "received": "Mean weight over the queries that see the position",
    "sink_rate": "Share of samples in which the head gives the position more than the threshold",
    "value_ratio": "Norm of the position's value over the median of the positions; 1 is as usual",
    "contribution": "Attention times value norm, as a share of all that the head writes",
}
"""How each measure of the map is meant."""
TICK = 10
"""Letters of a token beside an axis."""


@dataclass(frozen=True)
class SinkReport:
    """What a page shows.

    Attributes:
        profile: of a model.
        battery: of the same samples, or None.
        verdict: on the battery, or None.
        facts: what was profiled, where and how: names and values.
    """

    profile: SinkProfile
    battery: Battery | None = None
    verdict: Verdict | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


def write_page(report: SinkReport, path: Path) -> Path:
    """Write the page in one step; its path."""
    return write_atomically(path, render(report))


def render(report: SinkReport) -> str:
    """The page as HTML."""
    profile, battery, verdict = report.profile, report.battery, report.verdict
    data = page_data(profile)
    figures = {
        "sink-map": plots.sink_map(profile),
        "head-profile": plots.head_profile(profile, *data["start"]),
        "hidden-norms": plots.hidden_norms(profile),
    }
    if battery is not None and battery.effects:
        figures["battery"] = plots.battery_forest(battery)
    shown = [{"id": name, **as_data(figure)} for name, figure in figures.items()]
    return fill(
        "sinks.html.j2",
        model=profile.model,
        headline=headline(profile),
        remarks=remarks(profile),
        battery=battery,
        verdict=verdict,
        evidence=None if verdict is None else evidence_table(verdict),
        waivers=None if battery is None else waiver_table(battery),
        effects=None if battery is None else effect_table(battery),
        measures=plots.MEASURES,
        legend=LEGEND,
        layers=sinks_table(profile, verdict),
        massive=massive_table(profile),
        facts=list(report.facts.items()),
        heights={figure["id"]: figure["layout"]["height"] for figure in shown},
        plots=shown,
        data=data,
    )


def page_data(profile: SinkProfile) -> dict[str, Any]:
    """What the page's script needs to draw any head and any position."""
    kept, most = kept_positions(profile), strongest(profile)
    layers, heads = most.shape
    tokens = [visible(profile.token_texts[i]) for i in kept]
    norms = [
        name
        for name in ("value_norm", "written_norm", "key_norm")
        if not bool(getattr(profile, name).isnan().any())
    ]
    at_most: dict[str, Any] = {
        measure: plots.measured(profile, measure).gather(-1, most[..., None]).squeeze(-1).tolist()
        for measure in get_args(plots.Measure)
    }
    texts = [[visible(profile.token_texts[i]) for i in row] for row in most.tolist()]
    at_most |= {
        "position": most.tolist(),
        "label": [[label(text) for text in row] for row in texts],
    }
    first = int(profile.received.gather(-1, most[..., None]).argmax())
    found: dict[str, Any] = plain(
        {
            "shape": [layers, heads],
            "threshold": profile.threshold,
            "start": divmod(first, heads),
            "positions": kept,
            "order": _order(profile, kept),
            "tokens": tokens,
            "labels": [label(text) for text in tokens],
            "ticks": [label(text[:TICK]) for text in tokens],
            "notes": NOTES,
            "values": "value_norm" if values_of(profile) is profile.value_norm else "written_norm",
            "norms": norms,
            "medians": {name: getattr(profile, name).median(-1).values.tolist() for name in norms},
            "strongest": at_most,
        }
    )
    wanted = [name for name in ARRAYS if name in norms or not name.endswith("_norm")]
    arrays = {name: packed(getattr(profile, name)[..., kept]) for name in wanted}
    return found | {"columns": wanted, "arrays": arrays}


def _order(profile: SinkProfile, kept: Sequence[int]) -> list[int]:
    """Places in `kept`, the sinks first."""
    place = {position: index for index, position in enumerate(kept)}
    sinks = [place[position] for position in profile.sinks() if position in place]
    return list(dict.fromkeys([*sinks, *range(len(kept))]))
