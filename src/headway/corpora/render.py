"""`headway corpus render`: tokens of a corpus back to music, sound or text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from headway.corpora.audio import wave
from headway.corpora.midi import midi_of_notes
from headway.corpora.optional import optional_package
from headway.corpora.performance import decode
from headway.corpora.speech import load_codec
from headway.corpora.synthesis import heard
from headway.corpora.tokens import Integers, TokenCorpus
from headway.errors import HeadwayError
from headway.files import write_atomically, writing_to
from headway_settings import CorpusRenderSettings

_SUFFIXES = {"text": (".txt",), "music": (".mid", ".wav"), "speech": (".wav",)}
"""Of each kind, the first one where no name is given."""


def render(settings: CorpusRenderSettings) -> Path:
    """Write one document of a corpus, or tokens of a file, as .txt, .mid or .wav: as its kind is.

    Music as .wav is played by the program fluidsynth.

    Raises HeadwayError for a document that is not there, for tokens that the corpus does not have,
    for a suffix of another kind, and where fluidsynth is needed and not there.
    """
    corpus = TokenCorpus.load(settings.folder)
    accepted = _SUFFIXES[corpus.description.kind]
    name = settings.tokens.stem if settings.tokens else f"{settings.split}-{settings.number}"
    out = settings.out or Path(name + accepted[0])
    sounds = out.suffix.lower() == ".wav"
    if out.suffix.lower() not in accepted:
        raise HeadwayError(
            f"out: {str(out)!r} is not accepted for {corpus.description.kind}; a name "
            f"that ends in {' or '.join(accepted)} is accepted"
        )
    if settings.soundfont is not None and not (sounds and corpus.description.kind == "music"):
        raise HeadwayError(
            f"soundfont: {str(settings.soundfont)!r} is accepted for music as .wav alone"
        )
    if settings.tokens is None:
        tokens = _document(getattr(corpus, settings.split), corpus.eot, settings.number)
    else:
        tokens = _read_tokens(settings.tokens, corpus.vocab_size)
        tokens = tokens[tokens != corpus.eot]
    if not len(tokens):
        raise _nothing(settings, "token before the end of text")
    with writing_to(out.parent):
        return write_atomically(out, _content(corpus, settings, tokens, sounds))


def _content(
    corpus: TokenCorpus, settings: CorpusRenderSettings, tokens: Integers, sounds: bool
) -> bytes:
    match corpus.description.kind:
        case "music":
            notes = decode(tokens)
            if not len(notes.start):
                raise _nothing(settings, "note")
            midi = midi_of_notes(notes)
            return heard(midi, settings.soundfont) if sounds else midi
        case "speech":
            codec = load_codec(corpus.description.code, settings.folder)
            return wave(codec.decode(tokens), codec.rate)
        case _:
            library = optional_package("tokenizers", "tokenizer")
            text: str = library.Tokenizer.from_str(corpus.tokenizer_json).decode(tokens.tolist())
            return text.encode()


def _nothing(settings: CorpusRenderSettings, held: str) -> HeadwayError:
    if settings.tokens is None:
        what = f"number={settings.number}: this document"
    else:
        what = f"tokens: {str(settings.tokens)!r}"
    return HeadwayError(f"{what} holds no {held}; at least one is accepted")


def _document(tokens: Integers, eot: int, number: int) -> Integers:
    """Document `number`, counted from 0, of a split."""
    ends = np.flatnonzero(tokens == eot)
    if not 0 <= number < len(ends):
        raise HeadwayError(f"number={number}: 0 to {len(ends) - 1} is accepted for this split")
    return tokens[ends[number - 1] + 1 if number else 0 : ends[number]]


def _read_tokens(path: Path, vocab_size: int) -> Integers:
    """Token ids from a file that holds one JSON list of them."""
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HeadwayError(
            f"tokens: {str(path)!r} cannot be read ({error}); a JSON list of token ids is accepted"
        ) from error
    if not isinstance(ids, list) or not all(
        type(number) is int and 0 <= number < vocab_size for number in ids
    ):
        raise HeadwayError(
            f"tokens: {str(path)!r} is not accepted; one JSON list of numbers from 0 to "
            f"{vocab_size - 1} is accepted"
        )
    return np.array(ids, np.int64)
