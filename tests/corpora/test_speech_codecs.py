"""Sound to tokens and back: mu-law exactly, mel frames by the nearest, EnCodec as its model."""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import EncodecConfig, EncodecModel

from headway.corpora import TokenCorpus
from headway.corpora.audio import read_audio, wave
from headway.corpora.build import build
from headway.corpora.codecs import MuLaw
from headway.corpora.encodec import Encodec
from headway.corpora.kept_frames import KeptFrames
from headway.corpora.kinds import SUFFIXES
from headway.corpora.mel import MelQuantiser, fit_centres, griffin_lim, log_mel
from headway.corpora.render import render
from headway.corpora.sources import BadFile, raw_files
from headway.corpora.splits import SPLITS
from headway.errors import HeadwayError
from headway_settings import CorpusBuildSettings, CorpusRenderSettings

RATE = 12_000


def tone(seconds: float, rate: int = RATE, pitch: float = 440.0) -> np.ndarray:
    """A gliding tone with overtones."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * pitch * (time + 0.1 * time**2)
    return (0.3 * np.sin(phase) + 0.1 * np.sin(3 * phase)).astype(np.float32)


def sound_file(samples: np.ndarray, rate: int, kind: str, subtype: str | None = None) -> bytes:
    written = io.BytesIO()
    soundfile.write(written, samples, rate, subtype, format=kind)
    return written.getvalue()


def silent(done: int, total: int, text: str) -> None:
    assert 0 <= done <= total


def test_mu_law_tokens_survive_exactly() -> None:
    codec, tokens = MuLaw(RATE), np.arange(256)
    np.testing.assert_array_equal(codec.encode(codec.decode(tokens)), tokens)
    assert codec.decode(tokens)[[0, 255]].tolist() == pytest.approx([-1, 1])


@given(st.lists(st.floats(-1, 1, width=32), min_size=1))
def test_mu_law_is_finer_where_it_is_quieter(samples: list[float]) -> None:
    codec, sound = MuLaw(RATE), np.array(samples)
    back = codec.decode(codec.encode(sound))
    slope = (1 + 255 * np.maximum(abs(sound), abs(back))) * np.log(256) / 255
    assert (abs(back - sound) <= slope / 255 + 1e-9).all()


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_files_of_any_kind_rate_and_channels_become_one_channel_at_one_rate(kind: str) -> None:
    samples = tone(1.0, 48_000)
    content = sound_file(np.stack((samples, samples), 1), 48_000, kind)
    heard = read_audio(content, RATE)
    assert heard.shape == (RATE,)
    assert heard.dtype == np.float32
    assert np.corrcoef(heard[500:-500], tone(1.0)[500:-500])[0, 1] > 0.999


WAV = sound_file(tone(0.5), RATE, "WAV")
FLAC = sound_file(tone(2.0), RATE, "FLAC")
OGG = sound_file(tone(2.0), RATE, "OGG")
LOUD = np.full(RATE, np.nan, np.float32)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no sound at all, of any kind", r"^no sound file, or damaged \(Format not recog[^<]*\)$"),
        (WAV[:20], "cut short"),
        (WAV[:-100], "cut short"),
        (FLAC[: len(FLAC) // 2], "cut short|damaged"),
        (OGG[: len(OGG) // 2], "cut short"),
        (OGG[:-10], "cut short"),
        (sound_file(np.zeros(RATE), RATE, "WAV"), "silent"),
        (sound_file(tone(0.05), RATE, "WAV"), "at least 0.1 s"),
        (sound_file(tone(1.0, 4_000), 4_000, "WAV"), "4000 samples a second; 8000 to 192000"),
        (sound_file(LOUD, RATE, "WAV", "FLOAT"), "no numbers"),
    ],
)
def test_files_that_are_no_speech_are_told_apart(content: bytes, reason: str) -> None:
    with pytest.raises(BadFile, match=reason):
        read_audio(content, RATE)


@given(st.data())
def test_damage_anywhere_ends_in_sound_or_a_reason(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([WAV, FLAC, OGG])))
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, 99) | st.integers(0, len(content) - 1))
        content[min(place, len(content) - 1)] = data.draw(st.integers(0, 255))
    try:
        heard = read_audio(bytes(content), RATE)
    except BadFile:
        return
    assert np.isfinite(heard).all()
    assert abs(heard).max() <= 1


def test_there_are_75_mel_frames_a_second() -> None:
    frames = log_mel(tone(2.0), RATE)
    assert frames.shape == (150, 80)
    assert frames.dtype == np.float32


def test_a_louder_sound_shifts_all_frames_and_a_later_one_moves_them() -> None:
    sound = tone(1.0)
    frames = log_mel(sound, RATE)
    audible = frames > -6
    np.testing.assert_allclose(
        log_mel(2 * sound, RATE)[audible], frames[audible] + np.log(2), atol=1e-4
    )
    later = log_mel(np.concatenate((np.zeros(RATE // 75 * 10, np.float32), sound)), RATE)
    np.testing.assert_allclose(later[13:], frames[3:], atol=1e-3)


def test_griffin_lim_gives_back_a_sound_with_these_frames() -> None:
    sound = tone(1.0)
    frames = log_mel(sound, RATE)
    heard = griffin_lim(frames, RATE)
    assert heard.shape == sound.shape
    again = log_mel(heard.astype(np.float32), RATE)
    loud = frames > frames.max() - 4
    assert abs(again - frames)[loud].mean() < 0.25
    np.testing.assert_array_equal(heard, griffin_lim(frames, RATE))


def test_a_quantiser_chooses_the_nearest_centre_and_is_learned_the_same_twice() -> None:
    random = np.random.default_rng(0)
    frames = random.normal(size=(400, 80)).astype(np.float32)
    centres = fit_centres(frames, 16)
    np.testing.assert_array_equal(centres, fit_centres(frames, 16))
    sound = tone(1.0)
    heard = log_mel(sound, RATE)
    codec = MelQuantiser(RATE, np.concatenate((centres, heard[::7])))
    tokens = codec.encode(sound)
    distances = ((heard[:, None] - codec.centres[None]) ** 2).sum(-1)
    chosen = np.take_along_axis(distances, tokens[:, None], 1)[:, 0]
    np.testing.assert_allclose(chosen, distances.min(1), atol=1e-2)
    assert codec.decode(tokens).shape == sound.shape
    for codes in (1, 401):
        with pytest.raises(HeadwayError, match=f"codes={codes}"):
            fit_centres(frames, codes)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny EnCodec with random weights."""
    torch.manual_seed(0)
    config = EncodecConfig(
        target_bandwidths=[1.5, 3.0],
        sampling_rate=RATE,
        num_filters=4,
        hidden_size=16,
        codebook_dim=16,
        codebook_size=32,
        upsampling_ratios=[5, 4, 4, 2],
        num_lstm_layers=1,
    )
    model = EncodecModel(config)
    with torch.no_grad():
        hidden = model.encoder(torch.from_numpy(tone(1.0))[None, None])[0].T
    model.quantizer.layers[0].codebook.embed.copy_(hidden[:64:2])  # so that many codes are used
    folder = tmp_path_factory.mktemp("encodec")
    model.save_pretrained(folder)
    return folder


