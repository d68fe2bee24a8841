"""Make chosen elements the waivers at inference, by the mask or by the position encodings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from headway.decoder.observer import Observer, ValueEdit
from headway.errors import HeadwayError
from headway.waiver.encodings import PositionMap, encodings_of
from headway.waiver.interventions import self_only
from headway.waiver.watch import stack_of, watching

By = Literal["mask", "position", "value"]
WAYS: tuple[By, ...] = ("mask", "position", "value")


@contextmanager
def designate(model: nn.Module, positions: Sequence[int], by: By = "mask") -> Iterator[None]:
    """While it is entered, tokens at `positions` are made the waivers of `model`.

    The first two are the controls of the waiver paper (arXiv 2407.01601): a structured mask, which
    works where the sink is chosen by features, and another distribution of position encodings,
    which works where it is chosen by them.

    - 'mask': a designated token sees itself alone in every layer, as a first token does.
    - 'position': designated tokens take the encoding of position 0; a position 0 that is not
      designated takes that of the first designated one.
    - 'value': the values of designated tokens are zero in every layer, so that what attends to
      them takes nothing up.

    Positions are columns, earlier tokens in a cache and padding counted. The model runs in
    evaluation mode, without gradients and with the observed attention, which is slower than
    SDPA. `generate` with its cache and `headway.profile_sinks` can be used inside; afterwards,
    also after an exception, the model is as it was.

    Args:
        model: see `headway.profile_sinks`.
        positions: columns, 0 and up.
        by: the way.

    Raises:
        HeadwayError: no positions or negative ones, an unknown way, a model that cannot be
            observed, or, by 'position', one whose position encodings cannot be edited.
    """
    columns = tuple(dict.fromkeys(positions))
    if not columns or min(columns) < 0:
        raise HeadwayError(
            f"positions: {list(positions)} is not accepted; accepted are columns, 0 and up"
        )
    if by not in WAYS:
        raise HeadwayError(f"by: {by!r} is unknown; accepted are {', '.join(WAYS)}")
    stack = stack_of(model)
    if by == "mask":
        with watching(model, Observer(rule=self_only(columns))):
            yield
    elif by == "value":
        with watching(model, Observer(values=_silenced(columns))):
            yield
    else:
        encodings = encodings_of(model, torch.arange(2, 18)[None] % stack.config.vocab_size)
        if not encodings.editable:
            raise HeadwayError(
                f"by: 'position' is not accepted, as {encodings.reason}; accepted are 'mask' and "
                "'value'"
            )
        change = _first_for(columns)
        with (
            watching(model, Observer(positions=encodings.for_observer(change))),
            encodings.through_ids(stack, change),
        ):
            yield


def _silenced(columns: Sequence[int]) -> ValueEdit:
    """Zero values `(B, G, S, D)` at `columns`."""

    def edit(v: Tensor, keys: Tensor) -> Tensor:
        gone = torch.isin(keys, torch.tensor(columns, device=v.device))
        return v.masked_fill(gone[:, None], 0.0)

    return edit


def _first_for(columns: Sequence[int]) -> PositionMap:
    """Designated positions become 0, and 0 the first designated one."""

    def change(p: Tensor) -> Tensor:
        chosen = torch.isin(p, torch.tensor(columns, device=p.device))
        return torch.where(chosen, 0, torch.where(p == 0, columns[0], p))

    return change
