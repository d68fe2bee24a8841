"""Language models at learning rates of their own: which runs there are, and which are compared.

Each arm's rate is the one with the least loss on seeds apart from those that are compared, and on
the validation split. Where the best one is the least or largest that was tried, further ones are
tried, and where a study says so those that won for its other arms.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from types import MappingProxyType

from headway.errors import HeadwayError
from headway.report.curves import OVER_SEEDS, bands
from headway.report.figures import CurveText, Figure, curve_figure, tick_axis
from headway.studies.claims import Result, Results, Run
from headway.studies.races.tuning import FIRST_TUNING_SEED, TEST, TUNING
from headway.studies.running import seeds_of
from headway_settings import StudySettings

SHARE = "share"
"""Option of a run: the share of an arm's steps that it takes; without it, all of them."""
NO_SHARES: Mapping[str, Sequence[float]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Learning rates that are tried.

    Attributes:
        first: rising, each twice the one before.
        most: rates, with those that are added beyond the first and the last.
        shared: an arm also tries what won for the others that are run with it. Its own races end at
            a rate that is better than its neighbours, and there can be more than one such.
    """

    first: tuple[float, ...]
    most: int
    shared: bool = False

    @property
    def told(self) -> str:
        """In words."""
        rates = ", ".join(f"{rate:g}" for rate in self.first)
        if self.most == 1:
            return f"Rate {rates} for every arm"
        further = " and beyond where the best is at the edge," * (self.most > len(self.first))
        shared = " and what won for another arm," * self.shared
        where = "on other seeds and the validation split"
        return f"Rates {rates},{further}{shared} for every arm, {where}"

    def races(
        self, arm: str, results: Results, seeds: int = 1, besides: Collection[float] = ()
    ) -> tuple[list[Run], bool]:
        """The runs by which an arm's rate is chosen, and whether all are there.

        Args:
            arm: of the study.
            results: that are there; each rate that they have is run with all seeds.
            seeds: on which each rate is tried.
            besides: further rates to try, however many there are.
        """
        rates = sorted({*self.first, *besides, *_tuning_losses(results, arm)})
        while (done := _raced(results, arm, rates, seeds)) and len(rates) < self.most:
            best = best_rate(results, arm)
            if best == rates[-1]:
                rates.append(2 * best)
            elif best == rates[0]:
                rates.insert(0, best / 2)
            else:
                break
        return [
            _run(arm, FIRST_TUNING_SEED + seed, TUNING, rate)
            for seed in range(seeds)
            for rate in rates
        ], done

    def runs(
        self,
        arms: Mapping[str, Sequence[float]],
        settings: StudySettings,
        results: Results,
        shares: Mapping[str, Sequence[float]] = NO_SHARES,
    ) -> list[Run]:
        """All runs that are known: races first, then arms at the rate that won or at given ones.

        Args:
            arms: with the rates at which they are run; none: the one that wins.
            settings: with the seeds that are compared.
            results: that are there.
            shares: of the steps that arms are run with besides, at the rate of the whole run.

        Raises:
            HeadwayError: seeds that rates are tuned on, or results of different texts.
        """
        seeds = seeds_of(settings)
        if seeds.stop > FIRST_TUNING_SEED:
            raise HeadwayError(
                f"seed: {settings.seed} is not accepted; accepted are seeds below "
                f"{FIRST_TUNING_SEED}, from which on learning rates are tuned"
            )
        if len({r.measures["corpus"] for r in results}) > 1:
            raise HeadwayError(
                f"out: {settings.out} holds results of different texts; accepted are those of one"
            )
        raced = self._all_races([arm for arm in arms if not arms[arm]], settings, results)
        tested = dict(arms)
        for arm, (_, done) in raced.items():
            best = best_rate(results, arm) if done else None
            tested[arm] = () if best is None else (best,)
        return [run for races, _ in raced.values() for run in races] + [
            _run(arm, seed, TEST, rate, share)
            for seed in seeds
            for arm in arms
            for rate in tested[arm]
            for share in (*shares.get(arm, ()), None)
        ]

    def _all_races(
        self, arms: Sequence[str], settings: StudySettings, results: Results
    ) -> dict[str, tuple[list[Run], bool]]:
        """The races of arms; of shared rates they are over when those of all arms that are asked
        for are, as until then another rate can win."""
        seeds = settings.tuning_seeds or 1
        found = {arm: self.races(arm, results, seeds) for arm in arms}
        if not self.shared:
            return found
        over = (arm for arm, (_, done) in found.items() if done)
        won = [rate for arm in over if (rate := best_rate(results, arm)) is not None]
        found = {arm: self.races(arm, results, seeds, won) for arm in arms}
        all_over = all(found[arm][1] for arm in arms if arm in (settings.arms or arms))
        return {arm: (races, done and all_over) for arm, (races, done) in found.items()}


def _run(arm: str, seed: int, stage: str, rate: float, share: float | None = None) -> Run:
    return Run(arm, seed, {"stage": stage, "rate": rate} | ({SHARE: share} if share else {}))


def _tuning_losses(results: Results, arm: str) -> dict[float, dict[int, float]]:
    """By rate and seed."""
    losses: dict[float, dict[int, float]] = {}
    for result in results.of([arm], stage=TUNING):
        by_seed = losses.setdefault(result.run.options["rate"], {})
        by_seed[result.run.seed] = result.measures["loss"]
    return losses


def _raced(results: Results, arm: str, rates: Sequence[float], seeds: int) -> bool:
    """Whether each of these rates was tried with all of the seeds."""
    losses = _tuning_losses(results, arm)
    wanted = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + seeds)
    return all(set(wanted) <= losses.get(rate, {}).keys() for rate in rates)


def best_rate(results: Results, arm: str) -> float | None:
    """The rate with the least mean loss over the seeds that every rate was tried with in an arm's
    races; None before them."""
    losses = _tuning_losses(results, arm)
    seeds = set[int].intersection(*map(set, losses.values())) if losses else set()
    means = {rate: fmean(losses[rate][seed] for seed in seeds) for rate in losses} if seeds else {}
    return min(sorted(means), key=lambda rate: means[rate], default=None)


def tuning_seeds(results: Results, arm: str) -> int:
    """On how many seeds every rate of an arm's races was tried."""
    losses = _tuning_losses(results, arm)
    return len(set[int].intersection(*map(set, losses.values()))) if losses else 0


def not_tried(arms: Sequence[str], results: Results) -> str:
    """A sentence on each arm that was not tried at the rate that another of them chose."""
    chosen = {arm: rate for arm in arms if (rate := best_rate(results, arm)) is not None}
    return " ".join(
        f"{arm} was not tried at {rate:g}, which {other} chose."
        for arm in chosen
        for other, rate in chosen.items()
        if rate not in _tuning_losses(results, arm)
    )


def compared(
    results: Results, arm: str, rate: float | None = None, share: float | None = None
) -> list[Result]:
    """The runs of an arm that are compared, at a rate or at its best, with a share of its steps or
    with all."""
    rate = best_rate(results, arm) if rate is None else rate
    return results.of([arm], stage=TEST, rate=rate, share=share)


def measured(
    results: Results,
    arm: str,
    *names: str,
    rate: float | None = None,
    share: float | None = None,
) -> dict[int, float]:
    """A measure by seed of the runs that are compared, where there is one.

    Args:
        results: of a study.
        arm: of it.
        names: of the measure and, where it has parts, of these.
        rate: learning rate; None: its best.
        share: of its steps; None: all of them.
    """
    found: dict[int, float] = {}
    for result in compared(results, arm, rate, share):
        value: object = result.measures
        for name in names:
            value = value.get(name) if isinstance(value, Mapping) else None
        if isinstance(value, int | float):
            found[result.run.seed] = float(value)
    return found


TRAINING = CurveText("training-loss", "Training loss, each arm at its best rate", OVER_SEEDS,
                     "training tokens", "nats per token")  # fmt: skip
BY_RATE = CurveText("by-rate", "Validation loss over the learning rate",
                    "The runs by which rates were chosen.", "learning rate",
                    "nats per token")  # fmt: skip


def loss_figures(
    arms: Sequence[str],
    results: Results,
    *,
    condition: str = "",
    own: Collection[str] | None = None,
) -> list[Figure]:
    """Training losses, and losses over the rates that were tried.

    Args:
        arms: of the study.
        results: of it.
        condition: the name of what some arms have in common that are drawn apart from others.
        own: those arms; None: all.
    """
    there = [arm for arm in arms if results.of([arm])]
    drawn_arms = [arm for arm in there if own is None or arm in own]
    training = {
        arm: [
            (float(tokens), loss)
            for result in compared(results, arm)
            for tokens, loss in result.measures["curve"]
        ]
        for arm in drawn_arms
    }
    raced = {
        arm: [
            (rate, loss)
            for rate, by_seed in _tuning_losses(results, arm).items()
            for loss in by_seed.values()
        ]
        for arm in drawn_arms
    }
    drawn = []
    if shown := bands(training):
        drawn.append(curve_figure(_text_of(TRAINING, condition), shown, there))
    if shown := bands(raced):
        axis = tick_axis(rate for points in raced.values() for rate, _ in points)
        drawn.append(curve_figure(_text_of(BY_RATE, condition), shown, there, axis))
    return drawn


def _text_of(text: CurveText, condition: str) -> CurveText:
    if not condition:
        return text
    return replace(text, id=f"{text.id}-{condition}", title=f"{text.title}: {condition}")
