"""Notes from MIDI files, with the sustain pedal applied, and MIDI files from notes."""

from __future__ import annotations

import struct

import numpy as np

from headway.corpora.optional import optional_package
from headway.corpora.performance import Notes, hold
from headway.corpora.sources import BadFile

MOST_BYTES = 16 << 20
_MOST_TRACKS = 256
_MOST_SECONDS = 6 * 3600
_HEADER = struct.Struct(">4sIHHh")
_TICKS = 1000  # a second of the files we write: 500 a quarter at 120 quarters a minute


def notes_of_midi(content: bytes) -> Notes:
    """The notes of all tracks but drums, in seconds, sustained by the pedal of their track.

    Raises BadFile for what is no MIDI file, is cut short or damaged, counts no ticks a quarter, has
    more than 256 tracks, lasts longer than six hours, or holds no note.
    """
    symusic = optional_package("symusic", "path: a MIDI file")
    if len(content) < _HEADER.size or not content.startswith(b"MThd"):
        raise BadFile("no MIDI file (it does not begin with a whole MThd header)")
    _, _, _, tracks, division = _HEADER.unpack_from(content)
    if tracks > _MOST_TRACKS:
        raise BadFile(f"{tracks} tracks; at most {_MOST_TRACKS} are accepted")
    if division <= 0:
        raise BadFile("its times are not in ticks a quarter")
    try:
        score = symusic.Score.from_midi(content, ttype="second")
    except (RuntimeError, ValueError) as error:
        reason = str(error).removeprefix("MiniMidi: ").removesuffix(": iostream error")
        raise BadFile(f"damaged or cut short ({reason})") from error
    if not 0 <= score.end() <= _MOST_SECONDS:
        raise BadFile(f"it lasts {score.end() / 3600:.1f} hours; at most 6 are accepted")
    notes = [_of_track(track) for track in score.tracks if not track.is_drum and track.notes]
    if not notes:
        raise BadFile("no notes")
    fields = zip(*((one.start, one.end, one.pitch, one.velocity) for one in notes), strict=True)
    return Notes(*map(np.concatenate, fields))


def _of_track(track: object) -> Notes:
    columns, pedals = track.notes.numpy(), track.pedals.numpy()  # type: ignore[attr-defined]
    start = columns["time"].astype(np.float64)
    down = pedals["time"].astype(np.float64)
    end = hold(start + columns["duration"], down, down + pedals["duration"])
    return Notes(start, end, columns["pitch"], columns["velocity"])


def midi_of_notes(notes: Notes) -> bytes:
    """A MIDI file of one piano track; times are rounded to milliseconds."""
    symusic = optional_package("symusic", "out: a MIDI file")
    score = symusic.Score(_TICKS // 2)
    score.tempos.append(symusic.Tempo(0, 120))
    track = symusic.Track("Piano", 0, False)
    start = np.rint(notes.start * _TICKS).astype(np.int32)
    end = np.rint(notes.end * _TICKS).astype(np.int32)
    columns = (start, end - start, notes.pitch.astype(np.int8), notes.velocity.astype(np.int8))
    track.notes = symusic.Note.from_numpy(*columns)
    score.tracks.append(track)
    content: bytes = score.dumps_midi()
    return content
