"""The edits T1 to T7 of the battery, each a small object; nothing here runs a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.decoder.observer import Rule
from headway.waiver.encodings import Encodings, constant, swapped
from headway.waiver.passes import Edit, HiddenEdit, Reading

TARGETS = (5, 10, 20, 30)
"""Places to move the sink to (arXiv 2410.10781, table 7)."""
PREFIX = 8
"""Tokens of the block that gives the first token context."""


@dataclass(frozen=True)
class Scene:
    """What edits are made for.

    Attributes:
        ids: `(M, T)`.
        origin: column of the sink.
        targets: columns to move it to.
        others: pairs of columns that are neither, for controls.
        causal: whether tokens see earlier ones only.
        encodings: of the model.
        draws: independent draws of random tokens.
        seed: of all draws.
    """

    ids: Tensor
    origin: int
    targets: tuple[int, ...]
    others: tuple[tuple[int, int], ...]
    causal: bool
    encodings: Encodings
    draws: int = 2
    seed: int = 0

    def random_tokens(self, columns: int, draw: int) -> Tensor:
        """`(M, columns)`, drawn from the text's other columns, never the token at the origin."""
        generator = torch.Generator().manual_seed(self.seed * 1000 + draw)
        first = self.ids[:, self.origin].unique()
        rest = torch.cat([self.ids[:, : self.origin], self.ids[:, self.origin + 1 :]], 1).flatten()
        allowed = rest[~torch.isin(rest, first)] if len(first) * 2 < len(rest.unique()) else rest
        drawn = torch.randint(len(allowed), (len(self.ids), columns), generator=generator)
        return allowed[drawn]


