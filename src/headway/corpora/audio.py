"""Sound files as samples of one channel at one rate."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from headway.corpora.optional import optional_package
from headway.corpora.sources import BadFile

Samples = np.ndarray[Any, np.dtype[np.floating[Any]]]

MOST_BYTES = 1 << 30
_MOST_SAMPLES = 1 << 28  # of all channels: 1.5 hours at 48 kHz
_RATES = (8_000, 192_000)
_SHORTEST = 0.1  # seconds
_QUIETEST = 1e-3  # -60 dB of full scale
_LAST_PAGE = 4  # flag of an Ogg page


def read_audio(content: bytes, rate: int) -> Samples:
    """The sound of a file, float32 (number of samples,) in [-1, 1] at `rate` samples a second.

    Channels are averaged; another rate is resampled (polyphase, band-limited).

    Raises BadFile for what is no sound file, is cut short or damaged, has a rate outside 8 to
    192 kHz, is shorter than 0.1 s or too long to hold, or never passes -60 dB.
    """
    soundfile = optional_package("soundfile", "path: a sound file")
    _require_whole(content)
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            own, frames, channels = file.samplerate, file.frames, file.channels
            if not _RATES[0] <= own <= _RATES[1]:
                raise BadFile(f"{own} samples a second; {_RATES[0]} to {_RATES[1]} are accepted")
            if frames * channels > _MOST_SAMPLES:
                raise BadFile(f"{frames:,} samples; {_MOST_SAMPLES // channels:,} are accepted")
            samples = file.read(dtype="float32", always_2d=True).mean(axis=1)
    except (soundfile.SoundFileError, ValueError) as error:
        reason = getattr(error, "error_string", error)  # without the address of what was opened
        raise BadFile(f"no sound file, or damaged ({reason})") from error
    if len(samples) < frames:
        raise BadFile(f"cut short ({len(samples):,} of {frames:,} samples)")
    if len(samples) < _SHORTEST * own:
        raise BadFile(f"{len(samples) / own:.3f} s; at least {_SHORTEST} s are accepted")
    if not np.isfinite(samples).all():
        raise BadFile("samples that are no numbers")
    if abs(samples).max() < _QUIETEST:
        raise BadFile("silent")
    return np.clip(_resample(samples, own, rate), -1, 1)


def _resample(samples: Samples, own: int, rate: int) -> Samples:
    if own == rate:
        return samples
    signal = optional_package("scipy.signal", "path: a sound file of another rate")
    common = math.gcd(own, rate)
    resampled: Samples = signal.resample_poly(samples, rate // common, own // common)
    return resampled.astype(np.float32, copy=False)


def _require_whole(content: bytes) -> None:
    """BadFile when a RIFF or Ogg file ends before its own end, which libsndfile does not tell."""
    if content.startswith(b"RIFF"):
        size = int.from_bytes(content[4:8], "little")
        if size not in (0, 0xFFFFFFFF) and size + 8 > len(content):
            raise BadFile(f"cut short ({len(content):,} of {size + 8:,} bytes)")
    elif content.startswith(b"OggS"):
        page = content[content.rfind(b"OggS") :]
        segments = page[27 : 27 + page[26]] if len(page) > 26 else b""
        whole = len(page) >= 27 + page[26] + sum(segments) if segments else False
        if not whole or not page[5] & _LAST_PAGE:
            raise BadFile("cut short (its last page is missing)")


def wave(samples: Samples, rate: int) -> bytes:
    """A WAV file of 16 bits a sample."""
    soundfile = optional_package("soundfile", "out: a sound file")
    written = io.BytesIO()
    soundfile.write(written, np.clip(samples, -1, 1), rate, "PCM_16", format="WAV")
    return written.getvalue()
