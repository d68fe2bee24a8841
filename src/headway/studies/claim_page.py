"""The table and the page of a study's claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from headway.files import write_atomically
from headway.report.cells import Table
from headway.report.page import REPORT_NAME, Section, fill_page, legend, pairs
from headway.report.words import probability
from headway.studies.claims import Finding, Results, Study, findings
from headway.studies.criteria import MEANING
from headway.studies.rates_told import rate_tables
from headway.studies.remarks import remarks


def claim_table(study: Study, results: Results) -> Table:
    """One row a claim that was run."""
    return _table([f for f in findings(study.claims, results) if f.verdict is not None])


def _table(judged: Sequence[Finding]) -> Table:
    return Table(
        title="Claims",
        columns=("claim", "published", "ours [95 % interval]", "seeds", "Holm p", "verdict"),
        rows=tuple(map(_row, judged)),
    )


def _row(found: Finding) -> tuple[str, ...]:
    seeds, p = (found.ours.seeds, found.ours.p) if found.ours else (0, None)
    return (
        found.claim.claim,
        found.claim.published_text,
        found.our_text,
        str(seeds),
        "" if p is None else probability(p),
        str(found.verdict),
    )


def told(found: Sequence[Finding]) -> str:
    """How many claims came out how, in words."""
    counts = Counter(str(f.verdict) for f in found if f.verdict is not None)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def write_claim_page(folder: Path, study: Study, results: Results) -> Path:
    """Write `report.html` into the folder in one step; the path that was written."""
    return write_atomically(folder / REPORT_NAME, render(study, results))


def _numbered(judged: Sequence[Finding], criteria: Sequence[str]) -> Table:
    """The table with the number of each claim's criterion."""
    table = _table(judged)
    rows = tuple(
        (*row, str(criteria.index(found.claim.criterion.words) + 1))
        for row, found in zip(table.rows, judged, strict=True)
    )
    return replace(table, columns=(*table.columns, "criterion"), rows=rows)


def _read_with(study: Study, results: Results, judged: Sequence[Finding]) -> list[Table]:
    """What is to be read with claims: where they differ from the published ones, and remarks."""
    said = zip(judged, remarks(study, results, judged), strict=True)
    told = ((f.claim.claim, " ".join(filter(None, (f.claim.differs, one)))) for f, one in said)
    rows = tuple(row for row in told if row[1])
    return [Table("To be read with them", ("claim", "remarks"), rows)] if rows else []


def render(study: Study, results: Results) -> str:
    """The page as HTML."""
    arms = [arm for arm in study.arms if results.of([arm])]
    made = list(results)
    judged = [f for f in findings(study.claims, results) if f.verdict is not None]
    criteria = list(dict.fromkeys(f.claim.criterion.words for f in judged))
    head = {
        "kind": "study of a claim",
        "facts": "What was run",
        "name": study.name,
        "headline": study.claim,
        "remarks": [f"{told(judged)}." if made else "Nothing was run."],
        "device": ", ".join(dict.fromkeys(r.device for r in made)),
        "started": min((r.ended for r in made), default="never"),
        "command": "\n".join(dict.fromkeys(r.command for r in made)),
    }
    claims = _numbered(judged, criteria), *_read_with(study, results, judged)
    sections = [
        Section("claims", "Claims", study.measure, tables=claims),
        Section("measured", "What was measured", study.differs[results.size],
                study.figures(results), (*study.tables(results), *rate_tables(study, results)),
                nothing="No figure can be drawn yet."),
    ]  # fmt: skip
    facts = [
        ("Arms", pairs({arm: study.arms[arm] for arm in arms})),
        ("Study", pairs({
            "source": study.source, "published": study.published, "size": results.size,
            **results.settings,
        })),
        ("Counts as reproduced, by criterion",
         pairs({str(number): words for number, words in enumerate(criteria, 1)})),
        ("Verdicts", pairs({str(verdict): words for verdict, words in MEANING.items()})),
        ("With what", pairs(made[0].versions if made else {})),
    ]  # fmt: skip
    return fill_page(head, sections, legend(arms), facts)
