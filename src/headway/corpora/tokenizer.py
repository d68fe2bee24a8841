"""The tokenizer of a corpus: a byte-level BPE trained on it, its bytes, or a tokenizer.json."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from headway.corpora.optional import optional_package
from headway.errors import HeadwayError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"

_ENDS = (END_OF_TEXT, "</s>", "<eos>", "[SEP]")
_BYTES = 256
_GLANCE = 8  # characters
_FILE = "tokenizer.json"
_TEXT8 = " abcdefghijklmnopqrstuvwxyz"
_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGITS = {str(digit): name for digit, name in enumerate(_NAMES)}


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE on `texts`; the same texts in the same order give the same tokenizer.

    Token 0 is END_OF_TEXT; every byte is a token, so any text can be encoded and decoded exactly. A
    text with fewer different pairs than `vocab_size` asks for gives a smaller vocabulary.

    Raises HeadwayError when `vocab_size` is below 257.
    """
    require_size(vocab_size)
    library = _library()
    tokenizer = _byte_level(library.models.BPE())
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=_byte_characters(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def require_size(vocab_size: int) -> None:
    """HeadwayError for a size that no byte-level BPE has."""
    if vocab_size <= _BYTES:
        raise HeadwayError(
            f"vocab_size={vocab_size}: a byte-level BPE needs at least {_BYTES + 1} "
            f"(the bytes and the end of text)"
        )


def load_tokenizer(spec: str, texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """The tokenizer that `spec` asks for.

    'bpe'      trained on `texts` with `vocab_size` tokens
    'bytes'    token 0 is END_OF_TEXT, token b + 1 is byte b
    'characters'  text8's: token 0 is the space, 1 to 26 are a to z, 27 is END_OF_TEXT; letters
               become small, digits are spelled out, all else becomes one space
    a path     of a tokenizer.json or of a folder that holds one

    Only 'bpe' reads `texts` and `vocab_size`. Texts are encoded whole: truncation and padding that
    a file asks for are switched off, and what looks like a special token is encoded as text.

    Raises HeadwayError when the file is missing, unreadable, no tokenizer, or has no end of text.
    """
    if spec == "bpe":
        tokenizer = train_bpe(texts, vocab_size)
    elif spec == "bytes":
        tokenizer = _byte_tokenizer()
    elif spec == "characters":
        tokenizer = _character_tokenizer()
    else:
        tokenizer = _tokenizer_of_file(spec)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def end_of_text(tokenizer: Tokenizer) -> int:
    """The id of the token that ends a document: the first of <|endoftext|>, </s>, <eos>, [SEP].

    Raises HeadwayError when the vocabulary has none of them.
    """
    for token in _ENDS:
        number = tokenizer.token_to_id(token)
        if number is not None:
            return number
    raise HeadwayError(f"tokenizer: no end-of-text token; one of {', '.join(_ENDS)} is accepted")


def holder(tokenizer: Tokenizer) -> Callable[[str], bool]:
    """Give a function that tells whether a text is more than white space once it is encoded."""
    return holder_of(
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
    )


def holder_of(
    encode: Callable[[str], list[int]], decode: Callable[[list[int]], str]
) -> Callable[[str], bool]:
    """As `holder`, for a tokenizer of any library."""

    def holds(text: str) -> bool:
        # Mostly the beginning tells.
        return any(decode(encode(part)).strip() for part in (text[:_GLANCE], text))

    return holds


def _library() -> Any:
    return optional_package("tokenizers", "tokenizer")


def _byte_level(model: Any) -> Tokenizer:
    """A tokenizer of `model` that writes bytes as characters, splits into words, and decodes."""
    library = _library()
    tokenizer: Tokenizer = library.Tokenizer(model)
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    return tokenizer


def _byte_tokenizer() -> Tokenizer:
    """A byte-level BPE without merges: every byte stays a token."""
    characters = enumerate(_byte_characters(), 1)
    vocabulary = {END_OF_TEXT: 0, **{character: number for number, character in characters}}
    tokenizer = _byte_level(_library().models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def _character_tokenizer() -> Tokenizer:
    """The alphabet of text8 (Mahoney's wikifil.pl) as a BPE without merges."""
    library = _library()
    vocabulary = {character: number for number, character in enumerate((*_TEXT8, END_OF_TEXT))}
    tokenizer: Tokenizer = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=[]))
    normalizers = library.normalizers
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            *(normalizers.Replace(digit, f" {name} ") for digit, name in _DIGITS.items()),
            normalizers.Replace(library.Regex("[^a-z]+"), " "),
        ]
    )
    tokenizer.decoder = library.decoders.Fuse()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def _byte_characters() -> list[str]:
    """The character that byte-level BPE writes for each byte 0..255: itself where it is visible."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(_BYTES, 2 * _BYTES))
    return [chr(byte if byte in visible else next(spare)) for byte in range(_BYTES)]


def _tokenizer_of_file(path: str) -> Tokenizer:
    if os.path.isdir(path):
        path = os.path.join(path, _FILE)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise HeadwayError(
            f"tokenizer={path!r} cannot be read ({error.strerror}); 'bpe', 'bytes', 'characters' "
            f"or the path of a {_FILE} is accepted"
        ) from error
    try:
        tokenizer: Tokenizer = _library().Tokenizer.from_buffer(content)
    except ValueError as error:
        raise HeadwayError(
            f"tokenizer={path!r} is no tokenizer file ({error}); "
            f"a {_FILE} of the tokenizers library is accepted"
        ) from error
    end_of_text(tokenizer)
    return tokenizer
