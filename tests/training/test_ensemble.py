"""Copies trained together are what each would be alone."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from headway import HeadwayConfig, HeadwayForCausalLM, KVShift, SelectiveAttention
from headway.errors import HeadwayError
from headway.training.ensemble import Ensemble
from headway.training.initialise import seed_weights
from headway.training.recipe import Recipe
from headway.training.update_rules import SGD, AdamW, UpdateRule

STEPS = 200


def next_token(call: Any, batch: Tensor) -> Tensor:
    logits = call(batch[:, :-1], use_cache=False).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def squares(call: Any, batch: Any) -> Tensor:
    return (call(batch["x"]) - batch["y"]).square().mean()


def decoders(copies: int) -> list[HeadwayForCausalLM]:
    config = HeadwayConfig(
        vocab_size=16,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        mechanisms=[KVShift(), SelectiveAttention()],
    )
    models = [HeadwayForCausalLM(config) for _ in range(copies)]
    for seed, model in enumerate(models):
        seed_weights(model, seed)
    return models


def lines(copies: int) -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)) for _ in range(copies)]


def points(copies: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(copies, 5, 3, generator=generator),
        "y": torch.randn(copies, 5, 2, generator=generator),
    }


def test_decoders_equal_the_same_seeds_trained_alone() -> None:
    """Losses within 1e-4 after 200 steps: the library's optimiser, clipping and our vmap."""
    models, rates = decoders(3), [1.0, 0.5, 2.0]
    recipe = Recipe(steps=STEPS, learning_rate=3e-3, weight_decay=0.1)
    decayed = {
        f"{name}.weight"
        for name, m in models[0].named_modules()
        if isinstance(m, nn.Linear | nn.Embedding)
    }
    rule = AdamW(weight_decay=0.1, decayed=decayed, clip=recipe.clip)
    together = Ensemble.of(models, next_token, rule, rates)
    generator = torch.Generator().manual_seed(3)
    data = torch.randint(0, 16, (STEPS, 3, 4, 9), generator=generator)
    # Something to learn: each token is followed by its successor half of the time.
    data[..., 1::2] = (data[..., :-1:2] + 1) % 16
    losses = torch.stack([together.step(data[i], recipe.rate(i)) for i in range(STEPS)])
    for number, (model, factor) in enumerate(zip(models, rates, strict=True)):
        optimiser = recipe.optimiser(model)
        for i in range(STEPS):
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(i) * factor
            loss = next_token(model, data[i, number])
            loss.backward()
            recipe.update(model, optimiser)
            assert abs(loss.item() - losses[i, number].item()) < 1e-4, (number, i)
        assert losses[-1, number] < losses[0, number] - 0.3


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.sampled_from([SGD(), SGD(clip=0.1), AdamW(), AdamW(clip=0.3)]))
def test_a_copy_does_not_depend_on_its_neighbours(copies: int, rule: UpdateRule) -> None:
    models, batch = lines(copies + 1), points(copies + 1)
    together, alone = (Ensemble.of(models[:n], squares, rule) for n in (copies + 1, copies))
    for _ in range(5):
        together.step(batch, 0.1)
        alone.step({k: v[:copies] for k, v in batch.items()}, 0.1)
    for name, parameter in alone.parameters.items():
        torch.testing.assert_close(together.parameters[name][:copies], parameter)


def test_a_copy_that_diverges_stops_and_harms_nobody() -> None:
    models, batch = lines(3), points(3)
    expected, found = (Ensemble.of(models, squares, AdamW(clip=1.0)) for _ in range(2))
    bad = {k: v.clone() for k, v in batch.items()}
    bad["x"][1] = float("nan")
    for data in (batch, bad, batch):
        losses = found.step(data, 0.1)
    for _ in range(3):
        expected.step(batch, 0.1)
    assert found.active.tolist() == [True, False, True]
    assert losses.isfinite().all()
    assert found.steps.tolist() == [3, 1, 3]
    for name, parameter in found.parameters.items():
        torch.testing.assert_close(parameter[[0, 2]], expected.parameters[name][[0, 2]])
        assert parameter.isfinite().all()


def test_frozen_copies_stay_to_the_bit() -> None:
    together = Ensemble.of(lines(3), squares, AdamW())
    together.step(points(3), 0.1)
    before = {n: p.clone() for n, p in together.parameters.items()}
    together.freeze(torch.tensor([False, True, False]))
    together.step(points(3), 0.1)
    for name, parameter in together.parameters.items():
        assert torch.equal(parameter[1], before[name][1])
        assert not torch.equal(parameter[0], before[name][0])


@pytest.mark.parametrize("rule", [SGD(), AdamW(weight_decay=0.1, decayed={"0.weight"})])
def test_it_goes_on_from_a_file_to_the_bit(rule: UpdateRule, tmp_path: Path) -> None:
    whole, half = (Ensemble.of(lines(2), squares, rule, [1.0, 0.3]) for _ in range(2))
    for step in range(6):
        whole.step(points(2, step), 0.1)
        if step < 3:
            half.step(points(2, step), 0.1)
    half.save(tmp_path / "state.safetensors")
    resumed = Ensemble.of(lines(2), squares, rule)
    resumed.load(tmp_path / "state.safetensors")
    for step in range(3, 6):
        resumed.step(points(2, step), 0.1)
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, resumed.parameters[name])
    other = Ensemble.of(lines(3), squares, rule)
    with pytest.raises(HeadwayError, match="holds another ensemble; accepted is one of 3"):
        other.load(tmp_path / "state.safetensors")


def test_a_copy_comes_out_as_a_model() -> None:
    models, batch = lines(2), points(2)
    together = Ensemble.of(models, squares, SGD())
    together.step(batch, 0.1)
    alone = together.fill(1, copy.deepcopy(models[0]))
    loss = squares(alone, {k: v[1] for k, v in batch.items()})
    torch.testing.assert_close(loss.detach(), together.losses(batch)[1])


def test_models_are_left_as_they_were() -> None:
    models = lines(2)
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in models]
    Ensemble.of(models, squares, SGD()).step(points(2), 0.1)
    for model, values in zip(models, before, strict=True):
        assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("models", "rates", "words"),
    [
        ([], None, "models: none are given"),
        ([nn.Linear(2, 3), nn.Linear(2, 4)], None, "models: they are not of one architecture"),
        ([nn.Linear(2, 3)], [1.0, 2.0], "rates: 2 numbers are not accepted; accepted are 1"),
    ],
)
def test_what_cannot_be_stacked_is_refused(
    models: list[nn.Module], rates: list[float] | None, words: str
) -> None:
    with pytest.raises(HeadwayError, match=words):
        Ensemble.of(models, squares, SGD(), rates)
