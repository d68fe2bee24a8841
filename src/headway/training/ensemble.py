"""Many copies of a small model trained in one program.

Parameters of S copies are rows of one tensor and the step of one copy is mapped over them
(`torch.func`), so that copies share each kernel's launch. A copy's numbers are those of the same
copy trained alone: nothing is summed over copies.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from headway.errors import HeadwayError
from headway.files import write_atomically
from headway.mechanisms.fused import FusedPrologue
from headway.training.ensemble_attention import FoldedAttention
from headway.training.ensemble_layout import Layout
from headway.training.ensemble_program import Recording, Update, at, compile_update, signature
from headway.training.update_rules import UpdateRule

Call = Callable[..., Any]
Loss = Callable[[Call, Any], Tensor]
"""The loss of one copy, a scalar: called with the copy (as a function) and its batch."""


@dataclass
class Ensemble:
    """S copies and their optimiser.

    Attributes:
        template: a copy whose forward pass all share; its own values are not used.
        loss: of one copy.
        rule: how gradients change parameters.
        layout: where a parameter lies in a row.
        rows: `(S, P)`, all parameters of a copy in its row.
        memory: what the rule keeps, by kind, `(S, P)`.
        buffers: by name, `(S, ...)`; not trained.
        rates: `(S,)`, factor on the rule's learning rate.
        active: `(S,)`, copies that still learn.
        steps: `(S,)`, updates that a copy has taken.
        trains: `(S, P)`, false where a copy holds a number fixed; None: none is.
        compiled: compile the step, and on a GPU replay the steps of `run` as one CUDA graph.
    """

    template: nn.Module
    loss: Loss
    rule: UpdateRule
    layout: Layout
    rows: Tensor
    memory: dict[str, Tensor]
    buffers: dict[str, Tensor]
    rates: Tensor
    active: Tensor
    steps: Tensor
    trains: Tensor | None = None
    compiled: bool = False
    _updates: dict[tuple[object, ...], Update] = field(default_factory=dict, repr=False)
    _recordings: dict[tuple[object, ...], Recording] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(
        models: Sequence[nn.Module],
        loss: Loss,
        rule: UpdateRule,
        rates: Sequence[float] | None = None,
        fixed: Sequence[Collection[str]] | None = None,
        compiled: bool = False,
    ) -> Ensemble:
        """Stack models of one architecture, each with its own values.

        Args:
            models: S of them, on one device; they are not changed.
            loss: of one copy.
            rule: see `headway.training.update_rules`.
            rates: S factors on the learning rate; None: all 1.
            fixed: names of the parameters that each copy keeps as they are, so that copies with
                and without a mechanism (its numbers at identity) share a program; None: none.
            compiled: see the class.

        Raises:
            HeadwayError: no models, other architectures or dtypes, another number of rates or of
                names, or a name that no parameter has.
        """
        _check(models, rates, fixed)
        layout = Layout.of(models[0])
        rows = layout.pack([dict(m.named_parameters()) for m in models])
        _, buffers = stack_module_state(list(models))
        device, count = rows.device, len(models)
        trains = None
        if fixed is not None:
            per_copy = [{n: float(n not in names) for n in layout.shapes} for names in fixed]
            trains = torch.stack([layout.spread(p) for p in per_copy]).bool().to(device)
        return Ensemble(
            template=_plain(models[0]),
            loss=loss,
            rule=rule,
            layout=layout,
            rows=rows,
            memory={kind: torch.zeros_like(rows) for kind in rule.kept},
            buffers={name: b.detach().clone() for name, b in buffers.items()},
            rates=torch.tensor(rates or [1.0] * count, device=device),
            active=torch.ones(count, dtype=torch.bool, device=device),
            steps=torch.zeros(count, device=device),
            trains=trains,
            compiled=compiled,
        )

    def __post_init__(self) -> None:
        decay = {name: self.rule.decay(name) for name in self.layout.shapes}
        self._decay = self.layout.spread(decay).to(self.rows)

    def __len__(self) -> int:
        return len(self.rates)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """By name, `(S, ...)`, as views of `rows`."""
        return self.layout.views(self.rows)

    def losses(self, batch: Any) -> Tensor:
        """Losses `(S,)` without learning; the tensors in `batch` begin with `(S, ...)`."""
        with torch.no_grad():
            found: Tensor = vmap(self._loss_of)(self.rows, self.buffers, batch)
        return found

    def gradients(self, batch: Any) -> tuple[dict[str, Tensor], Tensor]:
        """Each copy's own gradients by name `(S, ...)`, and losses `(S,)`."""
        gradient, losses = vmap(grad_and_value(self._loss_of))(self.rows, self.buffers, batch)
        return self.layout.views(gradient), losses

    @torch.no_grad()
    def step(self, batch: Any, rate: Tensor | float) -> Tensor:
        """One update of every active copy; a copy whose loss or gradient is not finite stops.

        Args:
            batch: tensors `(S, ...)`.
            rate: learning rate of this step, before each copy's factor.

        Returns:
            Losses `(S,)` before the update.
        """
        rate = torch.as_tensor(rate, dtype=self.rows.dtype, device=self.rows.device)
        return self._update_for(batch, rate)(self._changing(), batch, rate)

    @torch.no_grad()
    def run(self, batches: Any, rates: Tensor) -> Tensor:
        """N steps one after the other; compiled and on a GPU they are one launch.

        Nothing is read back: losses stay on the device until they are looked at.

        Args:
            batches: tensors `(N, S, ...)`.
            rates: `(N,)`, learning rate of each step.

        Returns:
            Losses `(N, S)`, each before its update.
        """
        rates = rates.to(self.rows)
        if not (self.compiled and self.rows.is_cuda):
            return torch.stack([self.step(at(batches, n), rates[n]) for n in range(len(rates))])
        key = signature(batches)
        if key not in self._recordings:
            update = self._update_for(at(batches, 0), rates[0])
            self._recordings[key] = Recording.of(update, self._changing(), batches, rates)
        return self._recordings[key].replay(batches, rates)

    def freeze(self, copies: Tensor) -> None:
        """Stop copies `(S,)` bool for good: their parameters stay as they are."""
        self.active.logical_and_(~copies.to(self.active.device))

    def fill(self, number: int, model: nn.Module) -> nn.Module:
        """Write the values of copy `number` into `model`, and return it."""
        values = {**self.parameters, **self.buffers}
        with torch.no_grad():
            for name, target in [*model.named_parameters(), *model.named_buffers()]:
                target.copy_(values[name][number])
        return model

    def save(self, path: Path) -> None:
        """Everything that the next step needs, as one safetensors file, written atomically."""
        write_atomically(path, save({k: v.contiguous() for k, v in self._state().items()}))

    def load(self, path: Path) -> None:
        """Go on from `save`, in place.

        Raises:
            HeadwayError: the file holds other copies or another model.
        """
        found, own = load_file(path), self._state()
        if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in own.items()}:
            raise HeadwayError(
                f"path: {str(path)!r} holds another ensemble; accepted is one of {len(self)} "
                "copies of this model under the same rule"
            )
        for name, tensor in own.items():
            tensor.copy_(found[name])

    def _loss_of(self, row: Tensor, buffers: Any, batch: Any) -> Tensor:
        """Loss of the copy whose parameters are `row` `(P,)`."""
        values = (self.layout.views(row), buffers)

        def call(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self.template, values, args, kwargs)

        with FoldedAttention():
            return self.loss(call, batch)

    def _changing(self) -> dict[str, Any]:
        """The tensors that a step reads and changes in place."""
        state: dict[str, Any] = {
            "rows": self.rows,
            "kept": tuple(self.memory[kind] for kind in self.rule.kept),
            "buffers": self.buffers,
            "rates": self.rates,
            "active": self.active,
            "steps": self.steps,
        }
        return state if self.trains is None else state | {"trains": self.trains}

    def _update(self, state: Any, batch: Any, rate: Tensor) -> Tensor:
        rows, kept, active, steps = (state[k] for k in ("rows", "kept", "active", "steps"))
        gradient, losses = vmap(grad_and_value(self._loss_of))(rows, state["buffers"], batch)
        if "trains" in state:
            gradient = torch.where(state["trains"], gradient, 0.0)
        finite = losses.isfinite() & gradient.abs().amax(1).isfinite()
        active.logical_and_(finite)
        steps.add_(active)
        gradient = gradient * self.rule.shrink(gradient.square().sum(1).sqrt())[:, None]
        learning_rate = (rate * state["rates"])[:, None]
        new = self.rule.update(rows, gradient, kept, learning_rate, steps[:, None], self._decay)
        learns = active[:, None]
        if "trains" in state:
            learns = learns & state["trains"]
        for old, value in zip((rows, *kept), new, strict=True):
            old.copy_(torch.where(learns, value, old))
        found: Tensor = losses
        return found

    def _update_for(self, batch: Any, rate: Tensor) -> Update:
        if not self.compiled:
            return self._update
        key = signature(batch)
        if key not in self._updates:
            self._updates[key] = compile_update(self._update, self._changing(), batch, rate)
        return self._updates[key]

    def _state(self) -> dict[str, Tensor]:
        state = {f"parameters.{name}": p for name, p in self.parameters.items()}
        state |= {f"buffers.{name}": b for name, b in self.buffers.items()}
        for kind, rows in self.memory.items():
            state |= {f"memory.{kind}.{n}": m for n, m in self.layout.views(rows).items()}
        state |= {"rates": self.rates, "active": self.active, "steps": self.steps}
        return state if self.trains is None else state | {"trains": self.trains}