def test_encodec_gives_its_coarsest_codes_and_plays_them(weights: Path) -> None:
    codec, sound = Encodec(str(weights)), tone(1.0)
    assert (codec.rate, codec.codes) == (RATE, 32)
    tokens = codec.encode(sound)
    assert tokens.shape == (75,)
    model = EncodecModel.from_pretrained(weights).eval()
    with torch.no_grad():
        hidden = model.encoder(torch.from_numpy(sound)[None, None])[0].T
        nearest = torch.cdist(hidden, model.quantizer.layers[0].codebook.embed).argmin(1)
    assert (tokens == nearest.numpy()).mean() > 0.95, "ties of float32 aside"
    assert len(set(tokens.tolist())) > 1
    assert codec.decode(tokens).shape == sound.shape
    assert not np.allclose(codec.decode(tokens), codec.decode(tokens[::-1]))


def test_encodec_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadwayError, match=r"weights: .* cannot be loaded"):
        _ = Encodec(str(tmp_path)).rate


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("speech") / "speech.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(40):
            samples = tone(0.5 + number / 40, RATE, 200.0 + 20 * number)
            archive.writestr(f"a/{number}.wav", wave(samples, RATE))
        archive.writestr("a/nothing.wav", wave(np.zeros(RATE), RATE))
    return path


def speech(source: Path, out: Path, **more: object) -> CorpusBuildSettings:
    settings = CorpusBuildSettings(kind="speech", path=str(source), out=out, sample_rate=RATE)
    return replace(settings, **more)


def test_a_corpus_of_samples_gives_each_recording_back(recordings: Path, tmp_path: Path) -> None:
    corpus = build(speech(recordings, tmp_path / "out", codec="mu-law"), silent)
    assert (corpus.vocab_size, corpus.eot) == (257, 256)
    assert [(item.file, item.reason) for item in corpus.description.skipped] == [
        ("a/nothing.wav", "silent")
    ]
    total = sum(getattr(corpus.description, split).seconds for split in SPLITS)
    assert total == pytest.approx(sum(0.5 + n / 40 for n in range(40)), abs=0.01)
    asked = CorpusRenderSettings(folder=tmp_path / "out", out=tmp_path / "a.wav", split="test")
    render(asked)
    tokens = corpus.test[: np.flatnonzero(corpus.test == 256)[0]]
    heard = read_audio((tmp_path / "a.wav").read_bytes(), RATE)
    assert abs(heard - MuLaw(RATE).decode(tokens)).max() < 1e-4


