"""The intervention battery T0 to T7: runs the edits and turns what was seen into effects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from headway.errors import HeadwayError
from headway.waiver import interventions
from headway.waiver.effects import (
    Bootstrap,
    Changes,
    Effect,
    Interval,
    change_of_output,
    joined,
)
from headway.waiver.functional import WaiverTest, waiver_test
from headway.waiver.interventions import TARGETS, Scene, scene_of
from headway.waiver.passes import NATURAL, Edit, Passes
from headway.waiver.profile import FLOOR, SinkProfile, profile_sinks

SPIKE = 2.0
"""A hidden state this many times the median norm is a spike (drope-activations)."""
SCATTERED = 3.0
"""A token is a sink wherever it stands if it is one this many times as often as any column."""
OCCURRENCES = 5
"""A token is judged by at least as many occurrences."""


@dataclass(frozen=True)
class Battery:
    """What the battery found.

    Attributes:
        profile: T0, of the text as it is.
        origin: column of the sink that the edits are about; None where there is no sink.
        placed: id of a token that is a sink wherever it stands: the edits were made in texts in
            which it stands at `origin` and nowhere else. None in other cases.
        natural: `(L,)`-long, sink at `origin` in each layer, share of heads.
        total: the same over all layers.
        learned: share of heads that give a learned sink more than the threshold, by layer; empty
            where the model has none.
        rows: mean sum of the rows of attention.
        encodings: how positions are encoded: 'absolute', 'relative', 'none' or 'closed'.
        effects: one for each edit and place that was looked at.
        pooled: by key, over the edits that are evidence of the same.
        waivers: the waiver test of each sink.
        skipped: what was not run and why, one sentence each.
    """

    profile: SinkProfile = field(repr=False)
    origin: int | None
    placed: int | None
    natural: tuple[Interval, ...]
    total: Interval
    learned: tuple[Interval, ...]
    rows: float
    encodings: str
    effects: tuple[Effect, ...]
    pooled: dict[str, Effect]
    waivers: tuple[WaiverTest, ...]
    skipped: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON; the profile has its own."""
        return {
            "origin": self.origin,
            "placed": self.placed,
            "natural": [layer._asdict() for layer in self.natural],
            "total": self.total._asdict(),
            "learned": [layer._asdict() for layer in self.learned],
            "rows": self.rows,
            "encodings": self.encodings,
            "effects": [effect.to_dict() for effect in self.effects],
            "pooled": {key: effect.to_dict() for key, effect in self.pooled.items()},
            "waivers": [waiver.to_dict() for waiver in self.waivers],
            "skipped": list(self.skipped),
        }