def _check(
    models: Sequence[nn.Module],
    rates: Sequence[float] | None,
    fixed: Sequence[Collection[str]] | None,
) -> None:
    if not models:
        raise HeadwayError("models: none are given; accepted is at least one")
    first = _architecture(models[0])
    if any(_architecture(m) != first for m in models):
        raise HeadwayError(
            "models: they are not of one architecture; accepted are copies with the same "
            "parameters, which differ in their values"
        )
    if rates is not None and len(rates) != len(models):
        raise HeadwayError(
            f"rates: {len(rates)} numbers are not accepted; accepted are {len(models)}, one a copy"
        )
    if fixed is None:
        return
    if len(fixed) != len(models):
        raise HeadwayError(
            f"fixed: {len(fixed)} sets of names are not accepted; accepted are {len(models)}, "
            "one a copy"
        )
    known = {name for name, _ in models[0].named_parameters()}
    unknown = sorted({name for names in fixed for name in names} - known)
    if unknown:
        raise HeadwayError(
            f"fixed: {unknown[0]!r} is no parameter; accepted are {', '.join(sorted(known))}"
        )


def _plain(model: nn.Module) -> nn.Module:
    """A copy that runs no kernel of ours: those are launched once for each copy, where plain
    operations are launched once for all."""
    made = copy.deepcopy(model)
    for module in made.modules():
        if isinstance(module, FusedPrologue):
            module.choice = "reference"
    return made


def _architecture(model: nn.Module) -> tuple[object, ...]:
    """What copies must share: the same pass over parameters of the same shapes."""
    config = getattr(model, "config", None)
    told = json.dumps(config.to_dict(), sort_keys=True, default=str) if config is not None else ""
    return str(model), told, tuple((n, p.shape, p.dtype) for n, p in model.named_parameters())