def test_a_corpus_of_mel_codes_carries_its_codebook(recordings: Path, tmp_path: Path) -> None:
    settings = speech(recordings, tmp_path / "out", codes=32)
    corpus = build(settings, silent)
    assert corpus.vocab_size == 33
    total = sum(len(getattr(corpus, split)) for split in SPLITS)
    assert total == sum(int((0.5 + n / 40) * 75) for n in range(40)) + 40
    assert len(np.unique(corpus.train)) > 16
    out = tmp_path / "a.wav"
    render(CorpusRenderSettings(folder=settings.out, out=out, split="train"))
    frames = np.flatnonzero(corpus.train == corpus.eot)[0]
    assert len(read_audio(out.read_bytes(), RATE)) == frames * RATE // 75
    codebook = settings.out / "codebook.safetensors"
    content = bytearray(codebook.read_bytes())
    content[-1] ^= 1
    codebook.write_bytes(content)
    with pytest.raises(HeadwayError, match=r"codebook.safetensors' is damaged"):
        render(CorpusRenderSettings(folder=settings.out, out=out))


def test_a_corpus_of_encodec_codes(recordings: Path, weights: Path, tmp_path: Path) -> None:
    settings = speech(
        recordings, tmp_path / "out", codec="encodec", weights=str(weights), sample_rate=None
    )
    corpus: TokenCorpus = build(settings, silent)
    assert corpus.vocab_size == 33
    out = render(CorpusRenderSettings(folder=settings.out, out=tmp_path / "a.wav"))
    assert soundfile.info(str(out)).samplerate == RATE


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sample_rate": 16_000}, "sample_rate=16000: a multiple of 75"),
        ({"codec": "mu-law", "sample_rate": 10}, "sample_rate=10"),
        ({"codes": 1_000_000}, "codes=1000000"),
    ],
)
def test_refused_speech(
    recordings: Path, tmp_path: Path, change: dict[str, object], told: str
) -> None:
    with pytest.raises(HeadwayError, match=told):
        build(speech(recordings, tmp_path / "out", **change), silent)


def test_the_real_recordings(tmp_path: Path) -> None:
    data = os.environ.get("HEADWAY_DATA")
    if not data:
        pytest.skip("HEADWAY_DATA names no folder of data")
    with zipfile.ZipFile(Path(data, "speech", "kerstin-24khz.zip")) as archive:
        for name in sorted(archive.namelist())[:20]:
            (tmp_path / name).write_bytes(archive.read(name))
    corpus = build(speech(tmp_path, tmp_path / "out", codes=64, sample_rate=24_000), silent)
    assert corpus.description.skipped == ()
    assert len(corpus.train) / corpus.description.train.seconds == pytest.approx(75, abs=0.6)


def test_sound_is_decoded_once_and_workers_change_nothing(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def counted(content: bytes, rate: int) -> np.ndarray:
        samples = read_audio(content, rate)
        decoded.append(len(content))
        return samples

    monkeypatch.setattr("headway.corpora.kept_frames.read_audio", counted)
    monkeypatch.setattr("headway.corpora.recordings._PART_FILES", 2)
    found = []
    for workers in (1, 3):
        out = tmp_path / f"{workers}"
        build(speech(recordings, out, workers=workers), silent)
        found.append({path.name: path.read_bytes() for path in sorted(out.iterdir())})
        told = TokenCorpus.load(out).description
        assert len(decoded) == sum(getattr(told, split).documents for split in SPLITS)
        decoded.clear()
    assert found[0] == found[1]
    assert not list(tmp_path.glob(".*"))


def test_kept_frames_that_were_torn_are_computed_again(recordings: Path, tmp_path: Path) -> None:
    kept = KeptFrames(tmp_path, RATE)
    file, *_ = raw_files(recordings, SUFFIXES["speech"])
    frames, seconds = kept.keep(file)
    (path,) = tmp_path.iterdir()
    assert kept.of(file)[1] == seconds
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    np.testing.assert_array_equal(kept.of(file)[0], frames)
    kept.keep(file)
    np.testing.assert_array_equal(kept.of(file)[0], frames)
    np.testing.assert_array_equal(
        frames, log_mel(read_audio(file.read(1 << 30), RATE), RATE).astype(np.float16)
    )


def test_frames_of_a_name_of_any_bytes_are_kept(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff.wav")).write_bytes(WAV)
    (file,) = raw_files(tmp_path, SUFFIXES["speech"])
    kept = KeptFrames(tmp_path / "kept", RATE)
    np.testing.assert_array_equal(kept.keep(file)[0], kept.of(file)[0])
    assert len(list(kept.folder.iterdir())) == 1
