"""Mixing with earlier rows, against plain loops."""

import pytest
import torch

from headway.ops.shift import mix_previous


@pytest.mark.parametrize("channel", [True, False])
@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("start", [0, 2, 9])
def test_rows_before_the_chunk_and_document_starts(window: int, channel: bool, start: int) -> None:
    generator = torch.Generator().manual_seed(window)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    # The chunk begins `start` tokens into a document; another one begins at its fourth row.
    positions = torch.tensor([[start, start + 1, start + 2, 0, 1]])
    x, before = draw(1, 2, 5, 3), draw(1, 2, window, 3)
    taps = draw(2, 3, window + 1) if channel else draw(2, window + 1)
    rows = torch.cat([before, x], dim=2)
    expected = torch.zeros_like(x)
    for g in range(2):
        for t in range(5):
            for distance in range(min(window, int(positions[0, t])) + 1):
                expected[0, g, t] += taps[g, ..., distance] * rows[0, g, window + t - distance]
    torch.testing.assert_close(mix_previous(x, taps, positions, before), expected)


def test_a_row_outside_the_document_is_not_even_multiplied() -> None:
    x = torch.ones(1, 1, 2, 1)
    before = torch.full((1, 1, 1, 1), float("nan"))
    mixed = mix_previous(x, torch.tensor([[2.0, 3.0]]), torch.tensor([[0, 1]]), before)
    assert mixed.flatten().tolist() == [2, 5]


def test_the_dtype_of_the_projection_is_kept() -> None:
    x = torch.ones(1, 1, 2, 1, dtype=torch.bfloat16)
    taps, positions = torch.tensor([[2.0, 3.0]]), torch.tensor([[0, 1]])
    assert mix_previous(x, taps, positions, torch.zeros_like(x[:, :, :1])).dtype == torch.bfloat16
