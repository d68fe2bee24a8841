"""What the ledger says of a mechanism, on the mechanism's own page.

A page names studies in a mark, `<!-- claims of kv-shift-lm induction/smeared-key -->`: all of a
study's claims, or those that compare an arm. What follows, up to `<!-- end of claims -->`, is made
from files of results.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from headway.errors import HeadwayError
from headway.report.cells import Table
from headway.report.tables import markdown_table
from headway.studies.claims import Finding, Study, findings
from headway.studies.remarks import remarks
from headway.studies.run_files import read_runs

MARKED = re.compile(r"(<!-- claims of (.+?) -->\n).*?(<!-- end of claims -->)", re.DOTALL)
TOLD = """\
Claims that were run at a size that can test them; where a verdict says that they are not testable,
seeds are too few to tell, or no run got to the figure or does the task. The [ledger](../LEDGER.md)
has all, with commands, devices and where our set-up differs from the paper's.
"""
WAITING = """\
None of its claims was run yet at a size that can test it: see the [ledger](../LEDGER.md).
"""


def filled(page: str, folder: Path, studies: Sequence[Study]) -> str:
    """A page with its tables of claims as the results in a folder say.

    Args:
        page: Markdown.
        folder: with a folder of results for each study, of its name.
        studies: that a mark can name.

    Raises:
        HeadwayError: a mark names a study or an arm that there is not, or results cannot be read.
    """
    known = {study.name: study for study in studies}

    def made(mark: re.Match[str]) -> str:
        rows = [row for word in mark[2].split() for row in _rows(word, folder, known)]
        return f"{mark[1]}\n{_table(rows)}\n{mark[3]}"

    return MARKED.sub(made, page)


def _rows(word: str, folder: Path, known: Mapping[str, Study]) -> list[tuple[str, ...]]:
    name, _, arm = word.partition("/")
    if name not in known or (arm and arm not in known[name].arms):
        raise HeadwayError(f"claims of {word!r}: accepted are studies, and their arms as STUDY/ARM")
    results = read_runs(folder / name, known[name])
    if results is None:
        return []
    told = [
        found
        for found in findings(known[name].claims, results)
        if found.verdict is not None
        and results.size in found.claim.sizes
        and (not arm or arm in found.claim.arms)
    ]
    said = remarks(known[name], results, told)
    return [_row(name, *each) for each in zip(told, said, strict=True)]


def _row(study: str, found: Finding, said: str) -> tuple[str, ...]:
    claim, ours = found.claim, found.ours
    return (
        claim.claim,
        claim.published_text,
        found.our_text,
        str(ours.seeds if ours else 0),
        f"*{found.verdict}*",
        said,
        f"[{study}](../LEDGER.md#{study})",
    )


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return WAITING
    columns = ("claim", "published", "ours [95 % interval]", "seeds", "verdict", "remarks", "study")
    return TOLD + "\n" + markdown_table(Table("Claims", columns, tuple(rows)))
