"""What the study `selective-lm` compares: arms from scratch and fine-tuned, and their sizes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import product

from headway.mechanisms import OutputGate, ScalableSoftmax, SelectiveAttention
from headway.studies.claims import Size
from headway.studies.language_models.course import Arm, Extent, Shape
from headway.studies.language_models.fine import Continuation
from headway.studies.language_models.rates import Rates

PAPER = "arXiv 2411.12892"
TARGETS = {"q": ("query",), "k": ("key",), "v": ("value",), "qv": ("query", "value")}
PARTS = ("token", "position", "both")
NORM = {"qk_norm": True}
FINE = "fine-"
"""What names of fine-tuned arms start with."""


def selective(target: str, part: str) -> SelectiveAttention:
    """The mechanism of an arm.

    Args:
        target: key of `TARGETS`.
        part: of `PARTS`.
    """
    return SelectiveAttention(
        query="query" in TARGETS[target],
        key="key" in TARGETS[target],
        value="value" in TARGETS[target],
        token="none" if part == "position" else "shared",
        position=part != "token",
    )


GRID = {
    "plain": Arm(about="no temperature"),
    **{
        f"{target}-{part}": Arm(
            about=f"temperature of {' and '.join(TARGETS[target])} by "
            + ("token and position" if part == "both" else part),
            mechanisms=(selective(target, part),),
        )
        for target, part in product(TARGETS, PARTS)
    },
}
NORMED = {
    f"{name}-norm": replace(arm, about=f"{arm.about}, QK-norm", fields=NORM)
    for name, arm in GRID.items()
}
CONTROLS = {
    "plain-wide": Arm(
        about="no temperature, feed-forward parts one unit wider, which is more parameters than "
        "temperatures have",
        wider=1,
    ),
    "head-constant": Arm(
        about="a learned temperature of each head's queries, the same for all tokens",
        mechanisms=(
            SelectiveAttention(value=False, token="constant", position=False, per_head=True),
        ),
    ),
    "scalable-softmax": Arm(
        about="a learned slope of ln n and a learned constant in each head",
        mechanisms=(ScalableSoftmax(bias=True, init="identity"),),
    ),
    "output-gate": Arm(
        about="a gate on each head's output", mechanisms=(OutputGate(granularity="head"),)
    ),
}
SCRATCH = GRID | NORMED | CONTROLS
TUNED = {
    f"{FINE}{name}": replace(
        arm,
        about=f"{arm.about}, fine-tuned from a plain model",
        continues="plain-norm" if arm.fields else "plain",
    )
    for name, arm in (GRID | NORMED | {"head-constant": CONTROLS["head-constant"]}).items()
}
ARMS: Mapping[str, Arm] = SCRATCH | TUNED
GROUPS: Mapping[str, Collection[str]] = {"from-scratch": tuple(SCRATCH), "fine-tuned": tuple(TUNED)}
"""Arms that are told and drawn together, by what they have in common."""


def base_of(arm: str) -> str:
    """The arm without temperatures that an arm is compared with: itself, of one without."""
    spec = ARMS[arm]
    return (FINE if spec.continues else "") + ("plain-norm" if spec.fields else "plain")


SHARES = (0.5, 0.7)
"""Of its steps, with which temperatures of queries and values are run besides."""
SHARED = dict.fromkeys(("qv-both", f"{FINE}qv-both"), SHARES)

EXTENTS: Mapping[Size, Extent] = {
    "small": Extent(
        shapes=(Shape(layers=2, width=48, heads=3, kv_heads=3),),
        context=128,
        vocab_size=1024,
        max_characters=2_000_000,
        batch_size=8,
        steps=150,
        held_tokens=32_768,
        rates=Rates(first=(8e-3,), most=1),
    ),
    "paper": Extent(
        shapes=(Shape(layers=6, width=384, heads=6, kv_heads=6),),
        context=512,
        vocab_size=8192,
        max_characters=100_000_000,
        batch_size=64,
        steps=1_000,
        held_tokens=1_048_576,
        rates=Rates(first=(2e-3, 4e-3), most=5),
    ),
}
CONTINUATIONS: Mapping[Size, Continuation] = {
    "small": Continuation(
        base_steps=100, base_rate=8e-3, steps=60, rates=Rates(first=(4e-3,), most=1)
    ),
    "paper": Continuation(
        base_steps=1_000, base_rate=2e-3, steps=300, rates=Rates(first=(5e-4, 1e-3), most=5)
    ),
}
