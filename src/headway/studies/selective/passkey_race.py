"""Decoders that find a number in a long text: what is scored, at which lengths and depths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headway.studies.races.courses import Scores, seed_of
from headway.studies.races.token_races import LOOKED_AT, TokenRace
from headway.tasks.base import IGNORED
from headway.tasks.passkey import Passkey
from headway.tasks.words import Words
from headway.training.ensemble import Call, Ensemble

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""At which keys stand in tests."""
ALL = "all"
"""The score that is raced: over all lengths and depths."""


def cell(length: int, depth: float | None = None) -> str:
    """The name of the score at a length, at a depth or over all."""
    return f"length_{length}" if depth is None else f"length_{length}_depth_{depth:g}"


@dataclass(frozen=True, kw_only=True)
class PasskeyRace(TokenRace):
    """Rows with a key, judged as a whole: all of the key's tokens are right or it is not found.

    `rows` counts the trials at each length and depth.

    Attributes:
        lengths: of the rows that are tested.
    """

    lengths: tuple[int, ...]

    @property
    def learned(self) -> int:
        """Tokens of a row in training."""
        assert isinstance(self.task, Passkey)
        return self.task.length

    def cells(self) -> list[tuple[int, float]]:
        """Lengths and depths that are tested."""
        return [(length, depth) for length in self.lengths for depth in DEPTHS]

    def tests(self, ensemble: Ensemble, seeds: Sequence[int], device: str) -> Scores:
        """Gives the share of keys that each copy finds in the rows of its seed."""
        assert isinstance(self.task, Passkey)
        different = list(dict.fromkeys(seeds))
        of_copy = torch.tensor([different.index(seed) for seed in seeds], device=device)
        drawing = [torch.Generator(device).manual_seed(seed_of("tests", s)) for s in different]
        tests: dict[tuple[int, float], dict[str, Tensor]] = {}
        for length, depth in self.cells():
            task = replace(self.task, length=length, depth=depth)
            drawn = [task.sample(self.rows, generator) for generator in drawing]
            tests[length, depth] = {
                "inputs": torch.stack([s.inputs for s in drawn]),
                "targets": torch.stack([s.targets for s in drawn]),
            }
        judge = replace(ensemble, loss=_found)

        def share(length: int, depth: float) -> Tensor:
            test = tests[length, depth]
            # As many tokens at once at every length.
            at_once = max(1, LOOKED_AT * self.batch * self.learned // length)
            parts = zip(*(test[n].split(at_once, 1) for n in ("inputs", "targets")), strict=True)
            found = [judge.losses({"inputs": i[of_copy], "targets": t[of_copy]}) for i, t in parts]
            return torch.stack(found).sum(0) / self.rows

        def score() -> dict[str, Tensor]:
            at = {cell(*place): share(*place) for place in self.cells()}
            over = {
                cell(length): torch.stack([at[cell(length, depth)] for depth in DEPTHS]).mean(0)
                for length in self.lengths
            }
            return {ALL: torch.stack(list(over.values())).mean(0)} | over | at

        return score


def _found(call: Call, batch: Mapping[str, Tensor]) -> Tensor:
    """How many keys are found."""
    targets = batch["targets"]
    right = call(batch["inputs"], use_cache=False).logits.argmax(-1) == targets
    found: Tensor = (right | (targets == IGNORED)).all(-1).sum()
    return found


def known_words() -> Words:
    """Words that hold all of a prompt, and no more: none is added whatever is drawn."""
    words = Words()
    length = 512  # long enough for all sentences of the filler
    Passkey(encode=words, length=length).sample(1, torch.Generator().manual_seed(0))
    for digit in range(10):
        words(f" {digit}{digit}")
    words.vocab_size = len(words.tokens)
    return words
