"""Denoising: shares and noise as stated, and an estimate that is Bayes'."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from chances import happens, independent, mean_is, no_more_than, seeded, spread, uniform
from torch import Tensor

from headway import HeadwayError
from headway.tasks import Denoise, Sample, accuracy, squared_error


def units(sample: Sample) -> Tensor:
    return torch.nn.functional.one_hot(sample.targets, sample.inputs.shape[-1]).float()


def test_the_last_token_is_the_unit_asked_for_with_noise() -> None:
    sample = Denoise().sample(4_000, seeded(1))
    uniform(sample.targets, 8)
    spread(sample.inputs[:, -1] - units(sample), 0.2**2)


def test_other_tokens_are_signals_or_noise() -> None:
    task = Denoise(noise=0.05)
    others = task.sample(1_000, seeded(2)).inputs[:, :-1]
    signal = others.max(-1).values > 0.5
    happens(signal, 0.25)
    kind = others[signal].argmax(-1)
    uniform(kind, 8)
    spread(others[signal] - torch.nn.functional.one_hot(kind, 8), 0.05**2)
    spread(others[~signal], 0.05**2)
    asked = Denoise(noise=0.05, signals="asked", p_signal=0.6).sample(500, seeded(3))
    signal = asked.inputs[:, :-1].max(-1).values > 0.5
    happens(signal, 0.6)
    kind = asked.inputs[:, :-1].argmax(-1)
    assert (kind == asked.targets[:, None])[signal].all()


def fitted_guess(seen: Tensor, sample: Sample, asked: Tensor) -> Tensor:
    """The class with the largest value of a linear map of features `(B, F)`, by least squares."""
    weights: Tensor = torch.linalg.lstsq(seen, units(sample)).solution
    return (asked @ weights).argmax(1)


def test_other_tokens_do_not_tell_the_class_where_signals_are_of_any() -> None:
    task = Denoise()
    train, test = task.sample(4_000, seeded(7)), task.sample(4_000, seeded(8))
    seen, asked = (sample.inputs[:, :-1] for sample in (train, test))
    no_more_than(fitted_guess(seen.flatten(1), train, asked.flatten(1)) == test.targets, 1 / 8)
    no_more_than(asked.sum(1).argmax(1) == test.targets, 1 / 8)
    for place in range(task.length - 1):
        independent(seen[:, place].argmax(1), train.targets, checks=task.length - 1)
    last = fitted_guess(train.inputs[:, -1], train, test.inputs[:, -1])
    assert (last == test.targets).float().mean() > 0.9


@pytest.mark.parametrize("signals", ["any", "asked"])
def test_neither_noise_nor_where_signals_stand_tells_the_class(
    signals: Literal["any", "asked"],
) -> None:
    task = Denoise(noise=0.05, signals=signals)

    def without_signals(sample: Sample) -> tuple[Tensor, Tensor]:
        """Noise of other tokens beside where signals stand, and how many there are."""
        others = sample.inputs[:, :-1]
        signal = others.max(-1, keepdim=True).values > 0.5
        quiet = others.masked_fill(signal, 0.0) / task.noise
        return torch.cat([quiet, signal.float()], -1).flatten(1), signal.sum((1, 2))

    train, test = task.sample(4_000, seeded(9)), task.sample(4_000, seeded(10))
    (seen, count), (asked, _) = without_signals(train), without_signals(test)
    no_more_than(fitted_guess(seen, train, asked) == test.targets, 1 / 8)
    independent((count - 4).clamp(0, 7), train.targets)


@pytest.mark.parametrize("signals", ["any", "asked"])
@pytest.mark.parametrize("p_signal", [0.0, 0.25, 1.0])
def test_bayes_knows_how_sure_it_is(signals: Literal["any", "asked"], p_signal: float) -> None:
    task = Denoise(noise=0.9, length=6, signals=signals, p_signal=p_signal)
    sample = task.sample(20_000, seeded(4))
    posterior = task.bayes(sample.inputs)
    right = posterior.gather(1, sample.targets[:, None])[:, 0]
    mean_is(right - posterior.square().sum(1), 0.0)
    mean_is((posterior.argmax(1) == sample.targets).float() - posterior.max(1).values, 0.0)


def test_bayes_uses_what_the_other_tokens_tell() -> None:
    task = Denoise(noise=0.9, length=12, signals="asked")
    sample = task.sample(4_000, seeded(5))
    alone = Denoise(noise=0.9, length=12).bayes(sample.inputs)
    assert squared_error(task.bayes(sample.inputs), sample) < 0.9 * squared_error(alone, sample)


def test_neither_gated_nor_naive_averages_beat_bayes() -> None:
    task = Denoise(noise=0.4)
    sample = task.sample(4_000, seeded(6))
    bayes = squared_error(task.bayes(sample.inputs), sample)
    scores = (sample.inputs @ sample.inputs[:, -1:].mT)[..., 0]
    gate = (sample.inputs.max(-1, keepdim=True).values >= 0.5).float()
    for sharpness in (0.0, 1.0, 3.0, 10.0):
        weights = (sharpness * scores).softmax(-1)[:, None]
        naive = squared_error((weights @ sample.inputs)[:, 0], sample)
        gated = squared_error((weights @ (gate * sample.inputs))[:, 0], sample)
        assert bayes < min(naive, gated)
    assert accuracy(task.bayes(sample.inputs), sample)["all"] > 0.8


def test_squared_error_by_hand() -> None:
    sample = Sample(inputs=torch.zeros(2, 3, 2), targets=torch.tensor([0, 1]))
    outputs = torch.zeros(2, 3, 2)
    outputs[:, -1] = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    assert squared_error(outputs, sample) == 1.0  # (0 + 0 + 0 + 4) / 4
    assert squared_error(outputs[:, -1], sample) == 1.0


def test_refused_numbers() -> None:
    with pytest.raises(HeadwayError, match=r"denoise\.p_signal: 2"):
        Denoise(p_signal=2.0)
