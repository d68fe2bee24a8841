"""The study `theorem3`: where gradient flow drives the taps of KV shifting (arXiv 2411.19574).

The setting of the theorem: one head without weights, orthonormal embeddings, no positions. The
sequence says T tokens once, then one of them, the j-th, again; the loss at the end is that of
predicting what followed it, token j + 1. Key and value i are a1 x[i] + a2 x[i-1] and
b1 x[i] + b2 x[i-1]. All tensors of taps and losses are `(N,)`, float64, one entry a start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from headway.report.curves import OVER_SEEDS, bands
from headway.report.figures import CurveText, Figure, curve_figure
from headway.studies.claims import Claim, Measures, Results, Run, Size, Study, one_by_one
from headway.studies.criteria import Criterion, Estimate, Verdict, at_most, verdict_of
from headway.studies.estimates import exact, mean_of
from headway.studies.running import arms_by_seeds
from headway_settings import StudySettings

Taps = tuple[Tensor, Tensor, Tensor, Tensor]
"""a1, a2, b1, b2."""

TOKENS = (5, 8, 20, 50, 100, 500)
"""T of the runs."""
CORNER = 0.01
"""How near to (0, 1) a flow must end to have got there."""


@dataclass(frozen=True)
class Extent:
    """How much of the flow is followed.

    Attributes:
        starts: drawn from U(0, 1) a seed and T.
        length: of a step in the plane of the taps.
        steps: of that length; a way through the unit square is shorter than all of them.
    """

    starts: int
    length: float
    steps: int


EXTENTS: Mapping[Size, Extent] = {
    "small": Extent(200, 0.01, 500),
    "paper": Extent(2_000, 0.002, 2_500),
}


def corrected_loss(taps: Taps, tokens: int) -> Tensor:
    """The exact loss, with e^{a1} in the middle term, for 2 <= j <= T - 2 (from 1)."""
    return _loss(taps, tokens, printed=False)


def printed_loss(taps: Taps, tokens: int) -> Tensor:
    """The loss as the paper prints it (Table 5, equations 10 and 12), with e^{a2} there."""
    return _loss(taps, tokens, printed=True)


def _loss(taps: Taps, tokens: int, printed: bool) -> Tensor:
    a1, a2, b1, b2 = taps
    sum_ = 2 * a1.exp() + a2.exp() + tokens - 2
    same, after = a1.exp() / sum_, a2.exp() / sum_
    right = after * b1 + b2 / sum_
    middle = b1 / sum_ + b2 * (after if printed else same)
    others = (
        2 * middle.exp()
        + (2 * same * b1 + after * b2).exp()
        + (tokens - 4) * ((b1 + b2) / sum_).exp()
    )
    return torch.log(right.exp() + others) - right


def two_token_loss(taps: Taps, tokens: int) -> Tensor:
    """The exact loss with T = 2: x1 x2 x1, where x2 follows x1 and also stands before the end."""
    a1, a2, b1, b2 = taps
    sum_ = 2 * a1.exp() + a2.exp() + tokens - 2
    same, after = a1.exp() / sum_, a2.exp() / sum_
    right = b1 * after + b2 * same
    return torch.logaddexp(right, 2 * b1 * same + b2 * after) - right


def simulated_loss(taps: Taps, tokens: int, repeated: int) -> Tensor:
    """The loss of attention as it is computed, on the sequence itself.

    Args:
        taps: of each start.
        tokens: T.
        repeated: j, counted from 1, below T.
    """
    a1, a2, b1, b2 = (tap[:, None, None] for tap in taps)
    said = [*range(tokens), repeated - 1]
    now = torch.eye(tokens, dtype=torch.float64)[said]
    before = torch.cat([torch.zeros_like(now[:1]), now[:-1]])
    keys, values = a1 * now + a2 * before, b1 * now + b2 * before
    weights = torch.softmax(keys @ now[-1], dim=1)
    return -torch.einsum("nt,ntd->nd", weights, values).log_softmax(dim=1)[:, repeated]


@dataclass(frozen=True)
class Flow:
    """Where a flow ended.

    Attributes:
        taps: at the end.
        times: `(N,)` that it took, of the flow d tap / dt = - d loss / d tap.
        monotone: `(N,)` whether a1 never rose and b1 never fell on the way.
    """

    taps: Taps
    times: Tensor
    monotone: Tensor


def flow(loss: Callable[[Taps], Tensor], start: Tensor, extent: Extent, tied: bool = True) -> Flow:
    """Follow the gradient down.

    Args:
        loss: of taps.
        start: `(N, 2)` of a1 and b1; a2 and b2 start as 1 - a1 and 1 - b1.
        extent: of the steps; all have the same length, so that slow parts take no longer.
        tied: a2 and b2 stay so, and a1 and b1 between 0 and 1; else all four are free.
    """
    at = start if tied else torch.stack([start, 1 - start], dim=2).flatten(1)
    times = torch.zeros(len(at), dtype=torch.float64)
    monotone = torch.ones(len(at), dtype=torch.bool)
    for _ in range(extent.steps):
        leaf = at.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(_taps(leaf, tied)).sum(), leaf)
        way = -slope
        if tied:  # what leads out of the square is cut off
            way = way * ~(((at <= 0) & (way < 0)) | ((at >= 1) & (way > 0)))
        speed = way.norm(dim=1, keepdim=True)
        moving = speed > 0
        following = at + torch.where(moving, extent.length * way / speed, 0.0)
        if tied:
            following = following.clamp(0, 1)
        a1, b1 = (0, 1) if tied else (0, 2)
        monotone &= (following[:, a1] <= at[:, a1]) & (following[:, b1] >= at[:, b1])
        times += torch.where(moving, extent.length / speed, 0.0)[:, 0]
        at = following
    return Flow(_taps(at, tied), times, monotone)


def _taps(at: Tensor, tied: bool) -> Taps:
    if tied:
        a1, b1 = at.unbind(dim=1)
        return a1, 1 - a1, b1, 1 - b1
    a1, a2, b1, b2 = at.unbind(dim=1)
    return a1, a2, b1, b2


def _near(taps: Taps, a1: float, b1: float) -> Tensor:
    return ((taps[0] - a1).abs() < CORNER) & ((taps[2] - b1).abs() < CORNER)


ARMS = {
    "corrected": "the exact loss; a2 = 1 - a1 and b2 = 1 - b1, both between 0 and 1",
    "printed": "the loss as printed, likewise",
    "free": "the exact loss, all four taps free",
    "two-tokens": "the exact loss with T = 2, tied as the first",
}


def _run(run: Run, settings: StudySettings) -> Measures:
    generator = torch.Generator().manual_seed(run.seed)
    extent = EXTENTS[settings.size]
    start = torch.rand((extent.starts, 2), generator=generator, dtype=torch.float64)
    if run.arm == "two-tokens":
        ended = flow(partial(two_token_loss, tokens=2), start, extent)
        return {"previous": _share(_near(ended.taps, 1, 0)),
                "induction": _share(_near(ended.taps, 0, 1))}  # fmt: skip
    loss = printed_loss if run.arm == "printed" else corrected_loss
    tied = run.arm != "free"
    ended_by = {t: flow(partial(loss, tokens=t), start, extent, tied) for t in TOKENS}
    if not tied:
        return {"induction": {str(t): _quadrant(end.taps) for t, end in ended_by.items()}}
    times = torch.stack([end.times for end in ended_by.values()])
    return {
        "corner": {str(t): _share(_near(end.taps, 0, 1)) for t, end in ended_by.items()},
        "monotone": {str(t): _share(end.monotone) for t, end in ended_by.items()},
        "time": {str(t): float(end.times.median()) for t, end in ended_by.items()},
        "slower": _share((times.diff(dim=0) > 0).all(dim=0)),
        "error": _error(loss, start, generator),
    }


def _quadrant(taps: Taps) -> float:
    a1, a2, b1, b2 = taps
    return _share((a2 > a1) & (b1 > b2))


def _error(loss: Callable[[Taps, int], Tensor], start: Tensor, generator: torch.Generator) -> float:
    """Largest error of a formula against attention as computed, over T and j drawn for each."""
    taps = _taps(start, tied=True)
    errors = []
    for tokens in (t for t in TOKENS if t <= 100):
        repeated = int(torch.randint(2, tokens - 1, (), generator=generator))
        errors.append((loss(taps, tokens) - simulated_loss(taps, tokens, repeated)).abs().max())
    return float(torch.stack(errors).max())


def _share(there: Tensor) -> float:
    return float(there.double().mean())


def _least(measure: str) -> Callable[[str, Results], Estimate | None]:
    """The share over starts at the T where it is least."""

    def estimate(arm: str, results: Results) -> Estimate | None:
        by_seed = results.measure(arm, measure)
        over = [
            mean_of({s: by_t[str(t)] for s, by_t in by_seed.items()}, bounds=(0, 1)) for t in TOKENS
        ]
        return min((e for e in over if e is not None), key=lambda e: e.value, default=None)

    return estimate


def _largest_error(arm: str, results: Results) -> Estimate | None:
    errors = results.measure(arm, "error").values()
    return exact(max(errors), len(errors)) if errors else None


def _judge_all(ours: Estimate) -> Verdict:
    return verdict_of(counts=ours.low >= 0.99, weaker=ours.low > 0.5, reaches=ours.high >= 0.99)


ALL = Criterion("99 % of the starts with its interval; partly: more than half", _judge_all)
SOURCE = "arXiv 2411.19574, Theorem 3"


def _claim(
    sentence: str, arm: str, estimate: Callable[[str, Results], Estimate | None], told: str,
    differs: str = "",
) -> Claim:  # fmt: skip
    return Claim(
        claim=sentence,
        source=SOURCE,
        published=1.0,
        told=told,
        shown=".1%",
        criterion=ALL,
        arms=(arm,),
        estimate=partial(estimate, arm),
        seeds=10,
        differs=differs,
    )


def _formula(sentence: str, arm: str, source: str) -> Claim:
    return Claim(
        claim=sentence,
        source=source,
        published=0.0,
        told="exact",
        shown=".1e",
        criterion=at_most(1e-12),
        arms=(arm,),
        estimate=partial(_largest_error, arm),
        seeds=10,
    )


def _measured(name: str) -> Callable[[str, Results], Estimate | None]:
    return lambda arm, results: mean_of(results.measure(arm, name), bounds=(0, 1))


CLAIMS = (
    _formula("The loss with e^{a1} in its middle term is exact (largest error, nats)",
             "corrected", SOURCE + ", corrected"),
    _formula("The loss as printed is exact (largest error, nats)", "printed",
             SOURCE + ", Table 5, equations 10 and 12"),
    _claim("Descent drives (a1, b1) to (0, 1): share of starts, least over T", "corrected",
           _least("corner"), "all"),
    _claim("Descent of the loss as printed drives (a1, b1) to (0, 1): share of starts, least "
           "over T", "printed", _least("corner"), "all"),
    _claim("The larger T, the slower: share of starts whose time grows with each T", "corrected",
           _measured("slower"), "all"),
    _claim("The way is monotone (a1 never rises, b1 never falls): share of starts, least over T",
           "corrected", _least("monotone"), "all"),
    _claim("All four taps free, descent ends in an induction head (a2 > a1, b1 > b2): share of "
           "starts, least over T", "free", _least("induction"), "all",
           "The taps are neither tied nor bounded."),
    _claim("With T = 2 it learns the previous token, (a1, b1) = (1, 0): share of starts",
           "two-tokens", _measured("previous"), "all"),
)  # fmt: skip

SHARE = CurveText(
    "corner", "Starts that end at (a1, b1) = (0, 1), with free taps in its quadrant",
    OVER_SEEDS, "T", "share (0 to 1)",
)  # fmt: skip
TIME = CurveText("time", "Time of the flow", "Median over starts.", "T", "time")
WAY = CurveText("monotone", "Starts whose way is monotone", "a1 never rises, b1 never falls.", "T",
                "share (0 to 1)")  # fmt: skip


def _figures(results: Results) -> Sequence[Figure]:
    there = [arm for arm in ARMS if results.of([arm])]
    measures = {SHARE: ("corner", "induction"), TIME: ("time",), WAY: ("monotone",)}
    drawn = []
    for text, names in measures.items():
        points: dict[str, list[tuple[float, float | None]]] = {arm: [] for arm in there}
        for result in results:
            for name in names:
                by_t = result.measures.get(name)
                if isinstance(by_t, Mapping):
                    points[result.run.arm] += [(float(t), value) for t, value in by_t.items()]
        if shown := bands(points):
            drawn.append(curve_figure(text, shown, there, {"type": "log"}))
    return drawn


THEOREM3 = Study(
    name="theorem3",
    claim="Gradient descent turns the four taps of KV shifting into an induction head, whatever "
    "they start from.",
    source=SOURCE,
    published="descent drives (a1, b1) to (0, 1); a larger T is slower but monotone; T = 2 is "
    "degenerate",
    arms=ARMS,
    measure="Gradient flow of the loss from starts drawn from U(0, 1), T from "
    f"{TOKENS[0]} to {TOKENS[-1]}; errors of formulas against attention as it is computed.",
    claims=CLAIMS,
    seeds={"small": 10, "paper": 10},
    differs={
        size: f"Orthonormal embeddings in the place of Gaussian ones in many dimensions; the flow "
        f"is followed in the unit square, in {extent.steps:,} steps of {extent.length:g} from "
        f"{extent.starts:,} starts a seed."
        for size, extent in EXTENTS.items()
    },
    runs=lambda settings, _: arms_by_seeds(tuple(ARMS), settings),
    perform=one_by_one(_run),
    figures=_figures,
)
