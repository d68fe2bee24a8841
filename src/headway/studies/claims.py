"""What a study and a claim are: a published figure, how ours is taken, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from headway.report.statistics import holm
from headway.studies.criteria import Criterion, Estimate, Verdict

if TYPE_CHECKING:
    from headway.report.cells import Table
    from headway.report.figures import Figure
    from headway_settings import StudySettings

Size = Literal["small", "paper"]
SIZES: tuple[Size, ...] = ("small", "paper")
NOT_TESTED = "not tested"
"""What a claim tells in the place of a published figure where no paper makes it."""


@dataclass(frozen=True)
class Run:
    """One thing to run: an arm with a seed and, where it has any, options (JSON values)."""

    arm: str
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What two runs must have in common to be the same."""
        return json.dumps([self.arm, self.seed, self.options], sort_keys=True)


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        run: that was done.
        measures: by name, JSON values.
        command, device: that did it.
        versions: of packages.
        ended: date and time, ISO 8601.
        seconds: since the run before it ended; runs that are done together share them.
    """

    run: Run
    measures: Mapping[str, Any]
    command: str
    device: str
    versions: Mapping[str, str]
    ended: str
    seconds: float


@dataclass(frozen=True)
class Results:
    """All that a folder holds of one study.

    Attributes:
        size: of the runs.
        settings: those that were set and change what results mean.
        found: results in the order of arms, seeds and options.
    """

    size: Size
    settings: Mapping[str, Any]
    found: tuple[Result, ...] = ()

    def __iter__(self) -> Iterator[Result]:
        return iter(self.found)

    def of(self, arms: Iterable[str], **options: Any) -> list[Result]:
        """The results of some arms whose options have these values."""
        wanted = tuple(arms)
        return [
            r
            for r in self.found
            if r.run.arm in wanted
            and all(r.run.options.get(name) == value for name, value in options.items())
        ]

    def measure(self, arm: str, name: str, **options: Any) -> dict[int, Any]:
        """A measure of an arm by seed, where there is one that is not None."""
        found = {r.run.seed: r.measures.get(name) for r in self.of([arm], **options)}
        return {seed: value for seed, value in found.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One published figure and its test.

    Attributes:
        claim: in a sentence.
        source: arXiv id and place, or the code it was read in.
        published: the figure, or None where it is told in words alone.
        told: those words; they are shown in the place of the number.
        shown: format of the figure, ours and theirs.
        criterion: what counts as reproduced.
        arms: whose results it needs.
        estimate: our figure from all results; None where they allow none, as when no run got there.
        sizes: at which it can be tested.
        seeds: that the figure needs at least.
        differs: where our set-up differs for this figure alone, in sentences.
        caveat: what the results, and our figure from them, say of how far it can be trusted, in
            sentences.
        asked: the day, ISO 8601, on which a claim was written that was added to a study that had
            results.
    """

    claim: str
    source: str
    published: float | None
    told: str = ""
    shown: str = ".3f"
    criterion: Criterion
    arms: tuple[str, ...]
    estimate: Callable[[Results], Estimate | None]
    sizes: tuple[Size, ...] = SIZES
    seeds: int = 1
    differs: str = ""
    caveat: Callable[[Results, Estimate | None], str] = lambda *_: ""
    asked: str = ""

    @property
    def besides(self) -> bool:
        """Whether no paper claims it, or it was asked when there were results."""
        return self.told == NOT_TESTED or bool(self.asked)

    @property
    def published_text(self) -> str:
        """The published figure as it is read."""
        if self.told or self.published is None:
            return self.told
        return format(self.published, self.shown)


