"""Many copies of a small model trained in one program.

Parameters of S copies are stacked along a first dimension and the step of one copy is mapped over
it (`torch.func`), so that copies share each kernel's launch. A copy's numbers are those of the same
copy trained alone: nothing is summed over copies.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from headway.errors import HeadwayError
from headway.files import write_atomically
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
        parameters: by name, `(S, ...)`.
        buffers: by name, `(S, ...)`; not trained.
        memory: what the rule keeps, by kind and name, `(S, ...)`.
        rates: `(S,)`, factor on the rule's learning rate.
        active: `(S,)`, copies that still learn.
        steps: `(S,)`, updates that a copy has taken.
    """

    template: nn.Module
    loss: Loss
    rule: UpdateRule
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    memory: dict[str, dict[str, Tensor]]
    rates: Tensor
    active: Tensor
    steps: Tensor

    @staticmethod
    def of(
        models: Sequence[nn.Module],
        loss: Loss,
        rule: UpdateRule,
        rates: Sequence[float] | None = None,
    ) -> Ensemble:
        """Stack models of one architecture, each with its own values.

        Args:
            models: S of them, on one device; they are not changed.
            loss: of one copy.
            rule: see `headway.training.update_rules`.
            rates: S factors on the learning rate; None: all 1.

        Raises:
            HeadwayError: no models, other shapes, or another number of rates.
        """
        _check(models, rates)
        parameters, buffers = stack_module_state(list(models))
        parameters = {name: p.detach().clone() for name, p in parameters.items()}
        buffers = {name: b.detach().clone() for name, b in buffers.items()}
        device = next(iter(parameters.values())).device
        count = len(models)
        return Ensemble(
            template=copy.deepcopy(models[0]),
            loss=loss,
            rule=rule,
            parameters=parameters,
            buffers=buffers,
            memory={
                kind: {name: torch.zeros_like(p) for name, p in parameters.items()}
                for kind in rule.kept
            },
            rates=torch.tensor(rates or [1.0] * count, device=device),
            active=torch.ones(count, dtype=torch.bool, device=device),
            steps=torch.zeros(count, device=device),
        )

    def __len__(self) -> int:
        return len(self.rates)

    def losses(self, batch: Any) -> Tensor:
        """Losses `(S,)` without learning; the tensors in `batch` begin with `(S, ...)`."""
        with torch.no_grad():
            found: Tensor = vmap(self._loss_of)(self.parameters, self.buffers, batch)
        return found

    def gradients(self, batch: Any) -> tuple[dict[str, Tensor], Tensor]:
        """Each copy's own gradients by name `(S, ...)`, and losses `(S,)`."""
        return vmap(grad_and_value(self._loss_of))(self.parameters, self.buffers, batch)

    @torch.no_grad()
    def step(self, batch: Any, rate: Tensor | float) -> Tensor:
        """One update of every active copy; a copy whose loss or gradient is not finite stops.

        Args:
            batch: tensors `(S, ...)`.
            rate: learning rate of this step, before each copy's factor.

        Returns:
            Losses `(S,)` before the update.
        """
        gradients, losses = self.gradients(batch)
        norm = _norms(gradients)
        self.active.logical_and_(losses.isfinite() & norm.isfinite())
        self.steps.add_(self.active)
        shrink = self.rule.shrink(norm)
        for name, parameter in self.parameters.items():
            kept = {kind: self.memory[kind][name] for kind in self.rule.kept}
            gradient = gradients[name] * _along(shrink, parameter)
            new, kept_new = self.rule.update(
                name,
                parameter,
                gradient,
                kept,
                _along(rate * self.rates, parameter),
                _along(self.steps, parameter),
            )
            learns = _along(self.active, parameter)
            parameter.copy_(torch.where(learns, new, parameter))
            for kind, value in kept_new.items():
                kept[kind].copy_(torch.where(learns, value, kept[kind]))
        return losses

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

    def _loss_of(self, parameters: Any, buffers: Any, batch: Any) -> Tensor:
        def call(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self.template, (parameters, buffers), args, kwargs)

        return self.loss(call, batch)

    def _state(self) -> dict[str, Tensor]:
        state = {f"parameters.{name}": p for name, p in self.parameters.items()}
        state |= {f"buffers.{name}": b for name, b in self.buffers.items()}
        for kind, members in self.memory.items():
            state |= {f"memory.{kind}.{name}": m for name, m in members.items()}
        return state | {"rates": self.rates, "active": self.active, "steps": self.steps}


def _along(per_copy: Tensor, like: Tensor) -> Tensor:
    """`(S,)` as `(S, 1, ...)`, to act on `like` `(S, ...)`."""
    return per_copy.view(-1, *[1] * (like.dim() - 1))


def _norms(gradients: Mapping[str, Tensor]) -> Tensor:
    """`(S,)`, each copy's global gradient norm."""
    squares = [g.flatten(1).float().square().sum(1) for g in gradients.values()]
    return torch.stack(squares).sum(0).sqrt()


def _check(models: Sequence[nn.Module], rates: Sequence[float] | None) -> None:
    if not models:
        raise HeadwayError("models: none are given; accepted is at least one")
    shapes = [{n: tuple(p.shape) for n, p in m.named_parameters()} for m in models]
    if any(s != shapes[0] for s in shapes):
        raise HeadwayError(
            "models: they are not of one architecture; accepted are copies with the same "
            "parameters, which differ in their values"
        )
    if rates is not None and len(rates) != len(models):
        raise HeadwayError(
            f"rates: {len(rates)} numbers are not accepted; accepted are {len(models)}, one a copy"
        )
