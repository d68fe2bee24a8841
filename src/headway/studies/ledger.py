"""The ledger of claims: from files of results alone, every verdict computed.

`python -m headway.studies.ledger docs/results` writes `docs/LEDGER.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from headway.errors import HeadwayError
from headway.files import write_atomically
from headway.report.cells import Table
from headway.report.tables import escaped, markdown_table
from headway.report.words import probability
from headway.studies.claim_page import told
from headway.studies.claims import Claim, Finding, Result, Results, Study, findings
from headway.studies.run_files import read_runs

NAME = "LEDGER.md"
INTRODUCTION = """\
# Ledger

Claims of papers, rerun. This page is made from files of results by `{command}`; nothing in it is
typed, the verdicts least of all: what counts as reproduced is a function of our figure and its
95 % interval that stands in the study's code. Intervals are over seeds; p-values are corrected
(Holm) over the claims of a study. `headway study NAME` runs a study again.

| verdict | means |
|---|---|
| *reproduced* | what would count, counts |
| *partly* | the weaker condition holds that is written beside it |
| *not reproduced* | neither holds |
| *not testable at this scale* | too small a size, too few seeds, or no run got to the figure |
"""


def ledger(folder: Path, studies: Iterable[Study]) -> str:
    """The ledger as Markdown.

    Args:
        folder: with a folder of results for each study, of its name; others are left alone.
        studies: that can be in it.

    Raises:
        HeadwayError: results that cannot be read.
    """
    read = ((s, read_runs(folder / s.name, s)) for s in studies)
    found = [(study, results) for study, results in read if results is not None]
    command = f"python -m headway.studies.ledger docs/{folder.name}"
    parts = [INTRODUCTION.format(command=command), _overview(found)]
    parts += [_section(folder, study, results) for study, results in found]
    return "\n".join(parts)


def _overview(found: Iterable[tuple[Study, Results]]) -> str:
    return markdown_table(
        Table(
            title="All studies",
            columns=("study", "size", "claims"),
            rows=tuple(
                (
                    f"[{study.name}](#{study.name})",
                    results.size,
                    told(findings(study.claims, results)),
                )
                for study, results in found
            ),
        )
    )


def _section(folder: Path, study: Study, results: Results) -> str:
    rows = findings(study.claims, results)
    table = Table(
        title=study.name,
        columns=(
            "claim", "source", "published", "ours [95 % interval]", "seeds", "Holm p", "verdict",
            "counts as reproduced", "where our set-up differs", "command", "device", "date",
            "results",
        ),
        rows=tuple(_row(folder, study, results, f) for f in rows if f.verdict is not None),
    )  # fmt: skip
    lines = [
        f"## {study.name}\n",
        f"{escaped(study.claim)} ({escaped(study.source)})\n",
        markdown_table(table),
    ]
    if waiting := [f.claim.claim for f in rows if f.verdict is None]:
        lines.append("Not run yet: " + "; ".join(escaped(claim) for claim in waiting) + ".\n")
    return "\n".join(lines)


def _row(folder: Path, study: Study, results: Results, found: Finding) -> tuple[str, ...]:
    claim, ours = found.claim, found.ours
    return (
        claim.claim,
        claim.source,
        claim.published_text,
        found.our_text,
        str(ours.seeds if ours else 0),
        "" if ours is None or ours.p is None else probability(ours.p),
        f"*{found.verdict}*",
        claim.criterion.words,
        _differs(study, results, claim),
        _unique(f"`{r.command}`" for r in found.results),
        _unique(r.device for r in found.results),
        _dates(found.results),
        ", ".join(f"[{arm}]({folder.name}/{study.name}/{arm}.json)" for arm in claim.arms),
    )


def _differs(study: Study, results: Results, claim: Claim) -> str:
    changed = "".join(f"; {name} {value}" for name, value in results.settings.items())
    own = f" {claim.differs}" if claim.differs else ""
    return f"Size {results.size}{changed}. {study.differs[results.size]}{own}"


def _unique(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _dates(results: Iterable[Result]) -> str:
    days = sorted({r.ended[:10] for r in results})
    return " to ".join(dict.fromkeys([days[0], days[-1]]))


def main(paths: list[str]) -> int:
    """Write the ledger beside a folder of results; the exit code."""
    from headway.studies.catalogue import CLAIM_STUDIES

    try:
        if len(paths) != 1 or not Path(paths[0]).is_dir():
            raise HeadwayError(
                f"results: {' '.join(paths) or 'nothing'!r} is not accepted; accepted is one folder"
            )
        folder = Path(paths[0])
        written = write_atomically(folder.parent / NAME, ledger(folder, CLAIM_STUDIES))
    except HeadwayError as refusal:
        print(refusal, file=sys.stderr)
        return 2
    print(written)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
