"""Notes of a performance as a stream of 388 symbols, and back.

The code is that of Performance RNN (Oore et al., arXiv 1808.03715, section 3.2) with its symbols in
the order of Music Transformer's public implementations:

    0..127     a note of that pitch begins
    128..255   it ends
    256..355   time passes: 10 ms to 1 s
    356..387   notes that begin from now on have velocities 4 i to 4 i + 3

A time that is no multiple of 10 ms is rounded. At one time ends come before beginnings, both by
rising pitch; a velocity stands only where it changes. Silence at the end is not told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from headway.corpora.tokens import Integers

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]

STEPS_A_SECOND = 100
_OFF, _SHIFT, _VELOCITY = 128, 256, 356
_LONGEST = 100  # steps of the longest time shift
_BIN = 4  # velocities that share a symbol

SYMBOLS = (
    *(f"NOTE_ON_{pitch}" for pitch in range(128)),
    *(f"NOTE_OFF_{pitch}" for pitch in range(128)),
    *(f"TIME_SHIFT_{10 * (steps + 1)}ms" for steps in range(_LONGEST)),
    *(f"VELOCITY_{_BIN * number}" for number in range(128 // _BIN)),
)


@dataclass(frozen=True, eq=False)
class Notes:
    """Notes of a performance, each array (number of notes,)."""

    start: Floats
    """Seconds."""
    end: Floats
    """Seconds."""
    pitch: Integers
    """0 to 127."""
    velocity: Integers
    """1 to 127."""

    def changed(self, semitones: int, speed: float) -> Notes:
        """The notes moved by `semitones` and played `speed` times as fast."""
        return Notes(self.start / speed, self.end / speed, self.pitch + semitones, self.velocity)


def hold(end: Floats, down: Floats, up: Floats) -> Floats:
    """The ends of notes under a sustain pedal that is `down` until `up`, both rising: seconds.

    A note that ends while the pedal is down sounds until the pedal comes up.
    """
    if not len(down):
        return end
    press = np.searchsorted(down, end, side="right") - 1
    held = (press >= 0) & (end < up[press])
    return np.where(held, up[press], end)


def on_grid(notes: Notes) -> tuple[Integers, Integers, Integers, Integers]:
    """Start and end in steps of 10 ms, pitch and velocity: what the code can tell, and tells.

    Sorted by start, then pitch. A note lasts at least one step and ends where the next one of its
    pitch begins; of several that begin at once with one pitch the loudest stays.
    """
    start = np.rint(notes.start * STEPS_A_SECOND).astype(np.int64)
    end = np.rint(notes.end * STEPS_A_SECOND).astype(np.int64)
    pitch, velocity = notes.pitch.astype(np.int64), notes.velocity.astype(np.int64)
    order = np.lexsort((-end, -velocity, start, pitch))
    start, end, pitch, velocity = start[order], end[order], pitch[order], velocity[order]
    first = np.ones(len(start), bool)
    first[1:] = (pitch[1:] != pitch[:-1]) | (start[1:] != start[:-1])
    start, end, pitch, velocity = start[first], end[first], pitch[first], velocity[first]
    end = np.maximum(end, start + 1)
    follows = pitch[1:] == pitch[:-1]
    end[:-1] = np.where(follows, np.minimum(end[:-1], start[1:]), end[:-1])
    order = np.lexsort((pitch, start))
    return start[order], end[order], pitch[order], velocity[order]


def encode(notes: Notes) -> Integers:
    """The symbols of `notes`, int64 (number of symbols,)."""
    start, end, pitch, velocity = on_grid(notes)
    count = len(start)
    time = np.concatenate((end, start))
    begins = np.arange(2 * count) >= count
    symbol = np.concatenate((pitch + _OFF, pitch))
    loudness = np.concatenate((np.full(count, -1), velocity // _BIN))
    order = np.lexsort((np.concatenate((pitch, pitch)), begins, time))
    time, begins, symbol, loudness = time[order], begins[order], symbol[order], loudness[order]

    shift = np.diff(time, prepend=0)
    whole, rest = np.divmod(shift, _LONGEST)
    louder = np.zeros(2 * count, bool)
    louder[begins] = np.diff(loudness[begins], prepend=-1) != 0
    last = np.cumsum(whole + (rest > 0) + louder + 1) - 1  # where each event's own symbol stands
    symbols = np.full(last[-1] + 1 if count else 0, _SHIFT + _LONGEST - 1, np.int64)
    symbols[last] = symbol
    symbols[last[louder] - 1] = _VELOCITY + loudness[louder]
    parts = rest > 0
    symbols[last[parts] - louder[parts] - 1] = _SHIFT + rest[parts] - 1
    return symbols


def decode(symbols: Integers) -> Notes:
    """The notes that `symbols` (number of symbols,) tell; any stream of symbols is accepted.

    A note that begins again while it sounds ends there; one that never ends lasts to the last
    symbol; an end without a beginning means nothing; notes before the first velocity get 64. What
    is above 387 is left out. Velocities are the middle of what their symbol stands for.
    """
    symbols = np.asarray(symbols).astype(np.int64)
    shifts = np.where((symbols >= _SHIFT) & (symbols < _VELOCITY), symbols - _SHIFT + 1, 0)
    time = np.cumsum(shifts)
    loud = (symbols >= _VELOCITY) & (symbols < len(SYMBOLS))
    latest = np.maximum.accumulate(np.where(loud, np.arange(len(symbols)), -1))
    velocity = np.where(latest >= 0, _BIN * (symbols[latest] - _VELOCITY) + _BIN // 2, 64)
    of_notes = np.flatnonzero(symbols < _SHIFT)
    pitch = symbols[of_notes] % _OFF
    of_notes = of_notes[np.argsort(pitch, kind="stable")]
    pitch = symbols[of_notes] % _OFF
    total = time[-1] if len(time) else 0
    end = np.append(time[of_notes][1:], total)
    end[:-1] = np.where(pitch[1:] == pitch[:-1], end[:-1], total)
    begins = np.flatnonzero(symbols[of_notes] < _OFF)
    at = of_notes[begins]
    order = np.argsort(at)
    at, end, pitch = at[order], end[begins][order], pitch[begins][order]
    start = time[at]
    return Notes(
        start / STEPS_A_SECOND, np.maximum(end, start + 1) / STEPS_A_SECOND, pitch, velocity[at]
    )
