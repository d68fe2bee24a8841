"""One training run of a causal language model."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headway.corpora.batches import Windows
from headway.decoder import HeadwayForCausalLM
from headway.training.graphs import many_graphs
from headway.training.recipe import Recipe


@dataclass(frozen=True)
class Step:
    """What one optimiser step showed.

    Attributes:
        number: steps done, from 1.
        tokens: tokens seen so far.
        loss: nats per token, of the batch before the step.
        learning_rate: of this step.
        tokens_per_second: since the start, evaluations left out.
    """

    number: int
    tokens: int
    loss: float
    learning_rate: float
    tokens_per_second: float


class Divergence(RuntimeError):
    """The loss was not finite.

    Attributes:
        step: number of the step, from 1.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss of step {step} is not finite")
        self.step = step


def precision(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """Autocast to bfloat16, or nothing for float32."""
    if dtype == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def next_token_loss(model: nn.Module, windows: Tensor, **inputs: Tensor) -> Tensor:
    """Losses `(B, T)` in nats for windows `(B, T + 1)`, in float32.

    Args:
        model: of transformers' form.
        windows: of tokens.
        inputs: further arguments of the model, such as `position_ids`.
    """
    logits = model(windows[:, :-1], use_cache=False, **inputs).logits
    flat = F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten(), reduction="none")
    return flat.view(windows.shape[0], -1)


def mean_loss(model: nn.Module, windows: Tensor) -> Tensor:
    """The mean of `next_token_loss`; our decoder, while it trains, gives it without all logits."""
    if isinstance(model, HeadwayForCausalLM):
        out = model(windows[:, :-1], shift_labels=windows[:, 1:], use_cache=False)
        return cast(Tensor, out.loss)
    return next_token_loss(model, windows).mean()


def train(
    model: nn.Module, data: Windows, recipe: Recipe, dtype: str, compile_step: bool
) -> Iterator[Step]:
    """Train in place, yielding after every step.

    Args:
        model: a causal language model of transformers on its device, or a peft model around one;
            weights stay float32. What is frozen stays as it is.
        data: batches by step.
        recipe: of the optimisation; a group's "share" multiplies the rate of a step.
        dtype: 'float32' or 'bfloat16' arithmetic.
        compile_step: `torch.compile` the loss.

    Raises:
        Divergence: the loss is not finite; the step that showed it was not taken.
    """
    device = cast(Any, model).device
    optimiser = recipe.optimiser(model)
    loss_of = torch.compile(mean_loss) if compile_step else mean_loss
    seconds, tokens = 0.0, 0
    for number in range(1, recipe.steps + 1):
        started = time.perf_counter()
        model.train()
        windows = data.batch(number - 1).to(device, non_blocking=True)
        rate = recipe.rate(number - 1)
        for group in optimiser.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        with precision(device, dtype), many_graphs():
            loss = loss_of(model, windows)
        loss.backward()
        value = loss.item()
        if not torch.isfinite(loss):
            raise Divergence(number)
        recipe.update(model, optimiser)
        tokens += windows[:, 1:].numel()
        seconds += time.perf_counter() - started
        yield Step(number, tokens, value, rate, tokens / seconds)
