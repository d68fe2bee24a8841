"""What the study `combine` combines: parts, the design of its screening, and its sizes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import chain, combinations
from typing import Any

from headway.mechanisms import (
    KVShift,
    LayerShortcut,
    Mechanism,
    OutputGate,
    ResidualStream,
    SelectiveAttention,
)
from headway.mechanisms.recommended import RECOMMENDED, RECOMMENDED_FIELDS
from headway.studies.claims import Size
from headway.studies.combine.factorial import Factorial, Subset
from headway.studies.language_models.course import Arm, Extent, Shape
from headway.studies.language_models.rates import Rates


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a model can have beside the plain one.

    Attributes:
        about: what it is.
        mechanism: that it is, or None.
        fields: of `HeadwayConfig`.
        source: of the published figure.
        published: that figure, a difference of losses, or None where it is told in words alone.
        told: the figure as it is read.
    """

    about: str
    mechanism: Mechanism | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    source: str
    published: float | None = None
    told: str = "lower; no figure is given"


PARTS: Mapping[str, Part] = {
    "stream": Part(
        about="values of the first layer in every layer, both weights learned",
        mechanism=ResidualStream(source="first", scale="layer"),
        source="arXiv 2412.15113 (stream) and 2410.17897 (first layer), weights of modded-nanogpt",
        published=3.3065 - 3.3274,
        told="-0.0209 (3.3274 to 3.3065, single runs)",
    ),
    "shift": Part(
        about="keys and values mixed with those of the token before",
        mechanism=KVShift(),
        source="logs of arXiv 2411.19574's first author, xumingyu2021/BlaGPT",
        published=3.3132 - 3.3456,
        told="-0.0324 (3.3456 to 3.3132)",
    ),
    "temperature": Part(
        about="temperatures of queries and values by token and position",
        mechanism=SelectiveAttention(),
        source="arXiv 2411.12892, language models, second-hand",
        told="-0.006 (perplexity 26.681 to 26.514)",
    ),
    "depth": Part(
        about="in the last layer, attention over the outputs of all layers at the same token",
        mechanism=LayerShortcut(features="none", reach="token", mode="add"),
        source="arXiv 2409.10870, second-hand",
    ),
    "norm": Part(
        about="RMSNorm of queries and keys in every head",
        fields={"qk_norm": True},
        source="logs of arXiv 2411.19574's first author, with KV shifting",
        published=3.3132 - 3.3383,
        told="-0.0251 (3.3383 to 3.3132)",
    ),
    "gate": Part(
        about="a gate on each head's output, which leaves no need of a sink",
        mechanism=OutputGate(granularity="head"),
        source="arXiv 2505.06708, second-hand",
    ),
}

DESIGN = Factorial(
    basic=("stream", "shift", "temperature", "depth"),
    generated={
        "norm": ("stream", "shift", "temperature"),
        "gate": ("shift", "temperature", "depth"),
    },
)
"""2^(6-2), resolution IV: I = stream shift temperature norm = shift temperature depth gate = stream
depth norm gate."""
PLAIN = "plain"


def name_of(parts: Collection[str]) -> str:
    """The name of the arm that has these parts."""
    return "+".join(part for part in DESIGN.factors if part in parts) or PLAIN


def without(parts: Subset) -> dict[str, Subset]:
    """What is left of some parts by the one that is left out."""
    return {out: tuple(part for part in parts if part != out) for out in parts}


def _arm(parts: Subset) -> Arm:
    chosen = [PARTS[part] for part in parts]
    mechanisms = [part.mechanism for part in chosen if part.mechanism is not None]
    return Arm(
        about="; ".join(part.about for part in chosen) or "none of the parts",
        mechanisms=tuple(sorted(mechanisms, key=lambda m: m.place)),
        fields={name: value for part in chosen for name, value in part.fields.items()},
    )


SUBSETS: Mapping[str, Subset] = {
    name_of(parts): parts
    for parts in chain.from_iterable(
        combinations(DESIGN.factors, n) for n in range(len(DESIGN.factors) + 1)
    )
}
"""The parts of every arm."""
ARMS: Mapping[str, Arm] = {name: _arm(parts) for name, parts in SUBSETS.items()}
RECOMMENDED_PARTS: Subset = tuple(
    name
    for name in DESIGN.factors
    if PARTS[name].mechanism in RECOMMENDED
    or RECOMMENDED_FIELDS.items() & PARTS[name].fields.items()
)
"""Those of `HeadwayConfig.recommended`."""
CHOSEN_PARTS: Subset = ("stream", "gate")
"""What the screening at the size `paper` chose; a claim says whether its results still do."""

NARROW = {"initializer_range": 0.08}
"""Matrices of so narrow a model learn slowly from the usual 0.02."""
SCREENING: Mapping[Size, Extent] = {
    "small": Extent(
        shapes=(Shape(layers=4, width=64, heads=4, kv_heads=4),),
        fields=NARROW,
        context=128,
        vocab_size=1024,
        max_characters=2_000_000,
        batch_size=8,
        steps=300,
        held_tokens=65_536,
        rates=Rates(first=(8e-3,), most=1),
    ),
    "paper": Extent(
        shapes=(Shape(layers=6, width=256, heads=4, kv_heads=4),),
        context=512,
        vocab_size=49_152,
        max_characters=100_000_000,
        batch_size=64,
        steps=300,
        held_tokens=524_288,
        rates=Rates(first=(2e-3,), most=1),
    ),
}
"""Every run of the design at the one rate that is given."""
SCREENED_SEEDS: Mapping[Size, int] = {"small": 2, "paper": 1}

CONFIRMING: Mapping[Size, Extent] = {
    "small": Extent(
        shapes=(Shape(layers=4, width=64, heads=4, kv_heads=4),),
        fields=NARROW,
        context=128,
        vocab_size=1024,
        max_characters=2_000_000,
        batch_size=8,
        steps=400,
        held_tokens=65_536,
        rates=Rates(first=(8e-3, 16e-3), most=2),
    ),
    "paper": Extent(
        shapes=(Shape(layers=12, width=768, heads=12, kv_heads=12),),
        context=2048,
        vocab_size=49_152,
        max_characters=100_000_000,
        batch_size=16,
        steps=400,
        held_tokens=524_288,
        rates=Rates(first=(1e-3, 2e-3), most=4),
    ),
}
TOKENS, STEP = 0.75, 1.05
"""Targets: of plain's tokens for its final loss, and of its step time."""
SHARES = (0.6, TOKENS)
"""Of its steps, with which the chosen subset is run besides, and the best of those less a part."""
