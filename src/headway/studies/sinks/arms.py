"""What is trained in the study of growing sinks: arms, and two sizes of everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headway.decoder import HeadwayConfig
from headway.errors import HeadwayError
from headway.mechanisms import Mechanism
from headway.mechanisms.fields import nearest
from headway.studies.presets import PRESETS


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the models are, how long they train, and on what they are measured.

    Attributes:
        layers, width, heads, context: of the decoder (SwiGLU, RMSNorm, tied embeddings).
        vocab_size: of the BPE, trained on the training split.
        max_characters: of text that is read.
        batch_size: sequences a step.
        steps: optimiser steps.
        every: steps between readings of the sinks.
        read_samples: windows of a reading while training.
        profile_samples: windows of the last profile.
        test_tokens: tokens of the test split that the perplexity is taken from.
        weight_decay, learning_rate: see `headway.training.recipe.Recipe`.
    """

    layers: int
    width: int
    heads: int
    context: int
    vocab_size: int
    max_characters: int
    batch_size: int
    steps: int
    every: int
    read_samples: int
    profile_samples: int
    test_tokens: int
    learning_rate: float
    weight_decay: float = 0.1


SIZES = {
    "small": Size(
        layers=2, width=64, heads=2, context=128, vocab_size=1024, max_characters=2_000_000,
        batch_size=8, steps=240, every=40, read_samples=32, profile_samples=32,
        test_tokens=16_384, learning_rate=4e-3,
    ),
    "paper": Size(
        layers=8, width=512, heads=8, context=512, vocab_size=4096, max_characters=100_000_000,
        batch_size=64, steps=5_000, every=200, read_samples=64, profile_samples=100,
        test_tokens=262_144, learning_rate=3e-3,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One model of the study.

    Attributes:
        position: its position encoding.
        preset: its mechanism, a name of `headway.studies.presets`; 'vanilla' has none.
        shape: layers, width and heads of its own at the size 'paper'.
    """

    position: str
    preset: str = "vanilla"
    shape: tuple[int, int, int] | None = None

    def mechanisms(self, width: int) -> list[Mechanism]:
        """Its mechanisms in a model of that width."""
        return PRESETS[self.preset](width)

    def config(self, size_name: str, vocab_size: int, **fields: Any) -> HeadwayConfig:
        """The configuration of its model.

        Args:
            size_name: 'small' or 'paper'.
            vocab_size: of the corpus.
            fields: of `HeadwayConfig`, besides.
        """
        size = SIZES[size_name]
        own = self.shape if size_name == "paper" else None
        layers, width, heads = own or (size.layers, size.width, size.heads)
        return HeadwayConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            position=self.position,
            max_position_embeddings=size.context,
            initializer_range=0.02,
            mechanisms=self.mechanisms(width),
            **fields,
        )


ARMS = {
    "learned": Arm("learned"),
    "rope": Arm("rope"),
    "alibi": Arm("alibi"),
    "none": Arm("none"),
    "kv_shift": Arm("rope", "kv_shift"),
    "selective": Arm("rope", "selective"),
    "value_stream": Arm("rope", "value_stream"),
    "sink_logit": Arm("rope", "sink_logit"),
    "output_gate": Arm("rope", "output_gate"),
    "stream": Arm("rope", shape=(6, 256, 4)),
}
"""The last one is no part of the comparison: a model small enough to be kept, for streaming."""

COMPARED = tuple(name for name in ARMS if name != "stream")
"""The arms that are run where none are named."""


def chosen_arms(names: Sequence[str], field: str = "arms") -> tuple[str, ...]:
    """The arms that a setting names; without any, those that are compared.

    Raises:
        HeadwayError: an arm that is not there, or one named twice.
    """
    for name in names:
        if name not in ARMS:
            raise HeadwayError(
                f"{field}: {name!r} is unknown{nearest(name, ARMS)}; accepted are {', '.join(ARMS)}"
            )
    if len(set(names)) < len(names):
        raise HeadwayError(f"{field}: {' '.join(names)!r} names an arm twice; name each once")
    return tuple(names) or COMPARED
