"""Mel frames of recordings on the disk, so that sound is decoded once."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headway.corpora.audio import MOST_BYTES, read_audio
from headway.corpora.mel import HalfFrames, half_mel
from headway.corpora.sources import RawFile

_SECONDS = struct.Struct("<d")
_SHA256 = 32  # bytes


@dataclass(frozen=True)
class KeptFrames:
    """A folder with a file a recording: a checksum, the seconds, the frames."""

    folder: Path
    rate: int
    """Samples a second of the sound that frames are computed of."""

    def of(self, file: RawFile) -> tuple[HalfFrames, float]:
        """Frames (T, 80) and seconds of a recording, kept or computed; BadFile as `read_audio`."""
        kept = self._read(file)
        return self._computed(file) if kept is None else kept

    def keep(self, file: RawFile) -> tuple[HalfFrames, float]:
        """As `of`, and leaves them for later."""
        if (kept := self._read(file)) is not None:
            return kept
        frames, seconds = self._computed(file)
        content = _SECONDS.pack(seconds) + frames.tobytes()
        path = self._path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".new")
        unfinished.write_bytes(hashlib.sha256(content).digest() + content)
        os.replace(unfinished, path)
        return frames, seconds

    def remove(self) -> None:
        """All of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _computed(self, file: RawFile) -> tuple[HalfFrames, float]:
        samples = read_audio(file.read(MOST_BYTES), self.rate)
        return half_mel(samples, self.rate), len(samples) / self.rate

    def _read(self, file: RawFile) -> tuple[HalfFrames, float] | None:
        """What is kept; None where nothing is, or it is not what was written."""
        try:
            content = self._path(file).read_bytes()
        except OSError:
            return None
        told = content[_SHA256:]
        if hashlib.sha256(told).digest() != content[:_SHA256]:
            return None
        frames = np.frombuffer(told, np.float16, offset=_SECONDS.size).reshape(-1, 80)
        return frames, _SECONDS.unpack_from(told)[0]

    def _path(self, file: RawFile) -> Path:
        name = f"{file.name}\0{file.size}\0{file.stamp}\0{self.rate}"
        return self.folder / f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}.frames"
