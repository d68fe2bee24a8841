"""Fine-tuning of a trained model: mechanisms at a rate of their own, the rest at a small one."""

from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn

from headway.hosts.attach import belongs_to_headway
from headway.mechanisms.base import Learned
from headway.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class FineTuning(Recipe):
    """AdamW over what is not frozen, in up to four groups.

    Attributes:
        mechanism_learning_rate: peak for what attaching added. AdamW moves a number by about the
            learning rate a step, whatever its gradient: pretrained weights need small corrections,
            while a mechanism that starts as the identity has its whole way to go.
    """

    mechanism_learning_rate: float

    def optimiser(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW (0.9, 0.95); a group's "share" multiplies the rate of a step, "ours" marks those of
        mechanisms. Decayed are matrices; vectors and the mechanisms' own numbers are not.
        """
        learned = {
            id(p)
            for module in model.modules()
            if isinstance(module, Learned)
            for p in module.parameters(recurse=False)
        }
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                decayed = parameter.dim() > 1 and id(parameter) not in learned
                groups.setdefault((belongs_to_headway(name), decayed), []).append(parameter)
        faster = self.mechanism_learning_rate / self.learning_rate
        return torch.optim.AdamW(
            [
                {
                    "params": parameters,
                    "weight_decay": self.weight_decay if decayed else 0.0,
                    "share": faster if ours else 1.0,
                    "ours": ours,
                }
                for (ours, decayed), parameters in groups.items()
            ],
            lr=self.learning_rate,
            betas=(0.9, 0.95),
        )

    def update(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Clip the gradients, take the step and clear them.

        Mechanisms are clipped apart from the rest, so that their gradients change no step of the
        weights that an arm without them has too.
        """
        for ours in (False, True):
            groups = (g["params"] for g in optimiser.param_groups if g["ours"] == ours)
            torch.nn.utils.clip_grad_norm_(list(chain.from_iterable(groups)), self.clip)
        optimiser.step()
        optimiser.zero_grad()
