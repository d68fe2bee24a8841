"""The 388 symbols of a performance: notes come back to 10 ms and a velocity bin, through MIDI."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.corpora.midi import midi_of_notes, notes_of_midi
from headway.corpora.performance import SYMBOLS, Notes, decode, encode, hold, on_grid
from headway.corpora.sources import BadFile

NOTE = st.tuples(
    st.floats(0, 30), st.floats(0, 5), st.integers(0, 127), st.integers(1, 127)
)  # start, length, pitch, velocity
PERFORMANCE = st.lists(NOTE, min_size=1, max_size=40).map(
    lambda rows: Notes(
        np.array([row[0] for row in rows]),
        np.array([row[0] + row[1] for row in rows]),
        np.array([row[2] for row in rows]),
        np.array([row[3] for row in rows]),
    )
)
SYMBOL = {name: number for number, name in enumerate(SYMBOLS)}


def ids(*names: str) -> list[int]:
    return [SYMBOL[name] for name in names]


def notes(*rows: tuple[float, float, int, int]) -> Notes:
    return Notes(*(np.array(column) for column in zip(*rows, strict=True)))


def test_the_alphabet_is_the_published_one() -> None:
    assert len(SYMBOLS) == len(SYMBOL) == 388
    assert SYMBOLS[60] == "NOTE_ON_60"
    assert SYMBOLS[128 + 60] == "NOTE_OFF_60"
    assert (SYMBOLS[256], SYMBOLS[355]) == ("TIME_SHIFT_10ms", "TIME_SHIFT_1000ms")
    assert (SYMBOLS[356], SYMBOLS[387]) == ("VELOCITY_0", "VELOCITY_124")


def test_a_stream_written_by_hand() -> None:
    performance = notes((0.5, 3.0, 60, 64), (0.5, 1.5, 64, 66), (3.0, 3.004, 60, 90))
    assert encode(performance).tolist() == ids(
        *("TIME_SHIFT_500ms", "VELOCITY_64", "NOTE_ON_60", "NOTE_ON_64"),
        *("TIME_SHIFT_1000ms", "NOTE_OFF_64", "TIME_SHIFT_1000ms", "TIME_SHIFT_500ms"),
        *("NOTE_OFF_60", "VELOCITY_88", "NOTE_ON_60", "TIME_SHIFT_10ms", "NOTE_OFF_60"),
    )


@given(PERFORMANCE)
def test_notes_survive_to_10_ms_and_velocity_bins(performance: Notes) -> None:
    start, end, pitch, velocity = on_grid(performance)
    symbols = encode(performance)
    assert ((symbols >= 0) & (symbols < 388)).all()
    through_midi = notes_of_midi(midi_of_notes(decode(symbols)))
    for back in (decode(symbols), through_midi):
        again = on_grid(back)
        np.testing.assert_array_equal(again[:3], (start, end, pitch))
        np.testing.assert_array_equal(again[3] // 4, velocity // 4)
    np.testing.assert_array_equal(encode(through_midi), symbols)


@given(PERFORMANCE)
def test_the_grid_loses_no_more_than_5_ms(performance: Notes) -> None:
    """A note that no other of its pitch touches keeps its start, its length (10 ms at least)."""
    start, end, pitch, velocity = on_grid(performance)
    kept = {(s, p): (e, v) for s, e, p, v in zip(start, end, pitch, velocity, strict=True)}
    columns = (performance.start, performance.end, performance.pitch, performance.velocity)
    rows = list(zip(*columns, strict=True))
    for a, b, p, v in rows:
        assert (round(a * 100), p) in kept
        if sum(p == other[2] for other in rows) == 1:
            e, loud = kept[round(a * 100), p]
            assert loud == v
            assert abs(e / 100 - b) <= 0.005 + 1e-9 or e == round(a * 100) + 1


@given(st.lists(st.integers(0, 388), max_size=200))
def test_any_stream_of_symbols_can_be_played(symbols: list[int]) -> None:
    played = decode(np.array(symbols, np.int64))
    assert len(played.start) == sum(number < 128 for number in symbols)
    assert (played.end > played.start).all()
    assert ((played.velocity >= 1) & (played.velocity <= 127)).all()
    shifts = [number - 255 for number in symbols if 256 <= number < 356]
    assert played.end.max(initial=0) <= sum(shifts) / 100 + 0.01 + 1e-9
    if len(played.start):
        notes_of_midi(midi_of_notes(played))


def test_notes_without_an_end_and_ends_without_a_note() -> None:
    stream = ids("NOTE_OFF_1", "NOTE_ON_5", "TIME_SHIFT_100ms", "NOTE_ON_5", "TIME_SHIFT_1000ms")
    played = decode(np.array(stream))
    assert played.start.tolist() == [0, 0.1]
    assert played.end.tolist() == [0.1, 1.1]
    assert played.velocity.tolist() == [64, 64]


def test_the_pedal_holds_what_ends_under_it() -> None:
    down, up = np.array([1.0, 4.0]), np.array([2.0, 6.0])
    ends = np.array([0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0])
    assert hold(ends, down, up).tolist() == [0.5, 2, 2, 2, 3, 6, 7]
    assert hold(ends, down[:0], up[:0]).tolist() == ends.tolist()


def test_the_pedal_of_a_file_is_applied() -> None:
    """Written byte by byte: a note of 96 ticks, a pedal down at 48 and up at 192, 96 a quarter."""
    events = bytes([0, 0x90, 60, 80, 48, 0xB0, 64, 127, 48, 0x80, 60, 0, 96, 0xB0, 64, 0])
    track = events + bytes([0, 0xFF, 0x2F, 0])
    file = b"MThd\0\0\0\6\0\0\0\1\0\x60" + b"MTrk" + len(track).to_bytes(4, "big") + track
    found = notes_of_midi(file)
    assert (found.start.tolist(), found.end.tolist()) == ([0.0], [1.0])
    assert (found.pitch.tolist(), found.velocity.tolist()) == ([60], [80])


WHOLE = midi_of_notes(notes((0.0, 1.0, 60, 64), (1.0, 2.0, 62, 64)))
TRACKS = b"MThd\0\0\0\6\0\1\xff\xff\0\x60" + b"MTrk\0\0\0\4\0\xff\x2f\0" * 65535
FOREVER = b"\0\xff\x51\3\xff\xff\xff\0\x90\x3c\x40" + b"\xff\xff\xff\x7f\x80\x3c\0\0\xff\x2f\0"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no MIDI file"),
        (b"RIFF" + WHOLE, "no MIDI file"),
        (WHOLE[:10], "no MIDI file"),
        (WHOLE[:-7], "damaged or cut short"),
        (TRACKS, "65535 tracks; at most 256"),
        (WHOLE[:12] + b"\xe7\x28" + WHOLE[14:], "not in ticks a quarter"),
        (WHOLE[:12] + b"\0\0" + WHOLE[14:], "not in ticks a quarter"),
        (midi_of_notes(Notes(*(np.zeros(0, int),) * 4)), "no notes"),
        (
            b"MThd\0\0\0\6\0\0\0\1\0\1MTrk" + len(FOREVER).to_bytes(4, "big") + FOREVER,
            "hours; at most 6",
        ),
    ],
)
def test_hostile_files_are_told_apart(content: bytes, reason: str) -> None:
    with pytest.raises(BadFile, match=reason):
        notes_of_midi(content)


@given(st.data())
def test_damage_anywhere_ends_in_notes_or_a_reason(data: st.DataObject) -> None:
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = notes_of_midi(bytes(content[: data.draw(st.integers(0, len(content)))]))
    except BadFile:
        return
    symbols = encode(found)
    assert ((symbols >= 0) & (symbols < 388)).all()
