"""Building corpora and reading their shards, on a CPU.

Where `HEADWAY_DATA` names a folder with `wiki/train.jsonl.xz`, `tokenizers/gpt2.json`,
`music/asap-performances.zip` and `speech/kerstin-24khz.zip`, these are built; else text is Python's
own sources, and notes and sound are drawn.
"""

from __future__ import annotations

import io
import os
import shutil
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headway.bench.results import Line
from headway.bench.rounds import ratio, time_in_turns
from headway.corpora.audio import MOST_BYTES, read_audio
from headway.corpora.batches import Windows
from headway.corpora.build import build
from headway.corpora.kinds import SUFFIXES
from headway.corpora.midi import midi_of_notes
from headway.corpora.optional import optional_package
from headway.corpora.performance import Notes
from headway.corpora.progress import silent
from headway.corpora.sources import raw_files
from headway.corpora.splits import SPLITS
from headway.corpora.storage import read_array, write_array, write_file
from headway.corpora.text import read_documents
from headway.corpora.text_build import build_text
from headway.corpora.tokenizer import load_tokenizer, train_bpe
from headway.corpora.tokens import TokenCorpus
from headway_settings import CorpusBuildSettings

DATA = "HEADWAY_DATA"
CORES = 2
"""That the targets of reading and of sound are for."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is read and built.

    Attributes:
        tokens: in the shard that is read.
        context, batch: of the windows.
        characters: of text.
        pieces: of drawn music, a minute each.
        recordings: of drawn sound, ten seconds each.
        codes: of the quantiser.
        rounds: of every timing.
    """

    tokens: int = 100_000_000
    context: int = 1024
    batch: int = 64
    characters: int = 16_000_000
    pieces: int = 200
    recordings: int = 150
    codes: int = 1024
    rounds: int = 5


SMALL = Extent(
    tokens=400_000,
    context=128,
    batch=16,
    characters=100_000,
    pieces=6,
    recordings=4,
    codes=16,
    rounds=2,
)
RATE = 24_000
"""Samples a second of drawn sound."""


def bench_corpora(small: bool, parts: Sequence[str]) -> Iterator[Line]:
    """Lines of the parts, in the order of `headway.bench.catalogue.PARTS`.

    Args:
        small: little of it, and always drawn.
        parts: to measure.
    """
    extent = SMALL if small else Extent()
    named = os.environ.get(DATA)
    data = Path(named) if named and not small else None
    measures: Mapping[str, Callable[[Extent, Path | None, Path], Iterator[Line]]] = {
        "read": _read,
        "text": _text,
        "music": _music,
        "speech": _speech,
    }
    for part, measure in measures.items():
        if part in parts:
            with tempfile.TemporaryDirectory(prefix="headway-bench-") as folder:
                yield from measure(extent, data, Path(folder))


