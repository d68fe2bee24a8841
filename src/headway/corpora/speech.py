"""Sound files as documents of a corpus."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headway.corpora.audio import MOST_BYTES, read_audio
from headway.corpora.codecs import Codec, MuLaw
from headway.corpora.encodec import Encodec
from headway.corpora.kept_frames import KeptFrames
from headway.corpora.mel import HalfFrames, MelQuantiser, fit_centres, require_rate
from headway.corpora.sources import BadFile, RawFile
from headway.corpora.storage import damaged
from headway.corpora.tokens import Integers

CODEBOOK = "codebook.safetensors"

_FIT_FRAMES = 64  # for each code, that a quantiser is learned on


@dataclass(frozen=True)
class SpeechEncoder:
    """One document a recording."""

    codec: Codec
    kept: KeptFrames | None = None
    """Frames of recordings that were decoded before, for a quantiser of frames."""

    @property
    def in_threads(self) -> bool:
        """Decoding and arithmetic are; a neural codec has threads of its own."""
        return not isinstance(self.codec, Encodec)

    @property
    def symbols(self) -> Sequence[str]:
        """SOUND_0, SOUND_1 and so on."""
        return tuple(f"SOUND_{number}" for number in range(self.codec.codes))

    @property
    def code(self) -> Mapping[str, Any]:
        """The codec's description."""
        return self.codec.description

    def documents(self, file: RawFile, training: bool) -> Iterator[tuple[Integers, float]]:
        """The whole recording; BadFile as `read_audio`."""
        if self.kept is not None and isinstance(self.codec, MelQuantiser):
            frames, seconds = self.kept.of(file)
            yield self.codec.nearest(frames), seconds
            return
        samples = read_audio(file.read(MOST_BYTES), self.codec.rate)
        yield self.codec.encode(samples), len(samples) / self.codec.rate


def fit_quantiser(
    files: Iterable[RawFile], codes: int, kept: KeptFrames, workers: int = 1
) -> MelQuantiser:
    """Learn a quantiser on recordings in a fixed random order, until it has 64 frames a code.

    The frames are kept, so that no recording is decoded twice. Files that are skipped later are
    skipped here. `workers` recordings are decoded at a time; the quantiser does not depend on it.

    Raises HeadwayError when the rate is no multiple of 75, or too little sound is there for so many
    codes.
    """
    require_rate(kept.rate)
    frames = [np.zeros((0, 80), np.float16)]
    held = 0
    for found in _in_order(list(files), kept, workers):
        frames.append(found)
        held += len(found)
        if held >= _FIT_FRAMES * codes:
            break
    return MelQuantiser(kept.rate, fit_centres(np.concatenate(frames), codes))


def _in_order(files: Sequence[RawFile], kept: KeptFrames, workers: int) -> Iterator[HalfFrames]:
    """The frames of recordings in the fixed random order, decoded a little ahead."""
    order = np.random.default_rng(0).permutation(len(files)).tolist()
    ahead: deque[Future[tuple[HalfFrames, float]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            while order or ahead:
                while order and len(ahead) < 2 * workers:
                    ahead.append(pool.submit(kept.keep, files[order.pop(0)]))
                try:
                    yield ahead.popleft().result()[0]
                except BadFile:
                    continue  # told when the file is encoded
        finally:
            pool.shutdown(cancel_futures=True)


def codec_files(codec: Codec) -> dict[str, bytes]:
    """What a codec needs beside its description, by name in the corpus."""
    if not isinstance(codec, MelQuantiser):
        return {}
    from safetensors.numpy import save

    return {CODEBOOK: save({"centres": codec.centres})}


def load_codec(description: Mapping[str, Any], folder: Path) -> Codec:
    """The codec of the corpus in `folder`; HeadwayError when its file is missing or was changed."""
    match description["codec"]:
        case "mu-law":
            return MuLaw(description["rate"])
        case "encodec":
            return Encodec(description["weights"])
        case _:
            from safetensors import SafetensorError
            from safetensors.numpy import load_file

            try:
                centres = load_file(folder / CODEBOOK)["centres"]
            except (OSError, SafetensorError, KeyError) as error:
                raise damaged(folder / CODEBOOK) from error
            codec = MelQuantiser(description["rate"], centres)
            if codec.description != description:
                raise damaged(folder / CODEBOOK)
            return codec
