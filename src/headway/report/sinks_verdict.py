"""The verdict, the interventions and the waiver test as tables."""

from __future__ import annotations

import math

from headway.report.cells import Table
from headway.report.words import MISSING
from headway.waiver.battery import Battery
from headway.waiver.effects import Damage, Interval
from headway.waiver.verdict import Verdict


def evidence_table(verdict: Verdict) -> Table:
    """What the rule looked at, in its order."""
    return Table(
        title="Evidence",
        columns=("found", "effect [95% interval]", "line", "sure"),
        rows=tuple(
            (e.says, interval(e.effect), f"{e.threshold:.3g}", "yes" if e.sure else "no")
            for e in verdict.evidence
        ),
    )


def waiver_table(battery: Battery) -> Table | None:
    """Is a sink a waiver: much attention, small values, and not missed; None without a sink."""
    rows = tuple(
        (
            str(test.position),
            "waiver" if test.is_waiver else "no waiver",
            interval(test.attention),
            interval(test.contribution),
            interval(test.ratio),
            interval(test.value_ratio),
            damage(test.zeroed),
            damage(test.control),
        )
        for test in battery.waivers
    )
    if not rows:
        return None
    columns = (
        "position",
        "is a",
        "attention received",
        "share of what is written",
        "their ratio",
        "value ratio",
        "its value zeroed",
        "a random element zeroed",
    )
    return Table("Waiver test (mean [95% interval] over samples)", columns, rows)


def effect_table(battery: Battery) -> Table | None:
    """All interventions with what they damage; None where none was made."""
    rows = tuple(
        (e.test, e.words, interval(e.total), MISSING if e.damage is None else damage(e.damage))
        for e in battery.effects
    )
    columns = ("test", "intervention", "effect [95% interval]", "damage to other tokens")
    return Table("Interventions", columns, rows) if rows else None


def interval(found: Interval) -> str:
    """A number with its bounds."""
    if not math.isfinite(found.value):
        return MISSING
    return f"{found.value:.3g} [{found.low:.3g}, {found.high:.3g}]"


def damage(found: Damage) -> str:
    """Perplexity before and after where there is one, and how far the output moved."""
    moved = f"{found.measure}: {found.change.value:.3g}"
    if found.before is None or found.after is None:
        return moved
    return f"perplexity {found.before:.4g} to {found.after:.4g}; {moved}"
