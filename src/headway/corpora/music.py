"""MIDI files as documents of a corpus, each training performance also transposed and re-timed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from headway.corpora.midi import MOST_BYTES, notes_of_midi
from headway.corpora.performance import SYMBOLS, encode
from headway.corpora.sources import RawFile
from headway.corpora.tokens import Integers
from headway.errors import HeadwayError


@dataclass(frozen=True)
class MusicEncoder:
    """The 388 symbols of a performance.

    Raises HeadwayError for more than 12 semitones and for a tempo outside 0.5 to 2.
    """

    transpose: int = 0
    """Training performances also stand up to so many semitones higher and lower."""
    tempos: tuple[float, ...] = ()
    """They also stand at these speeds; 1.05 is 5 % faster."""

    def __post_init__(self) -> None:
        if not 0 <= self.transpose <= 12:
            raise HeadwayError(f"transpose={self.transpose}: 0 to 12 semitones are accepted")
        for tempo in self.tempos:
            if not 0.5 <= tempo <= 2:
                raise HeadwayError(f"tempos: {tempo} is not accepted; 0.5 to 2 is accepted")

    @property
    def symbols(self) -> Sequence[str]:
        """The names of the symbols."""
        return SYMBOLS

    @property
    def in_threads(self) -> bool:
        """Notes are handled in Python."""
        return False

    @property
    def code(self) -> Mapping[str, Any]:
        """The augmentation."""
        return {"codec": "performance", **asdict(self), "tempos": list(self.tempos)}

    def documents(self, file: RawFile, training: bool) -> Iterator[tuple[Integers, float]]:
        """The performance, then (in training) its variants; none with a pitch outside 0 to 127."""
        notes = notes_of_midi(file.read(MOST_BYTES))
        lowest, highest = int(notes.pitch.min()), int(notes.pitch.max())
        steps = range(-self.transpose, self.transpose + 1) if training else (0,)
        speeds = {1.0: None, **dict.fromkeys(self.tempos if training else ())}
        for speed, semitones in product(speeds, sorted(steps, key=abs)):
            if lowest + semitones >= 0 and highest + semitones <= 127:
                variant = notes.changed(semitones, speed)
                yield encode(variant), float(variant.end.max())
