"""All studies: the claim that each tests and what would count as reproduced."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from headway.errors import HeadwayError
from headway.mechanisms.fields import nearest
from headway.report.cells import Table
from headway.studies import claims
from headway.studies.claim_page import claim_table, told, write_claim_page
from headway.studies.combine.study import COMBINE
from headway.studies.criteria import MEANING
from headway.studies.kv_shift.hops import HOPS
from headway.studies.kv_shift.induction import INDUCTION
from headway.studies.kv_shift.kv_shift_lm import KV_SHIFT_LM
from headway.studies.kv_shift.ngram import NGRAM
from headway.studies.kv_shift.theorem3 import THEOREM3
from headway.studies.remarks import remarks
from headway.studies.residual_streams.amicl import AMICL
from headway.studies.residual_streams.icl_classification import ICL_CLASSIFICATION
from headway.studies.residual_streams.value_stream_lm import VALUE_STREAM_LM
from headway.studies.run_files import read_runs
from headway.studies.running import (
    held_results,
    nothing_held,
    refuse_other_size,
    run_study,
    still_missing,
)
from headway.studies.selective.denoise import DENOISE
from headway.studies.selective.graph import GRAPH
from headway.studies.selective.passkey import PASSKEY
from headway.studies.selective.selective_lm import SELECTIVE_LM
from headway.studies.selective.theory import SELECTIVE_THEORY
from headway.studies.shortcuts.modalities import SHORTCUTS_MODALITIES
from headway.studies.shortcuts.text import SHORTCUTS_TEXT
from headway.studies.sinks.arms import COMPARED, SIZES
from headway.studies.sinks.growth import grow_sinks
from headway.studies.sinks.page import write_sink_page
from headway.studies.sinks.results import read_results
from headway.studies.sinks.table import sink_table
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
        counts: what would count as reproduced, each with the claims that are judged by it.
        perform: runs what is missing, from settings whose folder is set and the command typed.
        held: what a folder holds, from settings whose folder is set; HeadwayError where nothing.
        table: of the results.
        page: draws the results into a folder; the path that was written.
        plain: the results as JSON values.
        state: what a folder holds of it, in words.
        survey: where the ledger sends those who look for it, as no claim of it has a verdict there;
            empty where they have.
    """

    claim: str
    source: str
    published: str
    counts: Mapping[str, Sequence[str]]
    perform: Callable[[StudySettings, str], R]
    held: Callable[[StudySettings], R]
    table: Callable[[R], Table]
    page: Callable[[Path, R], Path]
    plain: Callable[[R], Any]
    state: Callable[[Path], str]
    survey: str = ""


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
        counts=_counts(study.claims),
        perform=partial(run_study, study),
        held=partial(held_results, study),
        table=partial(claim_table, study),
        page=lambda folder, results: write_claim_page(folder, study, results),
        plain=partial(_plain, study),
        state=state,
    )


def _plain(study: claims.Study, results: claims.Results) -> dict[str, Any]:
    judged = [f for f in claims.findings(study.claims, results) if f.verdict is not None]
    return {
        "claims": [
            {
                "claim": found.claim.claim,
                "published": found.claim.published_text,
                "ours": None if found.ours is None else asdict(found.ours),
                "verdict": found.verdict,
                "remarks": said,
            }
            for found, said in zip(judged, remarks(study, results, judged), strict=True)
        ],
        **asdict(results),
    }


def _counts(tested: Sequence[claims.Claim]) -> dict[str, list[str]]:
    counts: dict[str, list[str]] = {}
    for each in tested:
        published = f" (published: {each.published_text})" if each.published_text else ""
        counts.setdefault(each.criterion.words, []).append(f"{each.claim}{published}")
    return counts


def _grow_sinks(settings: StudySettings, command: str) -> dict[str, dict[str, Any]]:
    if settings.seeds is not None:
        raise HeadwayError(
            f"seeds: {settings.seeds} is not accepted; the study sinks takes one seed, --seed"
        )
    return grow_sinks(settings, command)


def _held_sinks(settings: StudySettings) -> dict[str, dict[str, Any]]:
    folder = settings.out
    assert folder is not None
    there = read_results([folder]) if folder.is_dir() else {}
    if not there:
        raise nothing_held("sinks", folder)
    numbers = next(iter(there.values()))["shared"]["size"]
    for name, size in SIZES.items():
        if asdict(size) == numbers:
            refuse_other_size(name, settings)
    return there


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
        counts={
            "Sink_0 is above 1 %": ["each of the four encodings"],
            "Sink_0 is below half of the rotary model's": ["a learned sink", "an output gate"],
        },
        perform=_grow_sinks,
        held=_held_sinks,
        table=sink_table,
        page=write_sink_page,
        plain=dict,
        state=_grown,
        survey="sinks.md#where-sinks-come-from-and-what-mechanisms-do-to-them",
    ),
    **{study.name: _entry(study) for study in CLAIM_STUDIES},
}
"""By the name that `headway study` takes."""

SURVEYS = {name: study.survey for name, study in STUDIES.items() if study.survey}
"""Where the ledger sends those who look for a study whose claims have no verdict."""
SURVEY = "survey of one seed an arm: no claim has a verdict"
"""What a list says of these."""


def study_named(names: Sequence[str]) -> tuple[str, Entry[Any]]:
    """The one study that was asked for.

    Raises:
        HeadwayError: none, several, or one that is not there.
    """
    if len(names) != 1:
        raise HeadwayError(f"name: {' '.join(names) or 'nothing'!r} is not accepted; {_accepted()}")
    _require(names[0])
    return names[0], STUDIES[names[0]]


def listing(folder: Path, names: Sequence[str] = (), width: int | None = None) -> str:
    """Studies as lines of text: all in short, or some with all that is known of them.

    Args:
        folder: with a folder of results for each study, of its name.
        names: of those that are told in full.
        width: columns at which lines end; None for one line a sentence.

    Raises:
        HeadwayError: a study that is not there.
    """
    for name in names:
        _require(name)
    lines = [line for name in names for line in _in_full(name, folder)]
    if not names:
        lines = [line for name in STUDIES for line in _in_short(name, folder)]
        lines += ["", "Sources, published figures and what would count: headway study NAME --list"]
    elif not SURVEYS.keys() >= set(names):
        lines += ["", *(f"{verdict}: {words}" for verdict, words in MEANING.items())]
    return "\n".join(line if width is None else _folded(line, width) for line in lines)


def _in_short(name: str, folder: Path) -> list[str]:
    study = STUDIES[name]
    tested = sum(map(len, study.counts.values()))
    number = f"{tested} claim{'' if tested == 1 else 's'}"
    kind = SURVEY if study.survey else number
    return [f"{name}: {study.claim}", f"  {kind}; state: {study.state(folder / name)}"]


def _in_full(name: str, folder: Path) -> list[str]:
    study = STUDIES[name]
    lines = [
        f"{name}: {study.claim}",
        f"  source: {study.source}",
        f"  published: {study.published}",
        f"  state: {study.state(folder / name)}",
        *([f"  {SURVEY}"] if study.survey else []),
    ]
    for counts, tested in study.counts.items():
        lines += [f"  reproduced where: {counts}", *(f"    - {claim}" for claim in tested)]
    return lines


def _folded(line: str, width: int) -> str:
    """Words stay whole; what goes on stands two columns further in."""
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _require(name: str) -> None:
    if name not in STUDIES:
        close = nearest(name, STUDIES)
        raise HeadwayError(f"name: {name!r} is unknown{close}; {_accepted()}")


def _accepted() -> str:
    return f"accepted is one of {', '.join(STUDIES)}"
