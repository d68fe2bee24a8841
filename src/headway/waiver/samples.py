"""Samples of text for a profile: windows of T tokens, and what stands at position 0 of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from headway.errors import HeadwayError

Bos = Literal["auto", "yes", "no"]

LEAST_CHARACTERS = 500_000
CHARACTERS_A_TOKEN = 16
"""So much text is tokenised for each token that is needed: windows come from many places."""
BETWEEN = "\n\n"
"""Stands between two documents."""


@dataclass(frozen=True)
class Samples:
    """Windows of a text.

    Attributes:
        input_ids: `(M, T)`.
        bos_added: whether a token that begins a text was put at position 0.
        before: texts of the special tokens in front of each window.
        after: texts of those behind it.
        windows: how many different windows there were to draw from.
    """

    input_ids: Tensor
    bos_added: bool
    before: tuple[str, ...]
    after: tuple[str, ...]
    windows: int


def enough_characters(tokens: int, samples: int) -> int:
    """How much text `sample_text` reads at most."""
    return max(LEAST_CHARACTERS, CHARACTERS_A_TOKEN * tokens * samples)


def sample_text(
    tokenizer: Any,
    documents: Sequence[str],
    tokens: int,
    samples: int,
    *,
    bos: Bos = "auto",
    seed: int = 0,
) -> Samples:
    """Draw windows from documents without replacement.

    The documents stand one behind the other, a blank line between them. Their text is cut into
    windows that do not overlap; one may reach from a document into the next.

    Args:
        tokenizer: of transformers.
        documents: text; so much of it is used as `enough_characters` says.
        tokens: T, special tokens included.
        samples: M.
        bos: 'auto': the special tokens that the tokenizer puts around a text, such as BOS or [CLS]
            and [SEP]; 'yes': as 'auto', and the tokenizer's `bos_token` (else its `cls_token`)
            where it puts nothing in front; 'no': no special tokens.
        seed: of the draw.

    Raises:
        HeadwayError: `tokens` or `samples` too small, another `bos`, none to put in front, or too
            little text.
    """
    _check_counts(tokens, samples)
    before, after = special_tokens(tokenizer, bos)
    body = tokens - len(before) - len(after)
    if body < 1:
        raise HeadwayError(
            f"tokens: value is {tokens}; accepted are {len(before) + len(after) + 1} and more, "
            "because the tokenizer puts special tokens around a text"
        )
    text = BETWEEN.join(documents)[: enough_characters(tokens, samples)]
    # Warnings about the model's longest input do not concern a text that is cut afterwards.
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    windows = torch.tensor(ids[: len(ids) // body * body], dtype=torch.long).view(-1, body)
    if len(windows) < samples:
        raise HeadwayError(
            f"samples: value is {samples}; the text holds {len(ids):,} tokens, so accepted are up "
            f"to {len(windows)} of {tokens} tokens, or a longer text"
        )
    drawn = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))[:samples]
    front, back = (
        torch.tensor(part, dtype=torch.long).expand(samples, -1) for part in (before, after)
    )
    return Samples(
        input_ids=torch.cat([front, windows[drawn], back], dim=1),
        bos_added=bool(before),
        before=tuple(tokenizer.convert_ids_to_tokens(before)),
        after=tuple(tokenizer.convert_ids_to_tokens(after)),
        windows=len(windows),
    )


def special_tokens(tokenizer: Any, bos: Bos) -> tuple[list[int], list[int]]:
    """Ids in front of a text and behind it (see `sample_text`)."""
    if bos not in get_args(Bos):
        raise HeadwayError(f"bos: value is {bos!r}; accepted are {', '.join(get_args(Bos))}")
    if bos == "no":
        return [], []
    plain = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a", add_special_tokens=True).input_ids
    start = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), len(whole))
    before, after = whole[:start], whole[start + len(plain) :]
    if bos == "yes" and not before:
        first = tokenizer.bos_token_id
        first = tokenizer.cls_token_id if first is None else first
        if first is None:
            raise HeadwayError(
                "bos: value is 'yes'; accepted are auto and no, because the tokenizer has neither "
                "bos_token nor cls_token"
            )
        before = [first]
    return before, after


def check_length(model: nn.Module, tokens: int) -> None:
    """Refuse more tokens than a learned table of positions holds.

    Raises:
        HeadwayError: with the size of the table.
    """
    for name, module in model.named_modules():
        word = name.rpartition(".")[2]
        if not isinstance(module, nn.Embedding) or not ("position" in word or word == "wpe"):
            continue
        # OPT leaves the first rows unused, RoBERTa those up to its padding token's.
        padding = -1 if module.padding_idx is None else module.padding_idx
        most = module.num_embeddings - int(getattr(module, "offset", padding + 1))
        if tokens > most:
            raise HeadwayError(
                f"tokens: value is {tokens}; accepted are up to {most}, the size of the model's "
                "learned table of positions"
            )


def _check_counts(tokens: int, samples: int) -> None:
    if tokens < 2:
        raise HeadwayError(f"tokens: value is {tokens}; accepted are 2 and more")
    if samples < 1:
        raise HeadwayError(f"samples: value is {samples}; accepted are 1 and more")
