"""What a row on a claim says besides its figure and verdict."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from headway.report.words import probability
from headway.studies.claims import Claim, Finding, Results, Size, Study
from headway.studies.criteria import Verdict
from headway.studies.rates_told import still_racing


def remarks(study: Study, results: Results, found: Sequence[Finding]) -> list[str]:
    """Sentences on how far each verdict can be trusted, empty where there is nothing to say.

    Args:
        study: whose claims they are.
        results: of it.
        found: of claims.
    """
    racing = still_racing(study, results)
    return [_remarks(each, results, racing) for each in found]


def _remarks(found: Finding, results: Results, racing: Collection[str]) -> str:
    claim = found.claim
    said = (
        _asked(found), _too_few(found, results.size), _in_one_family(found),
        _still_tuned(claim, racing), claim.caveat(results, found.ours),
    )  # fmt: skip
    return " ".join(filter(None, said))


def _asked(found: Finding) -> str:
    """Whether the claim was written when its results, or some of them, were known."""
    asked = found.claim.asked
    if not any(result.ended[:10] <= asked for result in found.results):
        return ""
    return f"Asked on {asked}, when runs that it is judged by were there."


def _too_few(found: Finding, size: Size) -> str:
    """How many seeds a verdict needs, where there are fewer; or that they show too little."""
    if found.ours is None:
        return ""
    if found.ours.seeds < found.claim.seeds:
        return f"A verdict needs {found.claim.seeds} seeds."
    if found.verdict == Verdict.NOT_TESTABLE and size in found.claim.sizes:
        return "Too few seeds: what would count is neither shown nor ruled out."
    return ""


def _in_one_family(found: Finding) -> str:
    """What the correction for published claims alone gains, or costs, a claim."""
    other = found.in_one_family
    if other is None or other.verdict == found.verdict:
        return ""
    p = "" if other.ours is None or other.ours.p is None else probability(other.ours.p)
    return f"Corrected over all claims of the study p is {p} and the verdict '{other.verdict}'."


def _still_tuned(claim: Claim, racing: Collection[str]) -> str:
    arms = ", ".join(arm for arm in claim.arms if arm in racing)
    return f"Learning rates are still to be tried: {arms}." if arms else ""
