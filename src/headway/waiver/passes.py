"""One pass of a model under an edit: who is a sink in it, and what the model gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from headway.decoder.block import Depth
from headway.decoder.observer import Attending, Observer, Rule, ValueEdit
from headway.errors import HeadwayError
from headway.ops.received import received_attention
from headway.waiver.anatomy import Site, hidden_of, sites_of, with_sink
from headway.waiver.effects import Output
from headway.waiver.encodings import Encodings, PositionMap, encodings_of
from headway.waiver.watch import run, stack_of, watching

HiddenEdit = Callable[[Tensor], Tensor]
"""From hidden states `(B, T, C)` to those that stand in their place."""


class Reading(NamedTuple):
    """Where the sink of an edited pass is looked for.

    Attributes:
        key: what it is evidence of.
        column: of the edited text.
        words: of the column.
        first_layer: layers before it are left out here, and of the sink it is compared with.
    """

    key: str
    column: int
    words: str
    first_layer: int = 0


@dataclass(frozen=True)
class Edit:
    """One edit of a model's pass. The model itself is not changed.

    Attributes:
        test: of the battery.
        name: what is edited, in words.
        readings: where to look.
        ids: `(M, T')` in the place of the text, or None.
        shift: columns that the text moved to the right.
        rule: a further condition for a query to see a key.
        positions: to encode.
        values: see `Observer`.
        hidden: number of an attention and what happens to the hidden states behind its layer.
        touched: columns of the text that the edit is about: their damage is not counted.
        compared: whether any token is left whose prediction can be compared.
        against: name of the edit that makes the sink to compare with; None: the text as it is.
    """

    test: str
    name: str
    readings: tuple[Reading, ...] = ()
    ids: Tensor | None = None
    shift: int = 0
    rule: Rule | None = None
    positions: PositionMap | None = None
    values: ValueEdit | None = None
    hidden: tuple[int, HiddenEdit] | None = None
    touched: tuple[int, ...] = ()
    compared: bool = True
    against: str | None = None

    def kept(self, ids: Tensor, edited: Tensor) -> Tensor:
        """`(B, T)`, true for tokens of `ids` that stand unchanged in `edited`."""
        kept = torch.zeros_like(ids, dtype=torch.bool)
        first = max(0, -self.shift)
        last = min(ids.shape[1], edited.shape[1] - self.shift)
        moved = edited[:, first + self.shift : last + self.shift]
        kept[:, first:last] = moved == ids[:, first:last]
        kept[:, list(self.touched)] = False
        return kept


NATURAL = Edit("T0", "the text as it is")


class Seen(NamedTuple):
    """One pass over `(B, T)`.

    Attributes:
        sinks: `(B, L, T)`, share of heads that give the token more than the threshold.
        dropped: `(B, L)`, share of heads that give a learned sink more than the threshold.
        output: of the model, or None where it was not wanted.
    """

    sinks: Tensor
    dropped: Tensor
    output: Output | None


class Passes:
    """Runs passes of one model under edits.

    Args:
        model: to look at.
        input_ids: `(M, T)`; the first few tokens tell what the model is like.
        threshold: of the sink metric.
        causal: whether tokens see earlier ones only, so that logits are for the next token.
    """

    def __init__(self, model: nn.Module, input_ids: Tensor, threshold: float, causal: bool) -> None:
        self.model, self.threshold, self.causal = model, threshold, causal
        self.sites: list[Site] = sites_of(model, input_ids)
        self.encodings: Encodings = encodings_of(model, input_ids)
        self.stack = stack_of(model)
        self.learned_sink = any(site.sink is not None for site in self.sites)

    def look(self, ids: Tensor, edit: Edit = NATURAL, output: bool = True) -> Seen:
        """One pass over `ids` `(B, T)`, which already hold the edit's own.

        Raises:
            HeadwayError: attention that is not finite.
        """
        shares: list[Tensor] = []
        dropped: list[Tensor] = []

        def see(attending: Attending) -> None:
            site = self.sites[len(shares)]
            self.learned_sink |= attending.sinks is not None
            found = received_attention(
                attending.scores, with_sink(site, attending.lse), self.threshold
            )
            received = found.mean()
            if not bool(torch.isfinite(received).all()):
                raise HeadwayError(
                    f"{site.name}: attention is not finite under the edit {edit.name!r}; accepted "
                    "are models and types of numbers that survive it"
                )
            shares.append((received > self.threshold).float().mean(1).cpu())
            lost = 1 - found.mass.mean(-1)
            dropped.append((lost > self.threshold).float().mean(1).cpu())

        observer = Observer(
            see, edit.rule, self.encodings.for_observer(edit.positions), edit.values
        )
        with (
            watching(self.model, observer),
            self.encodings.through_ids(self.stack, edit.positions),
            _hidden_edited(self.sites, edit.hidden),
        ):
            made = run(self.model if output else self.stack, ids.to(self.stack.device))
        return Seen(
            torch.stack(shares, 1),
            torch.stack(dropped, 1),
            self._output(made) if output else None,
        )

    def _output(self, made: Any) -> Output:
        logits = getattr(made, "logits", None)
        if logits is None or logits.dim() != 3:
            return Output(_final_states(made), False, False)
        predicts = self.causal and logits.shape[-1] == self.stack.config.vocab_size
        return Output(logits, True, predicts)


def _final_states(made: Any) -> Tensor:
    states = getattr(made, "last_hidden_state", None)
    if isinstance(states, Tensor):
        return states
    raise HeadwayError(
        f"model: {type(made).__name__} is not accepted as what a model gives; accepted are logits "
        "for each token, or final states (model.base_model)"
    )


@contextmanager
def _hidden_edited(sites: list[Site], edit: tuple[int, HiddenEdit] | None) -> Iterator[None]:
    """Change hidden states behind the layer of an attention."""
    if edit is None:
        yield
        return
    number, change = edit

    def after(_layer: nn.Module, _inputs: Any, output: Any) -> Any:
        return _with_hidden(output, change(hidden_of(output)))

    hook = sites[number].layer.register_forward_hook(after)
    try:
        yield
    finally:
        hook.remove()


def _with_hidden(output: Any, hidden: Tensor) -> Any:
    """What a layer gives, with other hidden states; see `hidden_of`."""
    if isinstance(output, Tensor):
        return hidden
    first, *rest = output
    if not isinstance(first, Depth):
        return (_with_hidden(first, hidden), *rest)
    updates, outputs = first.updates, first.outputs
    if updates is not None:
        updates = (*updates[:-1], updates[-1] + hidden - first.hidden)
    if outputs is not None:
        outputs = (*outputs[:-1], hidden)
    return (Depth(hidden, updates, outputs), *rest)
