"""Sound files as documents of a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headway.corpora.audio import MOST_BYTES, read_audio
from headway.corpora.codecs import Codec, MuLaw
from headway.corpora.encodec import Encodec
from headway.corpora.mel import MelQuantiser, fit_centres, log_mel, require_rate
from headway.corpora.sources import BadFile, RawFile
from headway.corpora.storage import damaged
from headway.corpora.tokens import Integers

CODEBOOK = "codebook.safetensors"

_FIT_FRAMES = 64  # for each code, that a quantiser is learned on


@dataclass(frozen=True)
class SpeechEncoder:
    """One document a recording."""

    codec: Codec

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
        samples = read_audio(file.read(MOST_BYTES), self.codec.rate)
        yield self.codec.encode(samples), len(samples) / self.codec.rate


def fit_quantiser(files: Iterable[RawFile], rate: int, codes: int) -> MelQuantiser:
    """Learn a quantiser on recordings in a fixed random order, until it has 64 frames a code.

    Files that are skipped later are skipped here. Raises HeadwayError when `rate` is no multiple of
    75, or too little sound is there for so many codes.
    """
    require_rate(rate)
    files = list(files)
    frames = [np.zeros((0, 80), np.float32)]
    held = 0
    for number in np.random.default_rng(0).permutation(len(files)):
        if held >= _FIT_FRAMES * codes:
            break
        try:
            frames.append(log_mel(read_audio(files[number].read(MOST_BYTES), rate), rate))
        except BadFile:
            continue  # told when the file is encoded
        held += len(frames[-1])
    return MelQuantiser(rate, fit_centres(np.concatenate(frames), codes))


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
