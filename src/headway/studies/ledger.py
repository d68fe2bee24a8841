"""The ledger of claims: from files of results alone, every verdict computed.

`python -m headway.studies.ledger docs/results` writes `docs/LEDGER.md`, and what the pages in
`docs/mechanisms` say of claims.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from headway.errors import HeadwayError
from headway.files import write_atomically
from headway.report.cells import Table
from headway.report.tables import escaped, markdown_table
from headway.report.words import probability
from headway.studies.claim_page import told
from headway.studies.claims import Finding, Result, Results, Study, findings
from headway.studies.criteria import HISTORY, MEANING
from headway.studies.mechanism_pages import filled
from headway.studies.rates_told import rate_tables
from headway.studies.remarks import remarks
from headway.studies.run_files import read_runs

NAME = "LEDGER.md"
PAGES = "mechanisms"
"""Folder of pages beside the results."""
SMALL = "small"
"""Folder of a study's small runs, beside larger ones that are not all there."""
INTRODUCTION = """\
# Ledger

Claims of papers, rerun. This page is made from files of results by `{command}`; no figure and no
verdict in it is typed: what counts as reproduced is a function of our figure and its 95 % interval
that stands in the study's code. Intervals are over seeds: exact (Clopper-Pearson) of a share of
seeds, cut where a measure has bounds. P-values are corrected (Holm) over the published claims of a
study that were written before it was run, and apart from these over all others: what is asked
besides takes nothing from them. `headway study NAME` runs a study again, and with `--draw` draws
its figures from results that are there; the commands that made the results stand below each table,
with the numbers that its rows name, and so does what is different in all runs of a size. The linked
files are the logs: every run with its day, seconds, measures and curve, and the versions that it
ran on. A command says where its runs were written, the links where they lie now: those of size
small in the folder `{small}` of a study that has larger ones. Tasks are drawn on the device: in a
row that names two, runs of a seed share their first weights, not their data.

One rule gives all verdicts, whatever the criterion:

| verdict | means |
|---|---|
{verdicts}

What was changed of rules and claims when results were known:

{history}
"""
TOLD_ELSEWHERE = """\
Surveys run one seed an arm, so that no claim of theirs has a verdict; what they found: {links}.
"""


@dataclass(frozen=True)
class Part:
    """What one folder of results says of a study's claims.

    Attributes:
        study: the study.
        place: of the files, from the page.
        results: in them.
        told: claims with a verdict, each in the first part that has one.
    """

    study: Study
    place: str
    results: Results
    told: tuple[Finding, ...]


def ledger(folder: Path, studies: Iterable[Study], surveys: Mapping[str, str] | None = None) -> str:
    """The ledger as Markdown.

    Args:
        folder: with a folder of results for each study, of its name; others are left alone. Claims
            that these results do not tell of are looked for in the folder `small` in it.
        studies: that can be in it.
        surveys: where each is told of, from the ledger, by name.

    Raises:
        HeadwayError: results that cannot be read.
    """
    found = [parts for study in studies if (parts := _parts(folder, study))]
    command = f"python -m headway.studies.ledger docs/{folder.name}"
    meanings = "\n".join(f"| *{verdict}* | {words} |" for verdict, words in MEANING.items())
    history = "\n".join(f"- {day}: {words}" for day, words in HISTORY)
    page = [
        INTRODUCTION.format(command=command, small=SMALL, verdicts=meanings, history=history),
        _overview(chain.from_iterable(found)),
    ]
    if surveys:
        links = ", ".join(f"[{name}]({place})" for name, place in surveys.items())
        page.append(TOLD_ELSEWHERE.format(links=links))
    return "\n".join([*page, *map(_section, found)])


def _parts(folder: Path, study: Study) -> list[Part]:
    parts: list[Part] = []
    for place in (Path(study.name), Path(study.name, SMALL)):
        if (results := read_runs(folder / place, study)) is not None:
            known = {finding.claim.claim for part in parts for finding in part.told}
            judged = (f for f in findings(study.claims, results) if f.verdict is not None)
            new = tuple(f for f in judged if f.claim.claim not in known)
            parts.append(Part(study, f"{folder.name}/{place.as_posix()}", results, new))
    return parts


def _overview(parts: Iterable[Part]) -> str:
    return markdown_table(
        Table(
            title="All studies",
            columns=("study", "size", "claims"),
            rows=tuple(
                (f"[{part.study.name}](#{part.study.name})", part.results.size, told(part.told))
                for part in parts
                if part.told
            ),
        )
    )