Measures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Study:
    """Claims of one paper that are tested together.

    Attributes:
        name: that `headway study` takes.
        claim: in a sentence.
        source: where it was published.
        published: its figures, in words.
        arms: what each is.
        measure: what is measured, in a sentence.
        claims: the figures that are compared.
        seeds: an arm, by size.
        differs: where our set-up differs from the published one, by size, in sentences.
        heeds: settings besides those of every study that it takes.
        runs: all that is to be run, from the settings and from what is there already: a study
            whose later runs follow from earlier ones (a tuned learning rate) gives these first,
            and all of them when they are done.
        perform: does runs in any order and grouping; each pair is written as it comes.
        figures: drawn from the results.
        tables: of them, besides that of the claims.
        takes: names of studies that run arms of the same names the same: their files are its own.
        rate: the learning rate that is chosen for an arm by its tuning runs, of a study that has
            such; None before them.
    """

    name: str
    claim: str
    source: str
    published: str
    arms: Mapping[str, str]
    measure: str
    claims: tuple[Claim, ...]
    seeds: Mapping[Size, int]
    differs: Mapping[Size, str]
    heeds: tuple[str, ...] = ()
    runs: Callable[[StudySettings, Results], Sequence[Run]]
    perform: Callable[[Sequence[Run], StudySettings], Iterator[tuple[Run, Measures]]]
    figures: Callable[[Results], Sequence[Figure]]
    tables: Callable[[Results], Sequence[Table]] = lambda _: ()
    takes: tuple[str, ...] = ()
    rate: Callable[[Results, str], float | None] | None = None


def one_by_one(
    run: Callable[[Run, StudySettings], Measures],
) -> Callable[[Sequence[Run], StudySettings], Iterator[tuple[Run, Measures]]]:
    """`Study.perform` of a study that does one run after the other."""

    def perform(runs: Sequence[Run], settings: StudySettings) -> Iterator[tuple[Run, Measures]]:
        for each in runs:
            yield each, run(each, settings)

    return perform


@dataclass(frozen=True)
class Finding:
    """A claim with our figure and what follows; no figure and no verdict before it was run.

    Attributes:
        claim: that was tested.
        ours: figure.
        verdict: on it.
        results: that it was taken from.
        in_one_family: the same, p-values corrected over all claims of the study together.
    """

    claim: Claim
    ours: Estimate | None
    verdict: Verdict | None
    results: tuple[Result, ...]
    in_one_family: Finding | None = None

    @property
    def our_text(self) -> str:
        """Our figure with its interval."""
        if self.ours is None:
            return "none"
        shown = self.claim.shown
        if self.ours.low == self.ours.high:
            return format(self.ours.value, shown)
        return self.ours.told(shown)


def findings(claims: Sequence[Claim], results: Results) -> list[Finding]:
    """What the results say of each claim.

    P-values are Holm-corrected over the published claims that were written before there were
    results, and apart from these over all others: what we ask besides takes nothing from them.
    """
    found = [_taken(claim, results) for claim in claims]
    published = [one for one in found if not one.claim.besides]
    besides = [one for one in found if one.claim.besides]
    apart = {id(one): p for family in (published, besides) for one, p in _corrected(family)}
    together = {id(one): p for one, p in _corrected(found)}
    return [
        replace(
            _judged(one, apart.get(id(one)), results.size),
            in_one_family=_judged(one, together.get(id(one)), results.size),
        )
        for one in found
    ]


def _taken(claim: Claim, results: Results) -> Finding:
    """A claim with our figure, its p-value as it is; no verdict."""
    there = tuple(results.of(claim.arms))
    whole = {r.run.arm for r in there} == set(claim.arms)
    return Finding(claim, claim.estimate(results) if whole else None, None, there)


def _corrected(family: Sequence[Finding]) -> list[tuple[Finding, float]]:
    """Those of a family that have a p-value, with what Holm makes of it."""
    compared = [(one, one.ours.p) for one in family if one.ours and one.ours.p is not None]
    corrected = holm([p for _, p in compared])
    return [(one, p) for (one, _), p in zip(compared, corrected, strict=True)]


def _judged(found: Finding, p: float | None, size: Size) -> Finding:
    claim = found.claim
    if {r.run.arm for r in found.results} != set(claim.arms):
        return found
    ours = replace(found.ours, p=p) if found.ours else None
    if ours is None or size not in claim.sizes or ours.seeds < claim.seeds:
        return replace(found, ours=ours, verdict=Verdict.NOT_TESTABLE)
    return replace(found, ours=ours, verdict=claim.criterion.judge(ours))
