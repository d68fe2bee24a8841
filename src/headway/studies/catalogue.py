"""All studies: the claim that each tests and what would count as reproduced, written before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from headway.errors import HeadwayError
from headway.mechanisms.fields import nearest
from headway.report.cells import Table
from headway.studies import claims
from headway.studies.amicl_study import AMICL
from headway.studies.claim_page import claim_table, told, write_claim_page
from headway.studies.combine import COMBINE
from headway.studies.denoise_study import DENOISE
from headway.studies.graph_study import GRAPH
from headway.studies.hops_study import HOPS
from headway.studies.icl_classification import ICL_CLASSIFICATION
from headway.studies.induction_study import INDUCTION
from headway.studies.kv_shift_lm import KV_SHIFT_LM
from headway.studies.ngram_study import NGRAM
from headway.studies.passkey_study import PASSKEY
from headway.studies.run_files import read_runs
from headway.studies.running import run_study, still_missing
from headway.studies.selective_lm import SELECTIVE_LM
from headway.studies.selective_theory import SELECTIVE_THEORY
from headway.studies.shortcuts_modalities import SHORTCUTS_MODALITIES
from headway.studies.shortcuts_text import SHORTCUTS_TEXT
from headway.studies.sink_arms import COMPARED
from headway.studies.sink_growth import grow_sinks
from headway.studies.sink_page import write_sink_page
from headway.studies.sink_results import read_results
from headway.studies.sink_table import sink_table
from headway.studies.theorem3 import THEOREM3
from headway.studies.value_stream_lm import VALUE_STREAM_LM
from headway_settings import StudySettings

R = TypeVar("R")
"""What a study found, in its own form."""


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[R]):
    """What `headway study` needs of a study.

    Attributes:
        claim: in a sentence.
        source: where it was published.
        published: its figures.
        counts: what would count as reproduced.
        perform: runs what is missing, from settings whose folder is set and the command typed.
        table: of the results.
        page: draws the results into a folder; the path that was written.
        plain: the results as JSON values.
        state: what a folder holds of it, in words.
    """

    claim: str
    source: str
    published: str
    counts: str
    perform: Callable[[StudySettings, str], R]
    table: Callable[[R], Table]
    page: Callable[[Path, R], Path]
    plain: Callable[[R], Any]
    state: Callable[[Path], str]


def _entry(study: claims.Study) -> Entry[claims.Results]:
    """A study whose claims stand in the ledger."""

    def state(folder: Path) -> str:
        if (results := read_runs(folder, study)) is None:
            return "not run"
        there, missing = len(results.found), len(still_missing(study, results))
        verdicts = told(claims.findings(study.claims, results)) or "no verdict yet"
        return f"{there} of {there + missing} runs of size {results.size}: {verdicts}"

    return Entry(
        claim=study.claim,
        source=study.source,
        published=study.published,
        counts=study.counts,
        perform=partial(run_study, study),
        table=partial(claim_table, study),
        page=lambda folder, results: write_claim_page(folder, study, results),
        plain=asdict,
        state=state,
    )


def _grow_sinks(settings: StudySettings, command: str) -> dict[str, dict[str, Any]]:
    if settings.seeds is not None:
        raise HeadwayError(
            f"seeds: {settings.seeds} is not accepted; the study sinks takes one seed, --seed"
        )
    return grow_sinks(settings, command)


def _grown(folder: Path) -> str:
    there = read_results([folder]) if folder.is_dir() else {}
    return f"{len(there)} of {len(COMPARED)} arms" if there else "not run"


CLAIM_STUDIES = (
    AMICL,
    SELECTIVE_THEORY,
    THEOREM3,
    ICL_CLASSIFICATION,
    INDUCTION,
    NGRAM,
    HOPS,
    KV_SHIFT_LM,
    VALUE_STREAM_LM,
    SELECTIVE_LM,
    COMBINE,
    DENOISE,
    GRAPH,
    PASSKEY,
    SHORTCUTS_TEXT,
    SHORTCUTS_MODALITIES,
)
"""Those whose verdicts stand in the ledger, in its order."""

STUDIES: Mapping[str, Entry[Any]] = {
    "sinks": Entry(
        claim="An attention sink at the first token grows under every position encoding, and not "
        "where attention can be left unspent (a learned sink) or its output be gated.",
        source="arXiv 2410.10781, Table 3 and section 7; 2505.06708; 2309.17453",
        published="Sink_0 of 60M models: no positions 20.35, learned 33.13, ALiBi 20.78, "
        "rotary 18.18 %; output gate 46.7 to 4.8 % of attention on the first token",
        counts="Sink_0 above 1 % under all four encodings; a learned sink and an output gate each "
        "below half of the rotary model's",
        perform=_grow_sinks,
        table=sink_table,
        page=write_sink_page,
        plain=dict,
        state=_grown,
    ),
    **{study.name: _entry(study) for study in CLAIM_STUDIES},
}
"""By the name that `headway study` takes."""


def study_named(names: Sequence[str]) -> tuple[str, Entry[Any]]:
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


def listing(folder: Path) -> str:
    """All studies as lines of text.

    Args:
        folder: with a folder of results for each study, of its name.
    """
    lines = []
    for name, study in STUDIES.items():
        lines += [
            f"{name}: {study.claim}",
            f"  source: {study.source}",
            f"  published: {study.published}",
            f"  reproduced where: {study.counts}",
            f"  state: {study.state(folder / name)}",
        ]
    return "\n".join(lines)