def scene_of(
    ids: Tensor,
    origin: int,
    causal: bool,
    encodings: Encodings,
    targets: Sequence[int] = TARGETS,
    draws: int = 2,
    seed: int = 0,
) -> Scene:
    """Choose columns: targets inside the window, and pairs of other ones, drawn at random."""
    last = ids.shape[1] - max(1, ids.shape[1] // 8)
    inside = tuple(t for t in targets if t < last and t != origin)
    if not inside:
        inside = ((origin + last) // 2 if origin < last - 1 else origin // 2,)
    free = torch.tensor([j for j in range(1, last) if j != origin and j not in inside] or [last])
    generator = torch.Generator().manual_seed(seed)
    drawn = free[torch.randperm(len(free), generator=generator)].tolist()
    pairs = tuple(zip(drawn[0:2:2], drawn[1:2:2], strict=False))
    return Scene(ids, origin, inside, pairs, causal, encodings, draws, seed)


def repeats(scene: Scene) -> list[Edit]:
    """T1: one token, another in every sample, at all columns. With equal positions as well, states
    must be equal (identity I1), unless rows sum to less than one or a first token differs by
    itself (I2, shifts): then the repeat says nothing about positions."""
    edits = []
    for draw in range(scene.draws):
        ids = scene.random_tokens(1, draw).expand_as(scene.ids)
        kept = Reading("repeat_kept", scene.origin, "the sink's place")
        name = f"one token repeated, draw {draw + 1}"
        edits.append(Edit("T1", name, (kept,), ids, compared=False))
    if scene.encodings.editable:
        guard = Reading("repeat_guard", scene.origin, "the sink's place")
        ids, equal = scene.random_tokens(1, 0).expand_as(scene.ids), constant(0)
        name = "one token repeated, all positions equal"
        edits.append(Edit("T1", name, (guard,), ids, positions=equal, compared=False))
    return edits


def swaps(scene: Scene) -> list[Edit]:
    """T2: the sink's place and another take each other's position encoding. T7: so do two places
    that are no sink."""
    edits = []
    for t in scene.targets:
        readings = (
            Reading("swap_moved", t, f"column {t}"),
            Reading("swap_kept", scene.origin, "the sink's place"),
        )
        name = f"positions {scene.origin} and {t} swapped"
        edits.append(Edit("T2", name, readings, positions=swapped(scene.origin, t)))
    for a, b in scene.others:
        readings = (
            Reading("swap_control", b, f"column {b}"),
            Reading("swap_control_kept", scene.origin, "the sink's place"),
        )
        name = f"control: positions {a} and {b} swapped"
        edits.append(Edit("T7", name, readings, positions=swapped(a, b)))
    return edits


def equal_positions(scene: Scene) -> list[Edit]:
    """T3: all positions take the encoding of 0; and, to be compared, that of the window's middle.

    The first is what the rule asks for: a token that sees itself alone and has the encoding of a
    later place, as the first token has with the second edit, is unlike anything in training, and
    models with a learned table make a larger sink of it than of the natural one.
    """
    places = (("equal_kept", 0), ("equal_middle_kept", scene.ids.shape[1] // 2))
    return [
        Edit(
            "T3",
            f"all positions encoded as {value}",
            (Reading(key, scene.origin, "the sink's place"),),
            positions=constant(value),
        )
        for key, value in places
    ]


def isolations(scene: Scene) -> list[Edit]:
    """T4: a token sees itself alone in every layer; also with the sink hidden from all others.
    T7: an untouched column of the same pass."""
    edits = []
    for t in scene.targets[-2:]:
        readings = (
            Reading("isolate_moved", t, f"column {t}"),
            Reading("isolate_kept", scene.origin, "the sink's place"),
            *(Reading("isolate_control", b, f"untouched column {b}") for _, b in scene.others),
        )
        name = f"token {t} sees itself alone"
        edits.append(Edit("T4", name, readings, rule=self_only((t,)), touched=(t,)))
    t = scene.targets[-1]
    hidden = (Reading("isolate_hidden", t, f"column {t}"),)
    rule = _hidden(self_only((t,)), scene.origin)
    name = f"token {t} sees itself alone, the sink is hidden"
    edits.append(Edit("T4", name, hidden, rule=rule, touched=(t, scene.origin)))
    return edits


def contexts(scene: Scene) -> list[Edit]:
    """T4 turned round: the first token gets the context that only a first token lacks.

    A block of random tokens stands before the text. Nobody but the text's first token sees it, so
    that the block's own first token cannot become the sink. The sink is compared with the same
    pass in which that token does not see the block either. An absolute encoding stays as it was;
    the block takes the encodings 1, 2, ..., of which none is the first.
    """
    tokens = scene.ids.shape[1]
    block = min(PREFIX, tokens // 4)
    movable = scene.encodings.kind != "closed"
    if not (scene.causal and scene.origin == 0 and block and movable):
        return []
    ids = torch.cat([scene.random_tokens(block, 0), scene.ids[:, : tokens - block]], 1)

    def renumbered(p: Tensor) -> Tensor:
        return torch.where(p < block, p + 1, p - block)

    def rule(query: Tensor, key: Tensor, reader: int) -> Tensor:
        return (query < block) | (key >= block) | (query == reader)

    absolute = scene.encodings.kind == "absolute"
    hidden = Edit(
        "T4",
        "a block before the text that nobody sees",
        ids=ids,
        shift=block,
        rule=lambda query, key: rule(query, key, -1),
        positions=renumbered if absolute else None,
    )
    seen = Edit(
        "T4",
        f"the first token sees {block} tokens before it",
        (Reading("context_kept", block, "the sink's place"),),
        ids,
        block,
        lambda query, key: rule(query, key, block),
        hidden.positions,
        touched=(0,),
        against=hidden.name,
    )
    return [hidden, seen]


def tokens(scene: Scene, newline: int | None) -> list[Edit]:
    """T5: the sink's token is replaced, exchanged with another, or dropped. T7: a token elsewhere
    is replaced."""
    origin, ids = scene.origin, scene.ids
    here = (Reading("replace_kept", origin, "the sink's place"),)
    edits = []
    for draw in range(scene.draws):
        changed = _with_column(ids, origin, scene.random_tokens(1, draw)[:, 0])
        name = f"token {origin} replaced by a random one, draw {draw + 1}"
        edits.append(Edit("T5", name, here, changed, touched=(origin,)))
    if newline is not None:
        changed = _with_column(ids, origin, torch.full_like(ids[:, 0], newline))
        line = (Reading("newline_kept", origin, "the sink's place"),)
        name = f"token {origin} replaced by a new line"
        edits.append(Edit("T5", name, line, changed, touched=(origin,)))
    for t in scene.targets[-2:]:
        changed = _with_column(_with_column(ids, origin, ids[:, t]), t, ids[:, origin])
        readings = (
            Reading("token_moved", t, f"column {t}"),
            Reading("token_kept", origin, "the sink's place"),
        )
        name = f"tokens {origin} and {t} exchanged"
        edits.append(Edit("T5", name, readings, changed, touched=(origin, t)))
    if origin == 0 and ids.shape[1] > 2:
        first = (Reading("drop_kept", 0, "the new first token"),)
        edits.append(Edit("T5", "the first token dropped", first, ids[:, 1:], shift=-1))
    for _, b in scene.others:
        changed = _with_column(ids, b, scene.random_tokens(1, 0)[:, 0])
        control = (Reading("replace_control_kept", origin, "the sink's place"),)
        name = f"control: token {b} replaced by a random one"
        edits.append(Edit("T7", name, control, changed, touched=(b,)))
    return edits


def transplants(scene: Scene, layer: int, layers: int) -> list[Edit]:
    """T6: behind `layer`, a token's hidden state becomes the sink's, or gets its variance.
    T7: it becomes a random vector of the sink's norm. Later layers are looked at."""
    if layer + 1 >= layers:
        return []
    t, origin = scene.targets[-1], scene.origin
    changes: list[tuple[str, str, str, HiddenEdit]] = [
        ("T6", "transplant_moved", "the sink's hidden state", lambda h: h[:, origin]),
        ("T6", "rescale_moved", "the variance of the sink's", lambda h: _rescaled(h, t, origin)),
        (
            "T7",
            "transplant_control",
            "a random vector of the norm of the sink's",
            lambda h: _random_direction(h, origin, scene.seed),
        ),
    ]
    return [
        Edit(
            test,
            f"token {t} gets {what} behind layer {layer}",
            (Reading(key, t, f"column {t}", layer + 1),),
            hidden=(layer, _at_column(t, change)),
            touched=(t,),
        )
        for test, key, what, change in changes
    ]


def self_only(columns: Sequence[int]) -> Rule:
    """Queries at `columns` see themselves alone."""

    def rule(query: Tensor, key: Tensor) -> Tensor:
        chosen = torch.tensor(list(columns), device=query.device)
        return ~torch.isin(query, chosen) | (query == key)

    return rule


def _hidden(rule: Rule, column: int) -> Rule:
    """`rule`, and nobody but itself sees `column`."""
    return lambda query, key: rule(query, key) & ((key != column) | (query == column))


def _with_column(ids: Tensor, column: int, tokens: Tensor) -> Tensor:
    changed = ids.clone()
    changed[:, column] = tokens
    return changed


def _at_column(column: int, change: HiddenEdit) -> HiddenEdit:
    """`change` gives `(B, C)` for one column; the others stay."""

    def edit(hidden: Tensor) -> Tensor:
        changed = hidden.clone()
        changed[:, column] = change(hidden)
        return changed

    return edit


def _rescaled(hidden: Tensor, column: int, origin: int) -> Tensor:
    own, model = hidden[:, column], hidden[:, origin]
    mean = own.mean(-1, keepdim=True)
    spread = model.std(-1, keepdim=True) / own.std(-1, keepdim=True).clamp(min=1e-12)
    return mean + (own - mean) * spread


def _random_direction(hidden: Tensor, origin: int, seed: int) -> Tensor:
    model = hidden[:, origin]
    generator = torch.Generator().manual_seed(seed)
    drawn: Tensor = torch.randn(model.shape, generator=generator).to(model)
    scale: Tensor = model.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True)
    return drawn * scale
