"""The waiver test: much attention, a small contribution, and does the model miss it?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from typing import Any

import torch
from torch import Tensor, nn

from headway.decoder.observer import Observer, ValueEdit
from headway.errors import HeadwayError
from headway.waiver.anatomy import Site
from headway.waiver.effects import (
    Bootstrap,
    Changes,
    Damage,
    Interval,
    change_of_output,
    joined,
)
from headway.waiver.measure import LayerSums
from headway.waiver.passes import Edit, Passes
from headway.waiver.profile import SinkProfile, profile_sinks
from headway.waiver.watch import run, stack_of, watching

CONTROLS = 2
"""Random elements a sample that are zeroed for comparison."""
VALUE_RATIO = 0.5
"""Values above this share of the median are not small."""
NEGLIGIBLE = 0.01
"""Change of the output (nats, or relative) that counts as none."""


@dataclass(frozen=True)
class WaiverTest:
    """One element under the waiver test; intervals over samples.

    Attributes:
        position: its column.
        attention: received per query, mean over layers and heads weighted by how often it is a
            sink there (all of them where it is none): a_j.
        contribution: its share of what these heads write: c_j.
        ratio: a_j / c_j; above one, more is looked at than taken.
        value_ratio: norm of its value, behind the output projection where that is known, over the
            median of the tokens.
        zeroed: what happens to the output at the other positions when its value is zero in all
            layers and heads.
        spared: the same when it is zero in the heads alone where it is a sink in most samples: an
            element may have a use elsewhere, for instance to tell the model where the text begins.
            None where it is a sink in no head.
        control: as `zeroed`, for random elements that are no sink, each sample its own.
        spared_control: the same elements, in the heads of `spared`.
        receives_much: a_j is above the threshold of the sink metric.
        small_values: `value_ratio` is at most 0.5.
        not_missed: zeroing, where it is a sink, changes the output by less than 0.01, or no more
            than the control does there.
    """

    position: int
    attention: Interval
    contribution: Interval
    ratio: Interval
    value_ratio: Interval
    zeroed: Damage
    control: Damage
    spared: Damage | None
    spared_control: Damage | None
    receives_much: bool
    small_values: bool
    not_missed: bool

    @property
    def is_waiver(self) -> bool:
        """Looked at, small, and not missed."""
        return self.receives_much and self.small_values and self.not_missed

    @property
    def words(self) -> str:
        """The result in a sentence."""
        measure = self.zeroed.measure
        found = [
            f"receives {self.attention.value:.2f} of the attention and gives "
            f"{self.contribution.value:.3f} of what is written",
            f"its value has {self.value_ratio.value:.2f} of the usual norm",
            f"without its value the output changes by {self.zeroed.change.value:.3g} ({measure}), "
            f"without a random element's by {self.control.change.value:.3g}",
        ]
        if self.spared is not None and self.spared_control is not None:
            found.append(
                "without it in the heads where it is a sink by "
                f"{self.spared.change.value:.3g}, without a random element's there by "
                f"{self.spared_control.change.value:.3g}"
            )
        kind = "a waiver" if self.is_waiver else "no waiver"
        return f"Position {self.position} is {kind}: it " + "; ".join(found) + "."

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        found: dict[str, Any] = {"is_waiver": self.is_waiver, "words": self.words}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, Damage):
                found[name] = {
                    k: v._asdict() if isinstance(v, Interval) else v for k, v in vars(value).items()
                }
            else:
                found[name] = value._asdict() if isinstance(value, Interval) else value
        return found


def waiver_test(
    model: nn.Module,
    input_ids: Tensor,
    positions: Sequence[int] | None = None,
    *,
    profile: SinkProfile | None = None,
    batch_size: int = 20,
    seed: int = 0,
) -> tuple[WaiverTest, ...]:
    """Test elements, each by itself.

    Args:
        model: see `headway.profile_sinks`; with a next-token loss perplexity is measured, with
            another head the KL of its logits, without a head the change of the final states.
        input_ids: `(M, T)`.
        positions: columns to test; None: the sinks of the profile.
        profile: of these `input_ids`, if there is one already.
        batch_size: samples at a time.
        seed: of control elements and bootstrap.

    Raises:
        HeadwayError: a column that is not there, or a model that cannot be observed.
    """
    profile = profile or profile_sinks(model, input_ids, batch_size=batch_size)
    chosen = profile.sinks() if positions is None else tuple(positions)
    tokens = input_ids.shape[1]
    for position in chosen:
        if not 0 <= position < tokens:
            raise HeadwayError(
                f"positions: {position} is not accepted; accepted are 0 to {tokens - 1}"
            )
    if not chosen:
        return ()
    passes = Passes(model, input_ids, profile.threshold, profile.causal)
    weights = _weights(profile, chosen)
    looks = _looks(model, passes.sites, input_ids, chosen, weights, profile.threshold, batch_size)
    controls = _control_columns(len(input_ids), tokens, {*chosen, *profile.sinks()}, seed)
    bootstrap = Bootstrap(len(input_ids), seed)
    zeroed = _zeroed(passes, input_ids, chosen, controls, batch_size)
    everywhere = [bootstrap.damage(changes) for changes in zeroed]
    found = []
    for i, position in enumerate(chosen):
        attention, contribution, values = (x[:, i] for x in looks)
        received, small = bootstrap.mean(attention), bootstrap.mean(values)
        spared = spared_control = None
        heads = profile.sink_rate[:, :, position] > 0.5
        if heads.any():
            parts = _zeroed(passes, input_ids, (position,), controls, batch_size, heads)
            spared, spared_control = (bootstrap.damage(changes) for changes in parts)
        damage, control = spared or everywhere[i], spared_control or everywhere[-1]
        found.append(
            WaiverTest(
                position,
                received,
                bootstrap.mean(contribution),
                bootstrap.ratio(attention, contribution),
                small,
                everywhere[i],
                everywhere[-1],
                spared,
                spared_control,
                receives_much=received.value > profile.threshold,
                small_values=small.value <= VALUE_RATIO,
                not_missed=damage.change.value <= max(NEGLIGIBLE, control.change.value),
            )
        )
    return tuple(found)


def _weights(profile: SinkProfile, chosen: Sequence[int]) -> Tensor:
    """`(L, H, n)`: how often each head has its sink there; equal where none ever has."""
    weights = profile.sink_rate[:, :, list(chosen)].double().clone()
    weights[:, :, weights.sum((0, 1)) == 0] = 1.0
    return weights / weights.sum((0, 1))


KEPT = ("received", "contribution", "value_norm", "written_norm")


class _SampleLooks(LayerSums):
    """Keeps, beside the sums, what the chosen elements have in each sample."""

    def __init__(self, site: Site, threshold: float, chosen: Sequence[int]) -> None:
        super().__init__(site, threshold)
        self.chosen = list(chosen)
        self.kept: dict[str, list[Tensor]] = {name: [] for name in KEPT}

    def _add(self, name: str, by_sample: Tensor) -> None:
        super()._add(name, by_sample)
        if name not in KEPT:
            return
        if name.endswith("_norm"):
            usual = by_sample.median(-1, keepdim=True).values
            by_sample = by_sample / usual.clamp(min=1e-30)
        self.kept[name].append(by_sample[..., self.chosen].double().cpu())


def _looks(
    model: nn.Module,
    sites: list[Site],
    input_ids: Tensor,
    chosen: Sequence[int],
    weights: Tensor,
    threshold: float,
    batch_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention, contribution and value ratio of chosen elements, each `(M, n)`."""
    sums = [_SampleLooks(site, threshold, chosen) for site in sites]
    stack, turns = stack_of(model), cycle(sums)
    with watching(model, Observer(see=lambda attending: next(turns).see(attending))):
        for ids in input_ids.split(batch_size):
            run(stack, ids.to(stack.device))
    found = []
    for name in ("received", "contribution", "written_norm"):
        by_layer = [torch.cat(one.kept[name]) for one in sums]
        if any(bool(x.isnan().any()) for x in by_layer):
            by_layer = [torch.cat(one.kept["value_norm"]) for one in sums]
        found.append((torch.stack(by_layer, 1) * weights).sum((1, 2)))
    return found[0], found[1], found[2]


