"""`headway corpus build`: raw files of any kind become a folder of tokens."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Literal

from headway.corpora.codecs import MuLaw
from headway.corpora.encodec import Encodec
from headway.corpora.groups import group_names, split_groups
from headway.corpora.kept_frames import KeptFrames
from headway.corpora.kinds import SUFFIXES, Kind
from headway.corpora.mel import one_thread
from headway.corpora.music import MusicEncoder
from headway.corpora.parts import Report
from headway.corpora.recordings import Encoder, encode_recordings
from headway.corpora.sources import RawFile, raw_files
from headway.corpora.speech import SpeechEncoder, codec_files, fit_quantiser
from headway.corpora.splits import SplitName
from headway.corpora.text_build import build_text
from headway.corpora.tokens import TokenCorpus
from headway.errors import HeadwayError
from headway.files import writing_to
from headway_settings import CorpusBuildSettings

OPTIONS: Mapping[Kind | Literal["mel", "mu-law", "encodec"], tuple[str, ...]] = {
    "text": ("tokenizer", "vocab_size", "max_characters"),
    "music": ("group_by", "groups", "transpose", "tempos"),
    "speech": ("group_by", "groups", "codec"),
    "mel": ("codes", "sample_rate"),
    "mu-law": ("sample_rate",),
    "encodec": ("weights",),
}
"""Of each kind, and of each codec of speech."""


def build(settings: CorpusBuildSettings, report: Report) -> TokenCorpus:
    """Build the corpus that `settings` ask for in the new folder `settings.out`.

    Raises HeadwayError for a source without readable files, for too many that had to be skipped,
    for a folder that is there already, and for an option of another kind or codec.
    """
    if settings.out.exists() and (not settings.out.is_dir() or any(settings.out.iterdir())):
        raise HeadwayError(
            f"out: {str(settings.out)!r} exists already; a new or empty folder is accepted"
        )
    _refuse_others(settings)
    if not 0 <= settings.max_skipped <= 1:
        raise HeadwayError(f"max_skipped={settings.max_skipped}: a share, 0 to 1, is accepted")
    if settings.workers is not None and settings.workers < 1:
        raise HeadwayError(f"workers={settings.workers}: 1 or more is accepted")
    match settings.kind:
        case "text":
            build_text(
                settings.path,
                settings.tokenizer,
                settings.vocab_size,
                settings.max_characters,
                settings.out,
                settings.workers,
                settings.max_skipped,
                report,
            )
        case "music":
            _build_music(settings, report)
        case "speech":
            _build_speech(settings, report)
    return TokenCorpus.load(settings.out)


def _refuse_others(settings: CorpusBuildSettings) -> None:
    """HeadwayError where an option is set that this kind, or this codec, would not heed."""
    built: str = settings.kind
    heeded = OPTIONS[settings.kind]
    if settings.kind == "speech":
        built, heeded = f"speech in {settings.codec}", heeded + OPTIONS[settings.codec]
    others = {option for options in OPTIONS.values() for option in options}.difference(heeded)
    for field in fields(settings):
        if field.name in others and (value := getattr(settings, field.name)) != field.default:
            raise HeadwayError(
                f"{field.name}: {value!r} is not accepted for {built}, which has no such option; "
                f"accepted are {', '.join(heeded)}"
            )


def _build_music(settings: CorpusBuildSettings, report: Report) -> None:
    encoder = MusicEncoder(settings.transpose, settings.tempos)
    files = raw_files(Path(settings.path), SUFFIXES["music"])
    groups = group_names(files, settings.group_by or "folder", settings.groups)
    _encode(settings, encoder, split_groups(groups), report, {})


def _build_speech(settings: CorpusBuildSettings, report: Report) -> None:
    files = raw_files(Path(settings.path), SUFFIXES["speech"])
    splits = split_groups(group_names(files, settings.group_by or "file", settings.groups))
    match settings.codec:
        case "mel":
            _build_mel(settings, splits, report)
        case "encodec":
            _encode(settings, SpeechEncoder(Encodec(settings.weights)), splits, report, {})
        case _:
            rate = settings.sample_rate or 16_000
            if not 1_000 <= rate <= 192_000:
                raise HeadwayError(f"sample_rate={rate}: 1000 to 192000 are accepted")
            _encode(settings, SpeechEncoder(MuLaw(rate)), splits, report, {})


def _build_mel(
    settings: CorpusBuildSettings, splits: dict[SplitName, list[RawFile]], report: Report
) -> None:
    """The frames that the quantiser is learned on wait beside `out`, to be read again as tokens."""
    rate = settings.sample_rate or 24_000
    kept = KeptFrames(settings.out.parent / f".{settings.out.name}.frames", rate)
    workers = settings.workers or os.cpu_count() or 1
    with writing_to(settings.out.parent), one_thread():
        report(0, 1, f"{settings.codes:,} codes are learned")
        codec = fit_quantiser(splits["train"], settings.codes, kept, workers)
        _encode(settings, SpeechEncoder(codec, kept), splits, report, codec_files(codec))
    kept.remove()


def _encode(
    settings: CorpusBuildSettings,
    encoder: Encoder,
    splits: dict[SplitName, list[RawFile]],
    report: Report,
    files: dict[str, bytes],
) -> None:
    encode_recordings(
        settings.path,
        settings.kind,
        encoder,
        splits,
        settings.out,
        settings.workers,
        settings.max_skipped,
        report,
        files,
    )
