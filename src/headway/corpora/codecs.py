"""What turns sound into tokens and back, as each kind of speech corpus does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from headway.corpora.audio import Samples
from headway.corpora.tokens import Integers

_MU = 255


class Codec(Protocol):
    """Sound to tokens and back."""

    @property
    def rate(self) -> int:
        """Samples a second of the sound."""

    @property
    def codes(self) -> int:
        """Different tokens."""

    @property
    def description(self) -> Mapping[str, Any]:
        """What `headway.corpora.speech.load_codec` needs, as JSON holds it."""

    def encode(self, samples: Samples) -> Integers:
        """The tokens (T,) of sound (number of samples,)."""

    def decode(self, tokens: Integers) -> Samples:
        """The sound (number of samples,) of tokens (T,)."""


@dataclass(frozen=True)
class MuLaw:
    """8-bit mu-law samples (ITU-T G.711's curve, continuous, as WaveNet uses it: 1609.03499)."""

    rate: int
    codes: int = _MU + 1

    @property
    def description(self) -> Mapping[str, Any]:
        """The rate is all."""
        return {"codec": "mu-law", "rate": self.rate}

    def encode(self, samples: Samples) -> Integers:
        """One token a sample."""
        curve = np.sign(samples) * np.log1p(_MU * np.abs(samples)) / np.log1p(_MU)
        tokens: Integers = np.rint((curve + 1) / 2 * _MU).astype(np.int64)
        return tokens

    def decode(self, tokens: Integers) -> Samples:
        """The middle of what each token stands for; encoding it gives the same token."""
        curve = 2 * tokens.astype(np.float64) / _MU - 1
        sound: Samples = np.sign(curve) * np.expm1(np.abs(curve) * np.log1p(_MU)) / _MU
        return sound
