"""What a comparison says, in a few sentences: which arm helped, by how much, how sure."""

from collections.abc import Mapping

from headway.report import words
from headway.report.arm_summary import ArmSummary
from headway.report.results import BASELINE
from headway.report.statistics import BETTER, CONFIDENCE, NOT_AFTER_HOLM, TOO_FEW, WORSE


def headline(arms: Mapping[str, ArmSummary]) -> str:
    """The sentence that stands above everything else."""
    compared = [arm for name, arm in arms.items() if name != BASELINE]
    if not compared:
        return "Only vanilla was trained; there is nothing to compare it with."
    tested = [arm for arm in compared if arm["verdict"] != TOO_FEW]
    if not tested:
        return "Nothing can be said yet: no arm shares two finished seeds with vanilla."
    better = ranked(tested)
    if not better:
        return f"No arm is better than vanilla beyond doubt ({tried(tested)})."
    best = better[0]
    return f"{best['arm']} lowers the validation loss by {effect(best)}{sooner(best)}."


def remarks(arms: Mapping[str, ArmSummary]) -> list[str]:
    """The sentences that belong beside the headline: the other arms and the runs left out."""
    compared = [arm for name, arm in arms.items() if name != BASELINE]
    told = [
        also_better(ranked(compared)[1:]),
        harmed(compared),
        almost([arm for arm in compared if arm["verdict"] == NOT_AFTER_HOLM]),
        too_few([arm for arm in compared if arm["verdict"] == TOO_FEW]),
        lost_runs(arms),
    ]
    return [sentence for sentence in told if sentence]


def ranked(compared: list[ArmSummary]) -> list[ArmSummary]:
    """The arms that are better than vanilla, the best first."""
    better = (arm for arm in compared if arm["verdict"] == BETTER)
    return sorted(better, key=lambda arm: arm["difference_mean"] or 0.0)


def effect(arm: ArmSummary) -> str:
    """Size and certainty of an arm's difference, the size without its sign."""
    bounds = sorted(abs(arm[key] or 0.0) for key in ("difference_low", "difference_high"))
    return (
        f"{abs(arm['difference_mean'] or 0.0):.4f} nats per token "
        f"({100 * CONFIDENCE:.0f}% interval {bounds[0]:.4f} to {bounds[1]:.4f}, "
        f"Holm-corrected p {equals(words.probability(arm['holm_p']))}, "
        f"{len(arm['seed_differences'])} paired seeds)"
    )


def equals(shown: str) -> str:
    """A p-value as the right side of a sentence."""
    return shown if shown.startswith("<") else f"= {shown}"


def also_better(others: list[ArmSummary]) -> str:
    """The sentence about the better arms after the best one."""
    return f"Also better than vanilla: {each_by(others)}." if others else ""


def each_by(arms: list[ArmSummary]) -> str:
    """Arms with the size and certainty of their difference."""
    return listed([f"{arm['arm']} by {effect(arm)}" for arm in arms])


def sooner(arm: ArmSummary) -> str:
    """How much sooner an arm reaches vanilla's final loss; empty where it does not."""
    ratio = arm["tokens_ratio"]
    if ratio is None or ratio >= 1:
        return ""
    return f" and reaches vanilla's final loss with {100 * ratio:.0f}% of its tokens"


def harmed(compared: list[ArmSummary]) -> str:
    """The sentence about the arms that are worse than vanilla."""
    worse = [arm for arm in compared if arm["verdict"] == WORSE]
    return f"Worse than vanilla: {each_by(worse)}." if worse else ""


def almost(arms: list[ArmSummary]) -> str:
    """The sentence about the arms whose interval excludes zero but not after the correction."""
    if not arms:
        return ""
    names = listed([arm["arm"] for arm in arms])
    return f"Not separable from vanilla once corrected for the number of arms: {names}."


def too_few(arms: list[ArmSummary]) -> str:
    """The sentence about the arms that could not be tested."""
    return f"Too few finished seeds to judge: {listed([a['arm'] for a in arms])}." if arms else ""


def lost_runs(arms: Mapping[str, ArmSummary]) -> str:
    """The sentence about runs that take no part."""
    diverged = sum(len(arm["diverged"]) for arm in arms.values())
    pending = sum(arm["unfinished"] or 0 for arm in arms.values())
    told = []
    if diverged:
        told.append(f"{runs(diverged)} diverged and {'is' if diverged == 1 else 'are'} left out")
    if pending:
        told.append(f"{runs(pending)} {'has' if pending == 1 else 'have'} not finished")
    text = "; ".join(told)
    return f"{text}." if text else ""


def runs(number: int) -> str:
    """`1 run` or `n runs`."""
    return f"{number} run" if number == 1 else f"{number} runs"


def tried(tested: list[ArmSummary]) -> str:
    """How many arms were tested with how many seeds."""
    seeds = sorted({len(arm["seed_differences"]) for arm in tested})
    shown = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"{len(tested)} {'arm' if len(tested) == 1 else 'arms'}, {shown} paired seeds"


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
