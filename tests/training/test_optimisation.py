"""The optimiser and the schedule of `headway train`."""

import pytest
import torch
from transformers import get_scheduler

from headway import HeadwayConfig, HeadwayForCausalLM, KVShift, SelectiveAttention
from headway.training.optimisation import adamw, schedule
from headway_train_settings import TrainSettings


def test_groups_of_parameters():
    """Mechanisms' own numbers have their rate and no decay; matrices alone are decayed."""
    config = HeadwayConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        mechanisms=[KVShift(), SelectiveAttention(token="mlp")],
    )  # fmt: skip
    model = HeadwayForCausalLM(config)
    asked = TrainSettings(learning_rate=0.1, mechanism_learning_rate=0.7, weight_decay=0.3)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = adamw(model, asked).param_groups
    (matrices,) = [g for g in groups if "q_proj" in " ".join(names[id(p)] for p in g["params"])]
    (vectors,) = [g for g in groups if "norm" in names[id(g["params"][0])]]
    (own,) = [g for g in groups if g["lr"] == 0.7]
    assert (matrices["lr"], matrices["weight_decay"]) == (0.1, 0.3)
    assert (vectors["lr"], vectors["weight_decay"]) == (0.1, 0.0)
    assert own["weight_decay"] == 0.0
    assert all("mechanisms" in names[id(p)] for p in own["params"])
    assert {"norm" in names[id(p)] for p in vectors["params"]} == {True}
    told = sum(len(g["params"]) for g in (matrices, vectors, own))
    assert told == len(names)


@pytest.mark.parametrize(("steps", "last"), [(20, 0.325), (1000, 0.1045)])
def test_the_rate_of_the_last_step_is_as_the_page_says(steps, last):
    told = schedule(TrainSettings(steps=steps))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(
        told["lr_scheduler_type"],
        optimizer,
        num_warmup_steps=told["warmup_steps"],
        num_training_steps=steps,
        scheduler_specific_kwargs=told["lr_scheduler_kwargs"],
    )
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[-1] == pytest.approx(last)
    assert scheduler.get_last_lr()[0] == pytest.approx(0.1)
