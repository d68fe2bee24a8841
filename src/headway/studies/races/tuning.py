"""Studies whose arms are compared in speed, each at its own learning rate.

Rates are tuned on seeds of their own, by a race: the rate whose median seed reaches the score
first. What is compared are fresh seeds at the rate that won.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from headway.errors import HeadwayError
from headway.studies.claims import Measures, Result, Results, Run
from headway.studies.races.courses import DIGITS, Progress, Scores, or_never
from headway.studies.running import seeds_of
from headway_settings import StudySettings

TUNING, TEST = "tuning", "test"
"""Stages, an option of a run beside its rate."""
FIRST_TUNING_SEED = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What is raced.

    Attributes:
        rates: learning rates.
        seeds: of each rate.
        further: rates beyond these, raced one by one where the best so far is at the edge.
        published: a rate at which every arm is run too; None: there is none.
    """

    rates: tuple[float, ...]
    seeds: int
    further: tuple[float, ...] = ()
    published: float | None = None

    @property
    def told(self) -> str:
        """The rates in words."""
        rates = ", ".join(f"{rate:g}" for rate in self.rates)
        if not self.further:
            return rates
        further = ", ".join(f"{rate:g}" for rate in sorted(self.further))
        return f"{rates} (and, one by one where the best is at the edge, {further})"

    def races(self, arm: str, results: Results) -> tuple[list[Run], bool]:
        """The runs that an arm's rate is chosen by, and whether all are there.

        Args:
            arm: of the study.
            results: that are there; each rate that they have is raced with all seeds.
        """
        raced = [result.run for result in results.of([arm], stage=TUNING)]
        there = {run.key for run in raced}
        rates = list({*self.rates, *(run.options["rate"] for run in raced)})
        while done := all(run.key in there for run in self._at(arm, rates)):
            beyond = self._beyond(chosen_rate(results, arm), rates)
            if beyond is None:
                break
            rates.append(beyond)
        return self._at(arm, rates), done

    def _at(self, arm: str, rates: Sequence[float]) -> list[Run]:
        first = FIRST_TUNING_SEED
        seeds = range(first, first + self.seeds)
        return [_run(arm, seed, TUNING, rate) for seed in seeds for rate in sorted(rates)]

    def _beyond(self, best: float | None, rates: Sequence[float]) -> float | None:
        """The next rate on the side where the best is at the edge."""
        if best == max(rates):
            return min((rate for rate in self.further if rate > best), default=None)
        if best == min(rates):
            return max((rate for rate in self.further if rate < best), default=None)
        return None

    def runs(self, arms: Sequence[str], settings: StudySettings, results: Results) -> list[Run]:
        """The races, and of arms whose races are over all seeds at the rate that won.

        Raises:
            HeadwayError: seeds that rates are tuned on.
        """
        seeds = seeds_of(settings)
        if seeds.stop > FIRST_TUNING_SEED:
            raise HeadwayError(
                f"seed: {settings.seed} is not accepted; accepted are seeds below "
                f"{FIRST_TUNING_SEED}, from which on learning rates are tuned"
            )
        races = {arm: self.races(arm, results) for arm in arms}
        over = [arm for arm, (_, done) in races.items() if done]
        # The rate that won comes first: what is trained at the published one may take far longer.
        rates = {arm: dict.fromkeys((chosen_rate(results, arm), self.published)) for arm in over}
        tests = [
            _run(arm, seed, TEST, rate)
            for seed in seeds
            for arm in over
            for rate in rates[arm]
            if rate is not None
        ]
        return [run for raced, _ in races.values() for run in raced] + tests

    def bundles(
        self, runs: Sequence[Run], most: int, program: Callable[[Run], object] = lambda _: None
    ) -> Iterator[list[Run]]:
        """Runs to be trained together, at most so many unless what belongs together is more.

        The races of an arm belong together, and all tests of a seed at the published rate or at
        others: a study that is cut between two bundles has whole races and pairs.

        Args:
            runs: to be split, races first.
            most: copies.
            program: what copies of one program have in common.
        """
        kinds: dict[object, dict[object, list[Run]]] = defaultdict(lambda: defaultdict(list))
        for run in runs:
            racing = run.options["stage"] == TUNING
            published = run.options["rate"] == self.published
            kind = (program(run), racing, published and not racing)
            kinds[kind][run.arm if racing else run.seed].append(run)
        for belonging in kinds.values():
            held: list[Run] = []
            for together in belonging.values():
                if held and len(held) + len(together) > most:
                    yield held
                    held = []
                held = held + together
            yield held


