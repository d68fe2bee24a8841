"""Classes in context or in the weights: items with labels, then an item to be labelled.

The generator of Reddy (arXiv 2312.03002) with the values that Burns et al. (arXiv 2412.15113) use
in `toy-Transformer/datasets_v2.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from headway.tasks.base import Sample, Task
from headway.tasks.draws import distinct, shuffled


@dataclass(frozen=True)
class Means:
    """What the sequences of one world are made of.

    Attributes:
        labels: `(L, D)`, N(0, 1/D).
        classes: `(K, D)`, N(0, 1/D); class k has label k mod L.
        prior: `(K,)`, probabilities of the classes.
    """

    labels: Tensor
    classes: Tensor
    prior: Tensor


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """N item-label pairs, then a query item; the answer is the query's label.

    An item of class k is `(mu_k + deviation * eta) / sqrt(1 + deviation^2)`, eta ~ N(0, I/D).
    Sequences are of three kinds. *Novel* (probability `p_novel`): `burstiness` copies each of
    N / burstiness pairs whose class means are new; the query is one of these classes. *Bursty*
    (`p_bursty` of the others): the same with the world's classes. *Plain*: N classes and the
    query are drawn from the class prior, so the query's class is normally absent.

    As in the code, two quirks are kept: the choice of classes with different labels is uniform, so
    `zipf` acts on plain sequences alone unless `distinct_labels=False`; and novel classes are
    uniform in any case.

    Attributes:
        pairs: N.
        slots: positions of the one-hot code; the 2N + 1 that are used start at a random slot.
        labels: L.
        classes: K, a multiple of L.
        width: D.
        deviation: eps, within a class.
        zipf: alpha; the prior of class k (from 1) is proportional to k^-alpha.
        burstiness: B, copies of each pair in a bursty or novel sequence, a divisor of N below N.
            0, as in the code, means N / 2 copies with `p_bursty` taken as 0.
        p_bursty: p_B.
        p_novel: p_C.
        distinct_labels: no two of the N / B classes share a label.
        novel_classes: how many new means there are, a multiple of L.
        novel_every: rows that share one draw of new means; None: all rows of a call, as in the
            code. With the training batch size here, one call gives the rows of many steps.
        rotate_labels: labels of classes of the world stand rotated by one in the context, and the
            rotated label is the answer. (The code's logged loss uses the label before rotation,
            which is `(targets - 1) % labels`.)
        world: seed of labels and class means.
    """

    name = "classification"

    pairs: int = field(default=8, metadata={"min": 2})
    slots: int = field(default=65, metadata={"min": 1})
    labels: int = field(default=32, metadata={"min": 2})
    classes: int = field(default=512, metadata={"min": 2})
    width: int = field(default=85, metadata={"min": 1})
    deviation: float = field(default=0.1, metadata={"min": 0})
    zipf: float = field(default=0.0, metadata={"min": 0})
    burstiness: int = field(default=2, metadata={"min": 0})
    p_bursty: float = field(default=0.5, metadata={"min": 0, "max": 1})
    p_novel: float = field(default=0.5, metadata={"min": 0, "max": 1})
    distinct_labels: bool = True
    novel_classes: int = field(default=128, metadata={"min": 2})
    novel_every: int | None = None
    rotate_labels: bool = False
    world: int = field(default=0, metadata={"min": 0})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slots < self.length:
            raise self.refuse("slots", f"are at least 2 * pairs + 1 = {self.length}")
        for name in ("classes", "novel_classes"):
            if getattr(self, name) % self.labels:
                raise self.refuse(name, f"are multiples of labels = {self.labels}")
        copies = self.copies
        if copies >= self.pairs or self.pairs % copies:
            raise self.refuse("burstiness", f"are 0 and divisors of pairs = {self.pairs} below it")
        if self.distinct_labels and self.pairs // copies > self.labels:
            raise self.refuse("labels", f"are at least pairs / burstiness = {self.pairs // copies}")
        if self.novel_every is not None and self.novel_every < 1:
            raise self.refuse("novel_every", "are None and numbers from 1 on")

    @property
    def length(self) -> int:
        """T = 2N + 1."""
        return 2 * self.pairs + 1

    @property
    def copies(self) -> int:
        """How often a bursty sequence shows each pair."""
        return self.burstiness or self.pairs // 2

    @property
    def channels(self) -> int:
        """C = slots + D, the width of the inputs."""
        return self.slots + self.width

    @property
    def chance(self) -> float:
        """1 / L; with a prior that is not uniform, guessing a common label does better."""
        return 1 / self.labels

    def test_sets(self) -> dict[str, Classification]:
        """The four test sets, 10,000 rows each in the code, on this task's world.

        `test`: the training mixture. `in_context`: novel classes alone. `in_context_rotated`:
        bursty, with rotated labels, so that knowledge in the weights is wrong. `in_weights`: plain
        sequences, whose context does not help.
        """
        return {
            "test": self,
            "in_context": replace(self, p_bursty=1.0, p_novel=1.0),
            "in_context_rotated": replace(self, p_bursty=1.0, p_novel=0.0, rotate_labels=True),
            "in_weights": replace(self, burstiness=0, p_bursty=0.0, p_novel=0.0),
        }

    def means(self, device: torch.device | str = "cpu") -> Means:
        """The world's label vectors, class means and class prior; the same on every device."""
        return _means(self.world, self.labels, self.classes, self.width, self.zipf, str(device))

    def sample(self, batch: int, generator: torch.Generator) -> Sample:
        """Vectors `(B, 2N + 1, slots + D)`, one-hot slots first, and labels `(B,)`.

        Slices `(B,)`: `novel`, `bursty`, `plain`, and `shown`: the answer's label is in the
        context.
        """
        device = generator.device
        means = self.means(device)
        novel = self._coin(batch, self.p_novel, generator)
        bursty = self._coin(batch, self.p_bursty if self.burstiness else 0.0, generator) & ~novel
        plain = ~novel & ~bursty

        new_means, first_new = self._new_means(batch, generator)
        of_class = self._classes(batch, plain, novel, generator)
        label = of_class % self.labels
        if self.rotate_labels:
            label = torch.where(novel[:, None], label, (label + 1) % self.labels)
        # Means of the world come first in one table, those of novel classes behind them.
        row = torch.where(novel[:, None], first_new[:, None] + of_class, of_class)
        scale = (1 + self.deviation**2) ** -0.5
        table = torch.cat([means.classes, new_means]).mul_(scale)

        inputs = torch.zeros(batch, self.length, self.channels, dtype=torch.float32, device=device)
        noise = _normal(batch, self.pairs + 1, self.width, generator=generator)
        spread = scale * self.deviation * self.width**-0.5
        torch.add(table[row], noise, alpha=spread, out=inputs[:, 0::2, self.slots :])
        inputs[:, 1::2, self.slots :] = means.labels[label[:, :-1]]
        inputs.scatter_(2, self._slots(batch, generator)[..., None], 1.0)

        targets = label[:, -1]
        shown = (label[:, :-1] == targets[:, None]).any(1)
        slices = {"novel": novel, "bursty": bursty, "plain": plain, "shown": shown}
        return Sample(inputs=inputs, targets=targets, slices=slices)

    def _classes(
        self, batch: int, plain: Tensor, novel: Tensor, generator: torch.Generator
    ) -> Tensor:
        """`(B, N + 1)`: classes of the pairs and of the query, numbered in their own pool."""
        device = generator.device
        prior = self.means(device).prior
        groups = self.pairs // self.copies
        if self.distinct_labels:
            label = distinct(batch, groups, self.labels, generator)
            unit = torch.rand(batch, groups, generator=generator, device=device)
            pool = torch.where(novel, self.novel_classes, self.classes)[:, None] // self.labels
            chosen = (unit * pool).long() * self.labels + label
        else:
            from_world = _by_prior(prior, (batch, groups), generator)
            among_new = torch.randint(
                self.novel_classes, (batch, groups), generator=generator, device=device
            )
            chosen = torch.where(novel[:, None], among_new, from_world)
        context = shuffled(chosen.repeat(1, self.copies), generator)
        asked = torch.randint(self.pairs, (batch, 1), generator=generator, device=device)
        burst = torch.cat([context, context.gather(1, asked)], dim=1)
        return torch.where(
            plain[:, None], _by_prior(prior, (batch, self.pairs + 1), generator), burst
        )

    def _new_means(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Means of novel classes, and for each row `(B,)` where its own begin in the table."""
        device = generator.device
        every = self.novel_every or batch
        draws = max(1, -(-batch // every))
        means = _normal(draws * self.novel_classes, self.width, generator=generator)
        draw = torch.arange(batch, device=device) // max(1, every)
        return means * self.width**-0.5, self.classes + draw * self.novel_classes

    def _slots(self, batch: int, generator: torch.Generator) -> Tensor:
        """`(B, 2N + 1)`: consecutive slots from a random one."""
        device = generator.device
        last = self.slots - self.length
        first = torch.randint(last + 1, (batch, 1), generator=generator, device=device)
        return first + torch.arange(self.length, device=device)

    def _coin(self, batch: int, probability: float, generator: torch.Generator) -> Tensor:
        return torch.rand(batch, generator=generator, device=generator.device) < probability


def _normal(*shape: int, generator: torch.Generator) -> Tensor:
    """Standard normal numbers, in single precision whatever the default is."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32)


def _by_prior(prior: Tensor, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Numbers drawn with probabilities `prior`, by inversion."""
    uniform = torch.rand(shape, generator=generator, device=prior.device)
    edges = prior.cumsum(0)
    return torch.searchsorted(edges, uniform * edges[-1], right=True).clamp_(max=len(prior) - 1)


@lru_cache(maxsize=64)
def _means(world: int, labels: int, classes: int, width: int, zipf: float, device: str) -> Means:
    generator = torch.Generator().manual_seed(world)
    drawn = _normal(labels + classes, width, generator=generator) * width**-0.5
    prior = torch.arange(1, classes + 1, dtype=torch.float64) ** -zipf
    return Means(
        labels=drawn[:labels].to(device),
        classes=drawn[labels:].to(device),
        prior=(prior / prior.sum()).float().to(device),
    )
