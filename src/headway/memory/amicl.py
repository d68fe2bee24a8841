"""AMICL: the associative memory for in-context learning of arXiv 2412.15113 (released notebook).

`B` trials, `P` pairs in the context, `T = 2 P + 2` tokens, `D` width. The tokens are objects and
labels in turn; the last object is the query, and where its label would stand there are zeros.
A token's key mixes it with the token before, so that the key of a label tells the object it
belongs to; the memory gives out the token whose key is most like that of the last token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from headway.errors import HeadwayError

Similarity = Literal["dot", "pearson", "euclidean", "manhattan"]
"""How a key is compared with the query. The distances keep their sign, as in the notebook: the
farthest key wins."""
Separation = Literal["argmax", "softmax"]
"""What is made of the similarities: the value of the most similar key, or a mean of all values."""
LastKey = Literal["random", "mixed"]
"""The key of the last token: a random vector, as in the notebook, or mixed as all others are."""


@dataclass(frozen=True, kw_only=True)
class Amicl:
    """One step of the memory.

    Attributes:
        a: weight of the token before in a key; that of the token itself is 1.
        similarity: of a key and the query.
        separation: of the similarities.
        sharpness: factor before the softmax; 'argmax' is its limit.
        last_key: of the last token, which else is as similar to the query as the label looked for.
    """

    a: float = 2.0
    similarity: Similarity = "dot"
    separation: Separation = "argmax"
    sharpness: float = 1.0
    last_key: LastKey = "random"

    def mixed(self, tokens_BTD: Tensor) -> Tensor:
        """`(B, T, D)`: (a x[i-1] + x[i]) / (a + 1), where before the first token comes the last."""
        return (self.a * tokens_BTD.roll(1, dims=1) + tokens_BTD) / (self.a + 1)

    def scores(self, tokens_BTD: Tensor, generator: torch.Generator) -> Tensor:
        """Similarity `(B, T)` of each key to the query, which is the last token's mixture.

        Args:
            tokens_BTD: objects and labels in turn.
            generator: of the random last key.
        """
        keys = self.mixed(tokens_BTD)
        query = keys[:, -1:].clone()
        if self.last_key == "random":
            keys[:, -1] = normal(keys[:, -1].shape, generator, keys.dtype)
        return _similarity(keys, query, self.similarity)

    def recall(self, tokens_BTD: Tensor, generator: torch.Generator) -> Tensor:
        """What the memory gives out: `(B, D)`; the values are the tokens as they are."""
        scores = self.scores(tokens_BTD, generator)
        if self.separation == "argmax":
            chosen = scores.argmax(dim=1)
            return tokens_BTD[torch.arange(len(tokens_BTD)), chosen]
        weights = torch.softmax(self.sharpness * scores, dim=1)
        return torch.einsum("bt,btd->bd", weights, tokens_BTD)


def _similarity(keys: Tensor, query: Tensor, name: Similarity) -> Tensor:
    if name == "euclidean":
        return (keys - query).square().sum(-1).sqrt()
    if name == "manhattan":
        return (keys - query).abs().sum(-1)
    if name == "pearson":
        keys, query = (x - x.mean(-1, keepdim=True) for x in (keys, query))
        keys, query = (x / x.norm(dim=-1, keepdim=True) for x in (keys, query))
    return (keys * query).sum(-1)


@dataclass(frozen=True)
class Trials:
    """Contexts with what is to be recalled.

    Attributes:
        tokens_BTD: `(B, T, D)` objects and labels in turn; the last one is zero.
        label_BD: `(B, D)` of the query's class.
        class_BP: `(B, P)` classes of the context's pairs.
        query_B: `(B,)` the query's class, one of them.
    """

    tokens_BTD: Tensor
    label_BD: Tensor
    class_BP: Tensor
    query_B: Tensor


@dataclass(frozen=True, kw_only=True)
class Task:
    """The notebook's task.

    Attributes:
        tokens: T, even and at least 4.
        width: D.
        classes: K, at least 2. The first class is never used, as in the notebook.
        noise: eps, the share of noise in an object.

    Raises:
        HeadwayError: a number that no task can have.
    """

    tokens: int = 20
    width: int = 100
    classes: int = 512
    noise: float = 0.1

    def __post_init__(self) -> None:
        if self.tokens < 4 or self.tokens % 2:
            raise HeadwayError(
                f"tokens: {self.tokens} is not accepted; accepted are even numbers from 4 on"
            )
        for name, least in (("width", 1), ("classes", 2), ("noise", 0)):
            if getattr(self, name) < least:
                value = getattr(self, name)
                raise HeadwayError(
                    f"{name}: {value} is not accepted; accepted are {least} and more"
                )

    def draw(
        self, trials: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
    ) -> Trials:
        """Draw trials, each with class means and labels of its own, all N(0, 1/D).

        Only classes that occur are drawn. An object is its mean with noise of standard deviation
        eps/D, as the notebook has it (not 1/sqrt(D)), over sqrt(1 + eps^2).
        """
        pairs = self.tokens // 2 - 1
        shape = (trials, pairs)
        classes = torch.randint(1, self.classes, shape, generator=generator)
        asked = torch.randint(pairs, (trials, 1), generator=generator)
        # A pair of a class that stood before takes that one's mean and label.
        first = (classes[:, :, None] == classes[:, None, :]).int().argmax(dim=-1)
        means, labels = (
            normal((*shape, self.width), generator, dtype).gather(
                1, first[..., None].expand(*shape, self.width)
            )
            for _ in range(2)
        )
        here = torch.arange(trials)
        seen = torch.cat([means, means[here, asked[:, 0]][:, None]], dim=1)
        noise = torch.randn(seen.shape, generator=generator, dtype=dtype) / self.width
        objects = (seen + self.noise * noise) / math.sqrt(1 + self.noise**2)
        wanted = labels[here, asked[:, 0]]
        values = torch.cat([labels, torch.zeros_like(wanted)[:, None]], dim=1)
        tokens = torch.stack([objects, values], dim=2).flatten(1, 2)
        return Trials(tokens, wanted, classes, classes.gather(1, asked)[:, 0])


def normal(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Vectors of N(0, 1/D) in each of their D entries."""
    return torch.randn(shape, generator=generator, dtype=dtype) / math.sqrt(shape[-1])


def right(recalled_BD: Tensor, trials: Trials) -> Tensor:
    """Whether each trial `(B,)` gave the right label: of the tokens, the one nearest to what was
    recalled is the label. With 'argmax' that is: exactly the label was recalled."""
    distances = (trials.tokens_BTD - recalled_BD[:, None]).square().sum(-1)
    nearest = trials.tokens_BTD[torch.arange(len(recalled_BD)), distances.argmin(dim=1)]
    return (nearest == trials.label_BD).all(dim=-1)


BUDGET = 4_000_000
"""Numbers of a chunk of trials that are held at once."""


def accuracy(
    memory: Amicl, task: Task, trials: int, seed: int, dtype: torch.dtype = torch.float64
) -> float:
    """Share of trials (0 to 1) whose label is recalled; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    held = task.tokens * max(task.width, task.tokens)
    chunk = max(1, min(trials, BUDGET // held))
    hits = 0
    for start in range(0, trials, chunk):
        drawn = task.draw(min(chunk, trials - start), generator, dtype)
        hits += int(right(memory.recall(drawn.tokens_BTD, generator), drawn).sum())
    return hits / trials