def run_battery(
    model: nn.Module,
    input_ids: Tensor,
    *,
    profile: SinkProfile | None = None,
    tokenizer: Any = None,
    origin: int | None = None,
    targets: Sequence[int] = TARGETS,
    draws: int = 2,
    batch_size: int = 20,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Battery:
    """Run the battery of interventions.

    Args:
        model: see `headway.profile_sinks`.
        input_ids: `(M, T)`, 100 windows of 64 tokens or more samples; whether they begin with a
            BOS is the caller's choice.
        profile: of these `input_ids`, if there is one already.
        tokenizer: to know the new line.
        origin: column of the sink; None takes the strongest.
        targets: columns to move the sink to.
        draws: independent draws of random tokens.
        batch_size: samples at a time.
        seed: of random tokens, columns and the bootstrap.
        progress: told the passes over all samples that are done, and how many there are.

    Raises:
        HeadwayError: see `headway.profile_sinks`; and an origin that is not there.
    """
    if origin is not None and not 0 <= origin < input_ids.shape[1]:
        raise HeadwayError(
            f"origin: {origin} is not accepted; accepted are 0 to {input_ids.shape[1] - 1}"
        )
    input_ids = input_ids.cpu()
    profile = profile or profile_sinks(model, input_ids, batch_size=batch_size, tokenizer=tokenizer)
    passes = Passes(model, input_ids, profile.threshold, profile.causal)
    runs = _Runs(passes, input_ids, batch_size)
    bootstrap = Bootstrap(len(input_ids), seed)
    found = runs.run([NATURAL])
    learned = bootstrap.effect(found.dropped, torch.ones_like(found.dropped))[1]
    placed, here = None, profile
    if origin is None:
        origin, placed, input_ids, here = _origin(model, profile, input_ids, batch_size, seed)
    if placed is not None:
        runs = _Runs(passes, input_ids, batch_size)
    waivers = waiver_test(model, input_ids, profile=here, batch_size=batch_size, seed=seed)
    effects: list[Effect] = []
    pooled: dict[str, Effect] = {}
    skipped: list[str] = []
    if origin is not None:
        scene = scene_of(input_ids, origin, profile.causal, passes.encodings, targets, draws, seed)
        newline = None
        if tokenizer is not None:
            newline = next(iter(tokenizer.encode("\n", add_special_tokens=False)[-1:]), None)
        edits, skipped = _edits(scene, here, newline)
        found = runs.run([NATURAL, *edits], progress)
        effects, pooled = _effects(found, edits, origin, bootstrap)
    at = found.sinks[NATURAL.name][:, :, 0 if origin is None else origin]
    if origin is None:
        at = torch.zeros_like(at)
    total, natural = bootstrap.effect(at, torch.ones_like(at))
    return Battery(
        profile=profile,
        origin=origin,
        placed=placed,
        natural=natural,
        total=total,
        learned=learned if passes.learned_sink else (),
        rows=float(profile.mass.mean()),
        encodings=passes.encodings.kind,
        effects=tuple(effects),
        pooled=pooled,
        waivers=waivers,
        skipped=tuple(skipped),
    )


def _origin(
    model: nn.Module, profile: SinkProfile, ids: Tensor, batch_size: int, seed: int
) -> tuple[int | None, int | None, Tensor, SinkProfile]:
    """Column of the strongest sink, None, the text and its profile; or the column at which a token
    stands that is a sink anywhere, that token, texts in which it stands there, and theirs.

    A token that was a sink by chance, or by the columns in which it stood, shows when it is placed.
    """
    sinks = profile.sinks()
    strongest = float(profile.excess()[sinks[0]]) if sinks else FLOOR
    token, share = _scattered(profile, ids)
    if token is not None and share > SCATTERED * strongest:
        column = ids.shape[1] // 4
        texts = _placed(ids, token, column, seed)
        there = profile_sinks(model, texts, batch_size=batch_size)
        if float(there.excess()[column]) > strongest:
            return column, token, texts, there
    return (sinks[0] if sinks else None), None, ids, profile


def _scattered(profile: SinkProfile, ids: Tensor) -> tuple[int | None, float]:
    """The token that is most often a sink, and how much more often than the columns in which it
    stands; first and last columns left out."""
    last = max(2, profile.tokens - profile.tokens // 8)
    by_column = profile.sink_by_sample.mean(1)[:, 1:last].double()
    shares = (by_column - by_column.median(0).values).flatten()
    tokens, which, counts = ids[:, 1:last].flatten().unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(tokens), dtype=torch.float64).index_add(0, which, shares)
    means = (sums / counts).masked_fill(counts < OCCURRENCES, 0.0)
    best = int(means.argmax())
    return (int(tokens[best]), float(means[best])) if means[best] > 0 else (None, 0.0)


def _placed(ids: Tensor, token: int, column: int, seed: int) -> Tensor:
    """Texts in which `token` stands at `column` and nowhere else."""
    generator = torch.Generator().manual_seed(seed)
    others = ids[ids != token]
    drawn = others[torch.randint(len(others), ids.shape, generator=generator)]
    changed = torch.where(ids == token, drawn, ids)
    changed[:, column] = token
    return changed


def _edits(scene: Scene, profile: SinkProfile, newline: int | None) -> tuple[list[Edit], list[str]]:
    """All edits that this model allows, and sentences about those that it does not."""
    skipped = []
    edits = interventions.repeats(scene)
    if scene.encodings.editable:
        edits += interventions.swaps(scene) + interventions.equal_positions(scene)
    else:
        skipped.append(f"T2 and T3 were not run: {scene.encodings.reason}.")
    edits += interventions.isolations(scene)
    contexts = interventions.contexts(scene)
    if not contexts:
        skipped.append(
            "T4 with a block before the text was not run: it is for a sink at position 0 of a "
            "causal model whose positions can be edited."
        )
    edits += contexts + interventions.tokens(scene, newline)
    layer = _spike_layer(profile, scene.origin)
    transplants = []
    if layer is not None:
        transplants = interventions.transplants(scene, layer, len(profile.layers))
    if not transplants:
        skipped.append("T6 was not run: no layer stands before the first one that has the sink.")
    return edits + transplants, skipped


def _spike_layer(profile: SinkProfile, origin: int) -> int | None:
    """The first layer behind which the sink's hidden state is a spike; without one, the layer
    before the first that has the sink."""
    norms = profile.hidden_norm / profile.hidden_norm.median(-1, keepdim=True).values
    spikes = (norms[:-1, origin] > SPIKE).nonzero().flatten().tolist()
    sinks = (profile.sink_rate[:, :, origin].mean(1) > FLOOR).nonzero().flatten().tolist()
    if spikes and any(layer > spikes[0] for layer in sinks):
        return int(spikes[0])
    return int(sinks[0]) - 1 if sinks and sinks[0] > 0 else None


@dataclass(frozen=True)
class _Found:
    """`sinks[name]`: `(M, L, T)`; `changes[name]`; `dropped`: `(M, L)` of the natural pass."""

    sinks: dict[str, Tensor]
    changes: dict[str, Changes]
    dropped: Tensor


class _Runs:
    """Runs edits over all samples, batch by batch, each beside the natural pass."""

    def __init__(self, passes: Passes, ids: Tensor, batch_size: int) -> None:
        self.passes, self.ids, self.batch_size = passes, ids, batch_size

    def run(
        self, edits: Sequence[Edit], progress: Callable[[int, int], None] | None = None
    ) -> _Found:
        """Edits begin with the natural pass; alone, it needs no output."""
        sinks: dict[str, list[Tensor]] = {edit.name: [] for edit in edits}
        changes: dict[str, list[Changes]] = {}
        dropped = []
        batches = torch.arange(len(self.ids)).split(self.batch_size)
        for number, rows in enumerate(batches):
            ids = self.ids[rows]
            natural = self.passes.look(ids, output=len(edits) > 1)
            dropped.append(natural.dropped)
            sinks[NATURAL.name].append(natural.sinks)
            for done, edit in enumerate(edits[1:], start=1):
                edited = ids if edit.ids is None else edit.ids[rows]
                seen = self.passes.look(edited, edit, edit.compared)
                sinks[edit.name].append(seen.sinks)
                if seen.output is not None and natural.output is not None:
                    kept = edit.kept(ids, edited)
                    change = change_of_output(natural.output, seen.output, ids, kept, edit.shift)
                    changes.setdefault(edit.name, []).append(change)
                if progress is not None:
                    progress(number * (len(edits) - 1) + done, len(batches) * (len(edits) - 1))
        return _Found(
            {name: torch.cat(parts) for name, parts in sinks.items()},
            {name: joined(parts) for name, parts in changes.items()},
            torch.cat(dropped),
        )


def _effects(
    found: _Found, edits: Sequence[Edit], origin: int, bootstrap: Bootstrap
) -> tuple[list[Effect], dict[str, Effect]]:
    """An effect for every reading, and one for every key."""
    places = {e.against: e for e in edits if e.against is not None}
    effects: list[Effect] = []
    pairs: dict[str, list[tuple[Tensor, Tensor, Effect]]] = {}
    for edit in edits:
        changes = found.changes.get(edit.name)
        damage = None if changes is None else bootstrap.damage(changes)
        for reading in edit.readings:
            over = found.sinks[edit.name][:, :, reading.column].clone()
            under = found.sinks[NATURAL.name][:, :, origin].clone()
            if edit.against is not None:
                under = found.sinks[edit.against][:, :, places[edit.against].readings[0].column]
            over[:, : reading.first_layer] = 0.0
            under[:, : reading.first_layer] = 0.0
            words = f"{edit.name}: {reading.words}"
            effect = Effect(reading.key, edit.test, words, *bootstrap.effect(over, under), damage)
            effects.append(effect)
            pairs.setdefault(reading.key, []).append((over, under, effect))
    pooled = {}
    for key, members in pairs.items():
        over = torch.stack([each for each, _, _ in members]).mean(0)
        under = torch.stack([each for _, each, _ in members]).mean(0)
        words = "; ".join(effect.words for _, _, effect in members)
        found_there = bootstrap.effect(over, under)
        pooled[key] = Effect(key, members[0][2].test, words, *found_there)
    return effects, pooled
