"""Temperatures against plain formulas."""

import math

import torch

from headway.ops.temperature import position_temperature, token_temperature


def test_the_position_part_grows_with_the_log_of_the_visible_keys() -> None:
    positions, slopes = torch.tensor([[0, 1, 6], [2, 0, 1]]), torch.tensor([0.5, -0.25])
    tau = position_temperature(positions, slopes)
    assert tau.shape == (2, 2, 3)
    for b in range(2):
        for h in range(2):
            for t in range(3):
                expected = 1 + slopes[h].item() * math.log(positions[b, t].item() + 1)
                assert math.isclose(tau[b, h, t].item(), expected, rel_tol=1e-6)
    assert torch.equal(position_temperature(positions, slopes[0]), tau[:, :1])


def test_the_token_part_is_a_bounded_reading_of_its_features() -> None:
    features = 3 * torch.randn(2, 3, 4, 5, dtype=torch.float64)
    weights = torch.randn(3, 5)
    tau = token_temperature(features, weights)
    for h in range(3):
        read = torch.nn.functional.gelu(features[:, h]) @ weights[h].double()
        torch.testing.assert_close(tau[:, h], read.tanh())
    assert tau.abs().max() <= 1
    assert torch.equal(token_temperature(features, 0 * weights), torch.zeros_like(tau))