def _read(extent: Extent, data: Path | None, folder: Path) -> Iterator[Line]:
    """Batches of two seeds at once from one shard, in threads."""
    drawn = np.random.default_rng(0).integers(0, 1 << 15, extent.tokens).astype("<u2")
    write_array(folder / "train.npy", drawn)
    shard = read_array(folder / "train.npy")
    steps = max(1, extent.tokens // (extent.context * extent.batch) // CORES)

    def epoch(seed: int) -> None:
        windows = Windows(shard, extent.context, extent.batch, seed)
        for step in range(steps):
            windows.batch(step)

    with ThreadPoolExecutor(CORES) as pool:
        taken = time_in_turns(
            {"read": lambda: list(pool.map(epoch, range(CORES)))}, extent.rounds, 1
        )
    tokens = CORES * steps * extent.batch * extent.context
    speed = tokens / ratio(taken, "read", "read").seconds[0] / 1e6
    yield Line("read: million tokens a second, page cache, 2 cores", speed, at_least=50)
    tracemalloc.start()
    Windows(shard, extent.context, extent.batch, 0).batch(0)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    yield Line("read: bytes held for an epoch over bytes of its tokens", held / shard.nbytes)


def _text(extent: Extent, data: Path | None, folder: Path) -> Iterator[Line]:
    """A whole build beside one call of the library for the same documents, held in memory."""
    if data is None:
        source, most, name = None, extent.characters, "Python's sources"
        tokenizer = folder / "tokenizer.json"
        trained = train_bpe(read_documents(None, most), 2048)
        write_file(tokenizer, trained.to_str().encode())
    else:
        source, most, name = str(data / "wiki" / "train.jsonl.xz"), extent.characters, "Wikipedia"
        tokenizer = data / "tokenizers" / "gpt2.json"
    documents = read_documents(source, most)
    encoder = load_tokenizer(str(tokenizer), (), 0)
    out = folder / "out"

    def rebuild() -> None:
        shutil.rmtree(out, ignore_errors=True)
        build_text(source, str(tokenizer), 0, most, out, None, 0.0, silent)

    taken = time_in_turns(
        {
            "batch": lambda: encoder.encode_batch_fast(documents, add_special_tokens=False),
            "build": rebuild,
        },
        extent.rounds,
        1,
    )
    found = ratio(taken, "batch", "build")
    yield Line.of_ratio(f"text, {name}: built, of tokenizers' batch speed", found, at_least=0.8)
    characters = sum(map(len, documents)) / 1e6
    yield Line(f"text, {name}: million characters a second", characters / found.seconds[1])


def _music(extent: Extent, data: Path | None, folder: Path) -> Iterator[Line]:
    """On one core."""
    path, name = folder / "music", "drawn notes"
    if data is not None:
        path, name = data / "music" / "asap-performances.zip", "performances"
    else:
        _draw_music(path, extent.pieces)
    out = folder / "out"
    settings = CorpusBuildSettings(kind="music", path=str(path), out=out, workers=1)
    taken = time_in_turns({"build": _rebuilt(settings)}, extent.rounds, 1)
    hours = _seconds(out) / 3600
    minutes = ratio(taken, "build", "build").seconds[0] / 60
    yield Line(f"music, {name}: hours of music a core-minute", hours / minutes, at_least=50)


def _speech(extent: Extent, data: Path | None, folder: Path) -> Iterator[Line]:
    """By the mel quantiser, which is learned in every build, beside decoding alone on one core:
    where other work takes part of the cores, their ratio still says something."""
    path, name = folder / "speech", "drawn sound"
    if data is not None:
        path, name = data / "speech" / "kerstin-24khz.zip", "recordings"
    else:
        _draw_speech(path, extent.recordings)
    out = folder / "out"
    settings = CorpusBuildSettings(
        kind="speech", path=str(path), out=out, codes=extent.codes, sample_rate=RATE, workers=CORES
    )
    rebuild, files = _rebuilt(settings), raw_files(path, SUFFIXES["speech"])
    used: list[float] = []

    def measured() -> None:
        before = time.process_time()
        rebuild()
        used.append(time.process_time() - before)

    def decode() -> None:
        for file in files:
            read_audio(file.read(MOST_BYTES), RATE)

    taken = time_in_turns({"decode": decode, "build": measured}, extent.rounds, 1)
    seconds = _seconds(out)
    found = ratio(taken, "decode", "build")
    yield Line(
        f"speech, {name}: times real time, 2 cores", seconds / found.seconds[1], at_least=200
    )
    yield Line.of_ratio(f"speech, {name}: built, of one core's speed of decoding alone", found)
    core = statistics.median(used[1:])
    yield Line(f"speech, {name}: times real time, each second of a core", seconds / core)


def _rebuilt(settings: CorpusBuildSettings) -> Callable[[], object]:
    """Builds one corpus again and again."""

    def rebuild() -> None:
        shutil.rmtree(settings.out, ignore_errors=True)
        build(settings, silent)

    return rebuild


def _seconds(folder: Path) -> float:
    """Of music or sound in a corpus."""
    told = TokenCorpus.load(folder).description
    return float(sum(getattr(told, split).seconds for split in SPLITS))


def _draw_music(folder: Path, pieces: int) -> None:
    for number in range(pieces):
        random = np.random.default_rng(number)
        start = np.sort(random.uniform(0, 60, 600))
        end = start + random.uniform(0.05, 2, 600)
        notes = Notes(start, end, random.integers(21, 109, 600), random.integers(1, 128, 600))
        (folder / f"{number}").mkdir(parents=True)
        (folder / f"{number}" / "piece.mid").write_bytes(midi_of_notes(notes))


def _draw_speech(folder: Path, recordings: int) -> None:
    """Glides with noise, as Opus in Ogg."""
    soundfile = optional_package("soundfile", "bench corpora")
    folder.mkdir()
    moments: np.ndarray[Any, Any] = np.arange(10 * RATE) / RATE
    for number in range(recordings):
        random = np.random.default_rng(number)
        pitch = random.uniform(80, 300) * moments + random.uniform(-10, 10) * moments**2
        sound = 0.3 * np.sin(2 * np.pi * pitch) + random.normal(0, 0.02, len(moments))
        written = io.BytesIO()
        soundfile.write(written, sound.astype(np.float32), RATE, "OPUS", format="OGG")
        (folder / f"{number}.opus").write_bytes(written.getvalue())