def _control_columns(samples: int, tokens: int, sinks: set[int], seed: int) -> Tensor:
    """`(CONTROLS, M)` random columns that are no sink."""
    free = torch.tensor([j for j in range(tokens) if j not in sinks] or list(range(tokens)))
    generator = torch.Generator().manual_seed(seed)
    return free[torch.randint(len(free), (CONTROLS, samples), generator=generator)]


def _zeroed(
    passes: Passes,
    input_ids: Tensor,
    chosen: Sequence[int],
    controls: Tensor,
    batch_size: int,
    heads: Tensor | None = None,
) -> list[Changes]:
    """What zeroing each chosen element changes, and last what zeroing the controls does.

    `heads`: `(L, H)`, where; None: everywhere.
    """
    samples = len(input_ids)
    columns = [torch.full((samples,), position) for position in chosen]
    parts: list[list[Changes]] = [[] for _ in range(len(chosen) + len(controls))]
    for rows in torch.arange(samples).split(batch_size):
        ids = input_ids[rows]
        natural = passes.look(ids).output
        for part, column in zip(parts, [*columns, *controls], strict=True):
            edit = Edit("T0", "values made zero", values=_zero(column[rows], heads))
            edited = passes.look(ids, edit).output
            assert natural is not None
            assert edited is not None
            kept = torch.arange(ids.shape[1]) != column[rows][:, None]
            part.append(change_of_output(natural, edited, ids, kept))
    changes = [joined(part) for part in parts]
    return [*changes[: len(chosen)], _averaged(changes[len(chosen) :])]


def _averaged(changes: list[Changes]) -> Changes:
    """The mean of several controls, sample by sample."""
    means = [None if x[0] is None else torch.stack(list(x)).mean(0) for x in _fields(changes)]
    before, after, change = means
    assert change is not None
    return Changes(before, after, change, changes[0].measure)


def _fields(changes: list[Changes]) -> Iterator[tuple[Any, ...]]:
    yield from zip(*((c.before, c.after, c.change) for c in changes), strict=True)


def _zero(columns: Tensor, heads: Tensor | None) -> ValueEdit:
    """An edit of values `(B, G, S, D)`, for one pass: row b has none at `columns[b]`.

    `heads` `(L, H)` says in which heads; a group of them shares values, and one that has the sink
    is enough.
    """
    layers = count()

    def edit(v: Tensor, keys: Tensor) -> Tensor:
        gone = (keys == columns.to(v.device)[:, None])[:, None, :, None]
        layer = next(layers)
        if heads is not None:
            groups = heads[layer].unflatten(0, (v.shape[1], -1)).any(-1)
            gone = gone & groups.to(v.device)[:, None, None]
        return v.masked_fill(gone, 0.0)

    return edit
