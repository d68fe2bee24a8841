"""The sound of MIDI files, by the program fluidsynth."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from headway.errors import HeadwayError

_RATE, _GAIN = "44100", "0.6"


def heard(midi: bytes, soundfont: Path | None) -> bytes:
    """A .wav file of a MIDI file: 16 bits, two channels, 44.1 kHz.

    Args:
        midi: the file's content.
        soundfont: of the instruments; None: the one that fluidsynth was installed with.

    Raises:
        HeadwayError: fluidsynth is not there, or has something to complain of.
    """
    program = shutil.which("fluidsynth")
    if program is None:
        raise HeadwayError(
            "out: music as .wav needs the program fluidsynth (https://www.fluidsynth.org), which "
            "is not installed; accepted without it is a name that ends in .mid"
        )
    with TemporaryDirectory() as folder:
        notes, sound = Path(folder) / "notes.mid", Path(folder) / "sound.wav"
        notes.write_bytes(midi)
        options = ["-n", "-i", "-q", "-g", _GAIN, "-r", _RATE, "-F", str(sound)]
        given = [] if soundfont is None else [str(soundfont.absolute())]
        done = subprocess.run(
            [program, *options, *given, str(notes)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        # It ends with 0 and writes silence where it finds no instruments.
        complaints = [line for line in done.stderr.splitlines() if "error" in line]
        found = sound.read_bytes() if sound.exists() else b""
        if done.returncode or complaints or not found.startswith(b"RIFF"):
            told = "none" if soundfont is None else repr(str(soundfont))
            reason = complaints[0] if complaints else f"exit code {done.returncode}"
            raise HeadwayError(
                f"soundfont: {told} is not accepted by fluidsynth ({reason}); accepted is an .sf2 "
                "or .sf3 file"
            )
        return found
