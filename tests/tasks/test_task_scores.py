"""The scorers, on logits written by hand."""

from __future__ import annotations

import math

import pytest
import torch

from headway import HeadwayError
from headway.tasks import IGNORED, Sample, accuracy, exact_match, loss


def two_rows() -> tuple[torch.Tensor, Sample]:
    """Three answers, the first of which is wrong; nothing is scored where a target is missing."""
    targets = torch.tensor([[IGNORED, 2, 1], [0, IGNORED, IGNORED]])
    said = torch.tensor([[0, 0, 1], [0, 1, 2]])
    left = torch.tensor([[True, True, False]] * 2)
    logits = torch.nn.functional.one_hot(said, 3).float() * 5
    slices = {"left": left, "right": ~left, "none": torch.zeros_like(left)}
    return logits, Sample(inputs=said, targets=targets, slices=slices)


def test_accuracy_counts_what_is_scored() -> None:
    found = {k: v.item() for k, v in accuracy(*two_rows()).items()}
    assert found.pop("all") == pytest.approx(2 / 3)
    assert math.isnan(found.pop("none"))
    assert found == {"left": 0.5, "right": 1.0}


def test_exact_match_counts_rows() -> None:
    found = {k: v.item() for k, v in exact_match(*two_rows()).items()}
    assert found["all"] == 0.5  # the first row has an error
    assert found["left"] == 0.5
    assert found["right"] == 1.0  # only the first row has a scored answer there
    assert math.isnan(found["none"])


def test_loss_is_the_mean_over_answers() -> None:
    logits, sample = two_rows()
    surprise = -logits.log_softmax(-1)
    expected = (surprise[0, 1, 2] + surprise[0, 2, 1] + surprise[1, 0, 0]) / 3
    torch.testing.assert_close(loss(logits, sample), expected)


def test_one_answer_a_row_is_read_at_the_last_position() -> None:
    logits, sample = two_rows()
    one = Sample(inputs=sample.inputs, targets=torch.tensor([1, 2]))
    assert accuracy(logits, one)["all"] == 1
    assert accuracy(logits[:, -1], one)["all"] == 1
    assert exact_match(logits, one)["all"] == 1
    assert accuracy(logits[:, 0], one)["all"] == 0
    torch.testing.assert_close(loss(logits, one), loss(logits[:, -1], one))


def test_other_shapes_are_refused() -> None:
    logits, sample = two_rows()
    with pytest.raises(HeadwayError, match=r"logits: shape \(2, 2, 3\)"):
        accuracy(logits[:, :2], sample)
