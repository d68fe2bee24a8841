"""Log-mel frames, 75 a second, a quantiser learned on them, and sound from frames."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from headway.corpora.audio import Samples
from headway.corpora.optional import optional_package
from headway.corpora.tokens import Integers
from headway.errors import HeadwayError

Frames = np.ndarray[Any, np.dtype[np.float32]]
HalfFrames = np.ndarray[Any, np.dtype[np.float16]]

FRAMES_A_SECOND = 75
_BANDS = 80
_FLOOR = 1e-5
_WINDOW = 3.2  # hops
_ROUNDS = 60  # of Griffin and Lim's iteration


def log_mel(samples: Samples, rate: int) -> Frames:
    """Logarithms of mel magnitudes: float32 (number of samples // hop, 80), hop = rate / 75."""
    magnitudes = abs(_spectrum(samples, rate)) @ _filters(rate)
    logarithms: Frames = np.log(np.maximum(magnitudes, _FLOOR)).astype(np.float32)
    return logarithms


def half_mel(samples: Samples, rate: int) -> HalfFrames:
    """`log_mel` in half precision: what is kept on the disk, and quantised."""
    return log_mel(samples, rate).astype(np.float16)


def griffin_lim(frames: Frames, rate: int) -> Samples:
    """Sound whose log-mel frames are about `frames` (T, 80): (T * hop,).

    Magnitudes by the least squares of the filters, phases by the iteration of Griffin and Lim
    (IEEE TASSP 32(2), 1984) from seeded random phases; the same frames give the same sound.
    """
    magnitudes = np.maximum(np.exp(frames.astype(np.float64)) @ _inverse(rate), 0)
    length = len(frames) * (rate // FRAMES_A_SECOND)
    random = np.random.default_rng(0)
    angles = np.exp(2j * np.pi * random.random(magnitudes.shape))
    for _ in range(_ROUNDS):
        spectrum = _spectrum(_sound(magnitudes * angles, length, rate), rate)
        angles = spectrum / np.maximum(abs(spectrum), 1e-12)
    return _sound(magnitudes * angles, length, rate)


@dataclass(frozen=True, eq=False)
class MelQuantiser:
    """The nearest of learned log-mel frames, 75 tokens a second.

    Raises HeadwayError when `rate` is no multiple of 75.
    """

    rate: int
    centres: Frames
    """(codes, 80)"""

    def __post_init__(self) -> None:
        require_rate(self.rate)

    @property
    def codes(self) -> int:
        """Different tokens."""
        return len(self.centres)

    @property
    def description(self) -> Mapping[str, Any]:
        """The rate, and a checksum of the frames, which are a file of their own."""
        digest = hashlib.sha256(np.ascontiguousarray(self.centres).data).hexdigest()
        return {"codec": "mel", "rate": self.rate, "codebook_sha256": digest}

    def encode(self, samples: Samples) -> Integers:
        """The nearest centre of each frame (Euclidean)."""
        return self.nearest(half_mel(samples, self.rate))

    def nearest(self, frames: HalfFrames) -> Integers:
        """The nearest centre of each of `frames` (T, 80): (T,)."""
        products = frames.astype(np.float32) @ self.centres.T
        nearest: Integers = ((self.centres**2).sum(1) - 2 * products).argmin(1)
        return nearest

    def decode(self, tokens: Integers) -> Samples:
        """The sound of the centres, by `griffin_lim`."""
        return griffin_lim(self.centres[tokens], self.rate)


def fit_centres(frames: HalfFrames, codes: int) -> Frames:
    """`codes` centres of `frames` (N, 80) by mini-batch k-means, seeded.

    Raises HeadwayError when there are fewer frames than codes.
    """
    if not 2 <= codes <= len(frames):
        raise HeadwayError(
            f"codes={codes}: 2 to {len(frames):,} (the frames of the training recordings) "
            f"are accepted"
        )
    cluster = optional_package("sklearn.cluster", "codec: mel")
    means = cluster.MiniBatchKMeans(
        codes,
        init="random",
        batch_size=4096,
        n_init=1,
        max_iter=20,
        random_state=0,
        compute_labels=False,
    )
    with one_thread():
        centres: Frames = means.fit(frames.astype(np.float32)).cluster_centers_.astype(np.float32)
    return centres


def one_thread() -> Any:
    """Context in which a product takes one core: files are encoded side by side already, and sums
    do not depend on the number of cores."""
    return _pools().limit(limits=1)


@lru_cache
def _pools() -> Any:
    """The libraries with threads of their own; to find them takes milliseconds."""
    return optional_package("threadpoolctl", "codec: mel").ThreadpoolController()


def require_rate(rate: int) -> None:
    """HeadwayError for a rate that does not make 75 frames a second."""
    if rate < 8_000 or rate % FRAMES_A_SECOND:
        raise HeadwayError(
            f"sample_rate={rate}: a multiple of {FRAMES_A_SECOND} from 8,000 on is accepted by the "
            f"mel quantiser, such as 24000"
        )


def _spectrum(samples: Samples, rate: int) -> Any:
    """Complex (number of samples // hop, bins): frames around the middle of each hop."""
    fft = optional_package("scipy.fft", "codec: mel")
    hop, window = rate // FRAMES_A_SECOND, _window(rate)
    count = len(samples) // hop
    side = (len(window) - hop) // 2
    padded = np.pad(samples[: count * hop], (side, len(window)))
    views = np.lib.stride_tricks.sliding_window_view(padded, len(window))[: count * hop : hop]
    return fft.rfft(views * window, axis=1)


def _sound(spectrum: Any, length: int, rate: int) -> Samples:
    """The sound whose `_spectrum` is nearest to `spectrum`: overlapped and added."""
    fft = optional_package("scipy.fft", "codec: mel")
    hop, window = rate // FRAMES_A_SECOND, _window(rate).astype(np.float64)
    pieces = fft.irfft(spectrum, len(window), axis=1) * window
    sound = np.zeros(length + 2 * len(window))
    weight = np.zeros_like(sound)
    for number, piece in enumerate(pieces):
        sound[number * hop : number * hop + len(window)] += piece
        weight[number * hop : number * hop + len(window)] += window**2
    side = (len(window) - hop) // 2
    return (sound / np.maximum(weight, 1e-8))[side : side + length]


@lru_cache
def _window(rate: int) -> Any:
    """A Hann window of an even number of samples."""
    length = round(_WINDOW * (rate // FRAMES_A_SECOND) / 2) * 2
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)


@lru_cache
def _filters(rate: int) -> Any:
    """(bins, 80): Slaney's mel filters from 0 to half the rate."""
    from transformers.audio_utils import mel_filter_bank

    bins = len(_window(rate)) // 2 + 1
    return mel_filter_bank(bins, _BANDS, 0.0, rate / 2, rate, "slaney", "slaney").astype(np.float32)


@lru_cache
def _inverse(rate: int) -> Any:
    """(80, bins)"""
    return np.linalg.pinv(_filters(rate).astype(np.float64))
