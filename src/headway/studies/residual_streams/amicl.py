"""The study `amicl`: how often the associative memory of arXiv 2412.15113 recalls a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headway.memory.amicl import Amicl, Task, accuracy
from headway.report.curves import OVER_SEEDS, bands
from headway.report.figures import CurveText, Figure, curve_figure
from headway.studies.claims import Claim, Measures, Results, Run, Size, Study, one_by_one
from headway.studies.criteria import share_error, within
from headway.studies.estimates import mean_of
from headway.studies.running import arms_by_seeds
from headway_settings import StudySettings

TRIALS: Mapping[Size, int] = {"small": 4_000, "paper": 20_000}
"""Trials of a point and a seed, so many that an interval is much narrower than what is compared;
long contexts have fewer."""
LONG = 200
"""Tokens from which on a context has a tenth of the trials."""
POINTS = 0.015
"""How near to the notebook counts: 1.5 points."""
NOTEBOOK_TRIALS = 1_000
"""Trials behind a figure of the notebook."""
NOTEBOOK = "code of arXiv 2412.15113, AMICL.ipynb"
PLOT = "The published figure is read from a plot."
ASKED = "2026-11-30"
"""The day on which points were added whose results were there."""

WEIGHTS = tuple(step / 4 for step in range(9))
LENGTHS = (10, 20, 40, 100, 500, 1000)
CLASSES = (3, 5, 10, 20, 50, 100, 200, 512, 1024)
"""Those of the notebook are 50, 512 and 1,024. The first class is never used, so of 2 one is."""


@dataclass(frozen=True)
class Sweep:
    """One arm.

    Attributes:
        about: what it is.
        axis: what its points differ in, and the figure they stand in; empty without a figure.
        points: memory and task by the name of the measure, for a figure its place on the axis.
    """

    about: str
    axis: str
    points: Mapping[str, tuple[Amicl, Task]]


FEW = Task(classes=50)


def _over_weights(about: str, like: Amicl) -> Sweep:
    memories = {
        f"{a:g}": Amicl(a=a, similarity=like.similarity, last_key=like.last_key) for a in WEIGHTS
    }
    return Sweep(about, "a", {name: (memory, FEW) for name, memory in memories.items()})


def _over_classes(a: float, about: str) -> Sweep:
    return Sweep(about, "classes", {f"{k}": (Amicl(a=a), Task(classes=k)) for k in CLASSES})


SWEEPS = {
    "key-weight": Sweep(
        "dot product, 512 classes, over a", "a",
        {f"{a:g}": (Amicl(a=a), Task()) for a in (1, 1.25, 1.5, 1.75, 2)},
    ),
    "tie": Sweep(
        "a = 1 in other sizes", "",
        {
            "D=1000": (Amicl(a=1), Task(width=1000)),
            "D=1000 K=1024": (Amicl(a=1), Task(width=1000, classes=1024)),
            "K=1024": (Amicl(a=1), Task(classes=1024)),
            "T=100": (Amicl(a=1), Task(tokens=100)),
        },
    ),
    "dot": _over_weights("dot product, 50 classes, over a", Amicl()),
    "pearson": _over_weights("Pearson's correlation, over a", Amicl(similarity="pearson")),
    "mixed-last-key": _over_weights(
        "the last token's key mixed as all others, over a", Amicl(last_key="mixed")
    ),
    "euclidean": _over_weights("Euclidean distance, the farthest wins, over a",
                               Amicl(similarity="euclidean")),
    "manhattan": _over_weights("Manhattan distance, the farthest wins, over a",
                               Amicl(similarity="manhattan")),
    "tokens": Sweep(
        "a = 2 over the length of the context", "tokens",
        {f"{t}": (Amicl(), Task(tokens=t, classes=50)) for t in LENGTHS},
    ),
    "width": Sweep(
        "a = 2 over the width", "width",
        {f"{d}": (Amicl(), Task(width=d, classes=50)) for d in LENGTHS},
    ),
    "classes": _over_classes(2, "a = 2 over the number of classes"),
    "classes-tie": _over_classes(1, "a = 1 over the number of classes"),
    "softmax": Sweep(
        "a = 2, softmax in the place of argmax, over its sharpness", "sharpness",
        {f"{2**n}": (Amicl(separation="softmax", sharpness=2**n), FEW) for n in range(7)},
    ),
}  # fmt: skip
"""Arms by name."""


def _recalled(
    arm: str,
    point: str,
    published: float,
    words: str,
    told: str = "",
    differs: str = "",
    asked: str = "",
) -> Claim:
    """A claim on one point of an arm."""
    error = share_error(published, NOTEBOOK_TRIALS)
    return Claim(
        claim=f"Accuracy, {words}",
        source=NOTEBOOK,
        published=published,
        told=told,
        shown=".1%",
        criterion=within(published, POINTS, error, shown=".1%"),
        arms=(arm,),
        estimate=lambda results: mean_of(results.measure(arm, point), bounds=(0, 1)),
        seeds=10,
        differs=differs,
        asked=asked,
    )


CLAIMS = (
    *(
        _recalled("key-weight", a, right, f"a = {a}, T = 20, D = 100, K = 512")
        for a, right in
        (("1", 0.325), ("1.25", 0.907), ("1.5", 0.994), ("1.75", 1.0), ("2", 1.0))
    ),
    _recalled("tie", "D=1000", 0.315, "a = 1, T = 20, D = 1000, K = 512"),
    _recalled("tie", "D=1000 K=1024", 0.321, "a = 1, T = 20, D = 1000, K = 1024"),
    _recalled("tie", "K=1024", 0.342, "a = 1, T = 20, D = 100, K = 1024"),
    _recalled("tie", "T=100", 0.315, "a = 1, T = 100, D = 100, K = 512"),
    *(
        _recalled("dot", a, right, f"a = {a}, T = 20, D = 100, K = 50", differs=PLOT)
        for a, right in (("0.5", 0.0), ("1", 0.3), ("1.25", 0.9))
    ),
    *(
        _recalled("dot", a, right, f"a = {a}, T = 20, D = 100, K = 50",
                  differs=f"{PLOT} It is the end of a plateau there.", asked=ASKED)
        for a, right in (("0.75", 0.0), ("1.5", 1.0))
    ),
    _recalled(
        "pearson", "2", 0.87, "Pearson, a = 2, T = 20, D = 100, K = 50", "near 87 %", PLOT
    ),
    _recalled(
        "pearson", "1.25", 0.87, "Pearson, a = 1.25, T = 20, D = 100, K = 50", "near 87 %",
        f"{PLOT} It has a plateau whose start we do not know.", ASKED
    ),
    *(
        _recalled("tokens", f"{t}", 1.0, f"a = 2, T = {t}, D = 100, K = 50", differs=PLOT)
        for t in LENGTHS
        if t != 20  # which is D = 100 below
    ),
    *(
        _recalled("width", d, right, f"a = 2, T = 20, D = {d}, K = 50", differs=PLOT)
        for d, right in (
            ("10", 0.73), ("20", 0.945), ("40", 0.99), ("100", 1.0), ("500", 1.0), ("1000", 1.0)
        )
    ),
)  # fmt: skip


def _run(run: Run, settings: StudySettings) -> Measures:
    return {
        name: accuracy(memory, task, _trials(task, settings.size), run.seed)
        for name, (memory, task) in SWEEPS[run.arm].points.items()
    }


def _trials(task: Task, size: Size) -> int:
    return TRIALS[size] // (10 if task.tokens > LONG else 1)


AXES = {
    "a": CurveText(
        "over-a", "Weight of the token before in a key",
        OVER_SEEDS, "a",
        "accuracy (0 to 1)",
    ),
    "width": CurveText("over-width", "Width", "a = 2.", "D", "accuracy (0 to 1)"),
    "tokens": CurveText("over-tokens", "Length of the context", "a = 2.", "T",
                        "accuracy (0 to 1)"),
    "classes": CurveText(
        "over-classes", "Number of classes",
        "a = 2, and a = 1, where the label's key ties with two others.", "K",
        "accuracy (0 to 1)",
    ),
    "sharpness": CurveText("over-sharpness", "Softmax in the place of argmax", "a = 2.",
                           "sharpness", "accuracy (0 to 1)"),
}  # fmt: skip
LOGARITHMIC = {"type": "log"}


def _figures(results: Results) -> Sequence[Figure]:
    drawn = []
    for axis, text in AXES.items():
        points = {
            arm: [
                (float(name), r.measures.get(name))
                for r in results.of([arm])
                for name in sweep.points
            ]
            for arm, sweep in SWEEPS.items()
            if sweep.axis == axis
        }
        if shown := bands(points):
            scale = None if axis == "a" else LOGARITHMIC
            there = [arm for arm in SWEEPS if results.of([arm])]
            drawn.append(curve_figure(text, shown, there, scale))
    return drawn


_DIFFERS = (
    "Classes, means and labels are drawn as the notebook draws them, but only those that occur; "
    "contexts of 500 and 1,000 tokens have a tenth of the trials."
)

AMICL = Study(
    name="amicl",
    claim="An associative memory whose keys mix a token with the one before recalls the label of "
    "a class from its context nearly always, where the token before weighs more.",
    source="arXiv 2412.15113; " + NOTEBOOK,
    published="accuracy 32.5, 90.7, 99.4, 100, 100 % at a = 1, 1.25, 1.5, 1.75, 2; 87 % with "
    "Pearson's correlation; 73 to 100 % over the width",
    arms={name: sweep.about for name, sweep in SWEEPS.items()},
    measure="Share of trials in which exactly the label of the query's class is recalled.",
    claims=CLAIMS,
    seeds={"small": 10, "paper": 10},
    differs={
        size: f"10 seeds of {trials:,} trials against one of 1,000. {_DIFFERS}"
        for size, trials in TRIALS.items()
    },
    runs=lambda settings, _: arms_by_seeds(tuple(SWEEPS), settings),
    perform=one_by_one(_run),
    figures=_figures,
)