def _section(parts: Sequence[Part]) -> str:
    study = parts[0].study
    judged = [
        (part, finding, said)
        for part in parts
        for finding, said in zip(part.told, remarks(study, part.results, part.told), strict=True)
    ]
    commands = list(dict.fromkeys(r.command for _, found, _ in judged for r in found.results))
    table = Table(
        title=study.name,
        columns=(
            "claim", "source", "published", "ours [95 % interval]", "seeds", "Holm p", "verdict",
            "counts as reproduced", "where our set-up differs", "command", "device", "date",
            "results",
        ),
        rows=tuple(_row(*each, commands) for each in judged),
    )  # fmt: skip
    lines = [
        f"## {study.name}\n",
        f"{escaped(study.claim)} ({escaped(study.source)})\n",
        markdown_table(table),
        *(table for part in parts if part.told for table in _rates(part)),
        "Where our set-up differs, for all claims of a size:\n",
        *(f"- {_set_up(part)}" for part in parts if part.told),
        "\nCommands:\n",
        *(f"{number}. `{command}`" for number, command in enumerate(commands, 1)),
        "",
    ]
    known = {finding.claim.claim for _, finding, _ in judged}
    if waiting := [claim.claim for claim in study.claims if claim.claim not in known]:
        lines.append("Not run yet: " + "; ".join(map(escaped, waiting)) + ".\n")
    if absent := [arm for arm in study.arms if arm not in _arms(parts[0])]:
        size = parts[0].results.size
        lines.append(f"Arms that can be run, and were not at size {size}: {', '.join(absent)}.\n")
        lines += [_smaller(part, run) for part in parts[1:]
                  if (run := [arm for arm in absent if arm in _arms(part)])]  # fmt: skip
    return "\n".join(lines)


def _arms(part: Part) -> set[str]:
    """Those with results."""
    return {result.run.arm for result in part.results}


def _smaller(part: Part, arms: Sequence[str]) -> str:
    """Where arms were run that larger results lack."""
    links = ", ".join(_link(part, arm) for arm in arms)
    return f"Of these, at size {part.results.size}: {links}.\n"


def _link(part: Part, arm: str) -> str:
    return f"[{arm}]({part.place}/{arm}.json)"


def _row(part: Part, found: Finding, said: str, commands: Sequence[str]) -> tuple[str, ...]:
    claim, ours = found.claim, found.ours
    differs = f"Size {part.results.size}, below.", claim.differs, said
    return (
        claim.claim,
        claim.source,
        claim.published_text,
        found.our_text,
        str(ours.seeds if ours else 0),
        "" if ours is None or ours.p is None else probability(ours.p),
        f"*{found.verdict}*",
        claim.criterion.words,
        " ".join(filter(None, differs)),
        ", ".join(str(n) for n in sorted({commands.index(r.command) + 1 for r in found.results})),
        _unique(r.device for r in found.results),
        _dates(found.results),
        ", ".join(_link(part, arm) for arm in claim.arms),
    )


def _rates(part: Part) -> list[str]:
    tables = rate_tables(part.study, part.results)
    return [f"{made.title}, size {part.results.size}:\n\n{markdown_table(made)}" for made in tables]


def _set_up(part: Part) -> str:
    """How all runs of a part differ from the paper's."""
    results = part.results
    changed = "".join(f"; {name} {value}" for name, value in results.settings.items())
    return escaped(f"Size {results.size}{changed}. {part.study.differs[results.size]}")


def _unique(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _dates(results: Iterable[Result]) -> str:
    days = sorted({r.ended[:10] for r in results})
    return " to ".join(dict.fromkeys([days[0], days[-1]]))


def main(paths: list[str]) -> int:
    """Write the ledger beside a folder of results, and claims into pages there; the exit code."""
    from headway.studies.catalogue import CLAIM_STUDIES, SURVEYS

    try:
        if len(paths) != 1 or not Path(paths[0]).is_dir():
            raise HeadwayError(
                f"results: {' '.join(paths) or 'nothing'!r} is not accepted; accepted is one folder"
            )
        folder = Path(paths[0])
        written = [write_atomically(folder.parent / NAME, ledger(folder, CLAIM_STUDIES, SURVEYS))]
        for path in sorted((folder.parent / PAGES).glob("*.md")):
            page = path.read_text(encoding="utf-8")
            if (new := filled(page, folder, CLAIM_STUDIES)) != page:
                written.append(write_atomically(path, new))
    except HeadwayError as refusal:
        print(refusal, file=sys.stderr)
        return 2
    print("\n".join(map(str, written)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
