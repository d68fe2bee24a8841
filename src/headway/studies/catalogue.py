"""All studies: the claim that each tests and what would count as reproduced, written before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.errors import HeadwayError
from headway.mechanisms.fields import nearest
from headway.report.cells import Table
from headway.studies.sink_growth import grow_sinks
from headway.studies.sink_page import write_sink_page
from headway.studies.sink_table import sink_table
from headway_settings import StudySettings

Results = dict[str, dict[str, Any]]
"""What a study found, by arm."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """One claim and how it is tested.

    Attributes:
        claim: in a sentence.
        source: where it was published.
        published: its figures.
        counts: what would count as reproduced.
        perform: runs what is missing, from settings whose folder is set and the command typed.
        table: of the results.
        page: draws the results into a folder; the path that was written.
    """

    claim: str
    source: str
    published: str
    counts: str
    perform: Callable[[StudySettings, str], Results]
    table: Callable[[Results], Table]
    page: Callable[[Path, Results], Path]


STUDIES = {
    "sinks": Study(
        claim="An attention sink at the first token grows under every position encoding, and not "
        "where attention can be left unspent (a learned sink) or its output be gated.",
        source="arXiv 2410.10781, Table 3 and section 7; 2505.06708; 2309.17453",
        published="Sink_0 of 60M models: no positions 20.35, learned 33.13, ALiBi 20.78, "
        "rotary 18.18 %; output gate 46.7 to 4.8 % of attention on the first token",
        counts="Sink_0 above 1 % under all four encodings; a learned sink and an output gate each "
        "below half of the rotary model's",
        perform=grow_sinks,
        table=sink_table,
        page=write_sink_page,
    ),
}
"""By the name that `headway study` takes."""


def study_named(names: Sequence[str]) -> tuple[str, Study]:
    """The one study that was asked for.

    Raises:
        HeadwayError: none, several, or one that is not there.
    """
    accepted = f"accepted is one of {', '.join(STUDIES)}"
    if len(names) != 1:
        raise HeadwayError(f"name: {' '.join(names) or 'nothing'!r} is not accepted; {accepted}")
    if names[0] not in STUDIES:
        close = nearest(names[0], STUDIES)
        raise HeadwayError(f"name: {names[0]!r} is unknown{close}; {accepted}")
    return names[0], STUDIES[names[0]]


def listing() -> str:
    """All studies as lines of text."""
    lines = []
    for name, study in STUDIES.items():
        lines += [
            f"{name}: {study.claim}",
            f"  source: {study.source}",
            f"  published: {study.published}",
            f"  reproduced where: {study.counts}",
        ]
    return "\n".join(lines)
