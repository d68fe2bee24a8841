"""`headway corpus build`: raw files of any kind become a folder of tokens."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from headway.corpora.audio import SUFFIXES as SPEECH_SUFFIXES
from headway.corpora.codecs import Codec, MuLaw
from headway.corpora.encodec import Encodec
from headway.corpora.music import SUFFIXES as MUSIC_SUFFIXES
from headway.corpora.music import MusicEncoder
from headway.corpora.parts import (
    Encoder,
    Report,
    encode_corpus,
    group_names,
    require_few,
    split_groups,
)
from headway.corpora.sources import RawFile, raw_files
from headway.corpora.speech import SpeechEncoder, codec_files, fit_quantiser
from headway.corpora.splits import SplitName
from headway.corpora.tokens import Skipped, TokenCorpus, build_corpus
from headway.corpora.vocabulary import symbol_tokenizer
from headway.errors import HeadwayError
from headway_settings import CorpusBuildSettings


def build(settings: CorpusBuildSettings, report: Report) -> TokenCorpus:
    """Build the corpus that `settings` ask for in the new folder `settings.out`.

    Raises HeadwayError for a source without readable files, for too many that had to be skipped,
    and for a folder that is there already.
    """
    if settings.out.exists() and (not settings.out.is_dir() or any(settings.out.iterdir())):
        raise HeadwayError(
            f"out: {str(settings.out)!r} exists already; a new or empty folder is accepted"
        )
    if not 0 <= settings.max_skipped <= 1:
        raise HeadwayError(f"max_skipped={settings.max_skipped}: a share, 0 to 1, is accepted")
    if settings.workers is not None and settings.workers < 1:
        raise HeadwayError(f"workers={settings.workers}: 1 or more is accepted")
    match settings.kind:
        case "text":
            _build_text(settings, report)
        case "music":
            _build_music(settings, report)
        case "speech":
            _build_speech(settings, report)
    return TokenCorpus.load(settings.out)


def _build_text(settings: CorpusBuildSettings, report: Report) -> None:
    skipped: list[Skipped] = []
    read: list[str] = []

    def told(path: str, reason: str | None) -> None:
        read.append(path)
        if reason is not None:
            skipped.append(Skipped(os.path.relpath(path, settings.path), reason))
        report(len(read), len(read), f"{path} read")

    corpus = build_corpus(
        settings.path, settings.tokenizer, settings.vocab_size, settings.max_characters, told
    )
    require_few(skipped, len(read), settings.max_skipped)
    description = replace(corpus.description, skipped=tuple(skipped))
    replace(corpus, description=description).save(settings.out)


def _build_music(settings: CorpusBuildSettings, report: Report) -> None:
    encoder = MusicEncoder(settings.transpose, settings.tempos)
    files = raw_files(Path(settings.path), MUSIC_SUFFIXES)
    groups = group_names(files, settings.group_by or "folder", settings.groups)
    _encode(settings, encoder, split_groups(groups), report, {})


def _build_speech(settings: CorpusBuildSettings, report: Report) -> None:
    files = raw_files(Path(settings.path), SPEECH_SUFFIXES)
    splits = split_groups(group_names(files, settings.group_by or "file", settings.groups))
    codec = _codec(settings, splits["train"])
    _encode(settings, SpeechEncoder(codec), splits, report, codec_files(codec))


def _codec(settings: CorpusBuildSettings, training: list[RawFile]) -> Codec:
    match settings.codec:
        case "mel":
            return fit_quantiser(training, settings.sample_rate or 24_000, settings.codes)
        case "encodec":
            return Encodec(settings.weights)
        case _:
            rate = settings.sample_rate or 16_000
            if not 1_000 <= rate <= 192_000:
                raise HeadwayError(f"sample_rate={rate}: 1000 to 192000 are accepted")
            return MuLaw(rate)


def _encode(
    settings: CorpusBuildSettings,
    encoder: Encoder,
    splits: dict[SplitName, list[RawFile]],
    report: Report,
    files: dict[str, bytes],
) -> None:
    encode_corpus(
        settings.path,
        settings.kind,
        encoder,
        splits,
        symbol_tokenizer(encoder.symbols),
        settings.out,
        settings.workers,
        settings.max_skipped,
        report,
        files,
    )