def _run(arm: str, seed: int, stage: str, rate: float) -> Run:
    return Run(arm, seed, {"stage": stage, "rate": rate})


def chosen_rate(results: Results, arm: str) -> float | None:
    """The rate that won the races of an arm; None before them.

    Where medians are the same, as where no rate got there, the mean steps of training decide, and
    then the score that was reached.
    """
    by_rate: dict[float, list[Result]] = defaultdict(list)
    for result in results.of([arm], stage=TUNING):
        by_rate[result.run.options["rate"]].append(result)

    def place(rate: float) -> tuple[float, float, float]:
        ran = [r.measures for r in by_rate[rate]]
        return (
            median(or_never(m["steps"]) for m in ran),
            math.inf if any(m["diverged"] for m in ran) else fmean(m["trained"] for m in ran),
            -fmean(m["score"] for m in ran),
        )

    return min(sorted(by_rate), key=place, default=None)


def compared_runs(results: Results, arm: str, rate: float | None = None) -> list[Result]:
    """The runs of an arm that are compared.

    Args:
        results: of a study.
        arm: of it.
        rate: learning rate; None: the one that won.
    """
    rate = chosen_rate(results, arm) if rate is None else rate
    return results.of([arm], stage=TEST, rate=rate)


def steps_of(results: Results, arm: str, rate: float | None = None) -> dict[int, float]:
    """Steps to the score by seed, infinite where it was not reached.

    Arguments as in `compared_runs`.
    """
    return {r.run.seed: or_never(r.measures["steps"]) for r in compared_runs(results, arm, rate)}


def scores_of(results: Results, arm: str, name: str | None = None) -> dict[int, float]:
    """A score by seed at its best rate when training was done.

    Args:
        results: of a study.
        arm: of it.
        name: of the score; None: the one that was raced.
    """
    found = compared_runs(results, arm)
    return {
        r.run.seed: r.measures["score"] if name is None else r.measures["last"][name] for r in found
    }


Points = list[tuple[float, float | None]]


def score_points(results: Results, arm: str, rate: float | None = None) -> Points:
    """The score over steps as points of a figure, for each seed as far as any was trained; a seed
    stays where it was done. Arguments as in `compared_runs`."""
    curves = [r.measures["curve"] for r in compared_runs(results, arm, rate) if r.measures["curve"]]
    looks = sorted({step for curve in curves for step, _ in curve})
    stayed = [(step, curve[-1][1]) for curve in curves for step in looks if step > curve[-1][0]]
    return [(step, score) for curve in curves for step, score in curve] + stayed


def race_points(results: Results, arm: str) -> Points:
    """Steps over the learning rate as points of a figure; None where it was not reached."""
    races = results.of([arm], stage=TUNING)
    return [(r.run.options["rate"], r.measures["steps"]) for r in races]


def measures_of(run: Run, copy: Progress, last: Mapping[str, float], parameters: int) -> Measures:
    """What is kept of a run; the curve of the score only where arms are compared.

    Args:
        run: that was done.
        copy: how its training went.
        last: all scores by name when it was done.
        parameters: how many it learned.
    """
    kept = {"curve": copy.curve} if run.options["stage"] == TEST else {}
    return {
        "steps": copy.steps,
        "trained": copy.trained,
        "diverged": copy.diverged,
        "score": copy.curve[-1][1] if copy.curve else 0.0,
        "last": {name: round(value, DIGITS) for name, value in last.items()},
        "parameters": parameters,
        **kept,
    }


def last_of(scores: Scores, copies: int) -> list[dict[str, float]]:
    """The scores of each copy by name."""
    told = {name: values.tolist() for name, values in scores().items()}
    return [{name: values[number] for name, values in told.items()} for number in range(copies)]


def settled(runs: Sequence[Run]) -> Callable[[Sequence[Progress]], bool]:
    """Whether these runs have shown what they are run for; for `courses.follow`.

    A race is over when most seeds of one rate got there: the medians of the others are later. A
    test ends when all its runs have.
    """

    def enough(copies: Sequence[Progress]) -> bool:
        ran: dict[tuple[str, float], list[Progress]] = defaultdict(list)
        racing = set()
        for run, copy in zip(runs, copies, strict=True):
            if run.options["stage"] == TUNING:
                ran[run.arm, run.options["rate"]].append(copy)
            if not copy.done:
                racing.add((run.arm, run.options["stage"]))
        won = {
            (arm, TUNING)
            for (arm, _), of_rate in ran.items()
            if 2 * sum(copy.steps is not None for copy in of_rate) > len(of_rate)
        }
        return not racing - won

    return enough
