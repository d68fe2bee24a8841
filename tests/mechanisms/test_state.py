"""What is carried between decoding steps: the last raw rows, and as many as a crop needs."""

import pytest
import torch
from torch import Tensor

from headway import DecodeState, HeadwayError
from headway.mechanisms.state import rows_before


def rows(start: int, stop: int, batch: int = 2) -> Tensor:
    """`(B, 1, T, 1)` that count the tokens, 100 apart between rows of the batch."""
    counts = torch.arange(start, stop, dtype=torch.float32)
    return (counts + 100 * torch.arange(batch)[:, None])[:, None, :, None]


def first(x: Tensor) -> list[float]:
    """The first row of the batch."""
    return x[0, 0, :, 0].tolist()


@pytest.mark.parametrize("static", [True, False])
def test_the_rows_before_are_the_last_ones_fed(static: bool) -> None:
    state = DecodeState(static)
    assert first(state.before("x", rows(1, 3), 3)) == [0, 0, 0]
    assert first(state.before("x", rows(3, 4), 3)) == [0, 1, 2]
    assert first(state.before("x", rows(4, 9), 3)) == [1, 2, 3]
    assert first(state.before("x", rows(9, 10), 3)) == [6, 7, 8]
    assert first(state.before("other", rows(5, 6), 1)) == [0]
    assert state.rows["x"].shape[-2] == 3


def test_static_rows_stay_where_they_are() -> None:
    state = DecodeState(static=True)
    earlier = state.before("x", rows(1, 3), 2)
    where = state.rows["x"].data_ptr()
    state.before("x", rows(3, 5), 2)
    state.select(torch.tensor([1, 0]))
    assert first(state.rows["x"]) == [103, 104]
    state.reset()
    assert first(state.rows["x"]) == [0, 0]
    assert state.rows["x"].data_ptr() == where
    assert first(earlier) == [0, 0]


def test_nothing_of_the_graph_is_kept() -> None:
    state = DecodeState()
    state.before("x", rows(1, 3).requires_grad_(), 1)
    assert not state.rows["x"].requires_grad


def test_a_recorded_crop_goes_back() -> None:
    state = DecodeState()
    state.before("x", rows(1, 4), 2)
    state.record = True
    assert first(state.before("x", rows(4, 8), 2)) == [2, 3]
    assert first(state.before("x", rows(8, 9), 2)) == [6, 7]
    state.crop(3)
    assert first(state.before("x", rows(6, 7), 2)) == [4, 5]
    state.crop(1)
    assert first(state.before("x", rows(6, 7), 2)) == [4, 5]


def test_a_crop_may_be_written_as_transformers_writes_it() -> None:
    state = DecodeState()
    state.record = True
    state.before("x", rows(1, 9), 2)
    state.crop(-3)
    assert first(state.before("x", rows(6, 7), 2)) == [4, 5]
    with pytest.raises(HeadwayError, match=r"crop: 9 tokens cannot be taken back"):
        state.crop(-9)


def test_a_crop_past_what_is_kept_is_refused_and_changes_nothing() -> None:
    state = DecodeState()
    state.before("x", rows(1, 6), 2)
    with pytest.raises(HeadwayError, match=r"crop: 1 tokens .* 'x' keeps only its last 2 raw rows"):
        state.crop(1)
    assert first(state.before("x", rows(6, 7), 2)) == [4, 5]
    state.record = True
    state.before("x", rows(7, 9), 2)
    with pytest.raises(HeadwayError, match=r"activate_past_recording\(\)"):
        state.crop(3)
    state.crop(2)
    assert first(state.before("x", rows(7, 8), 2)) == [5, 6]


def test_an_empty_state_and_an_empty_crop_are_fine() -> None:
    state = DecodeState()
    state.crop(5)
    state.before("x", rows(1, 6), 2)
    state.crop(0)
    assert first(state.before("x", rows(6, 7), 2)) == [4, 5]


def test_the_batch_may_be_selected_and_repeated() -> None:
    state = DecodeState()
    state.before("x", rows(1, 4), 1)
    state.repeat(2)
    assert state.rows["x"].flatten().tolist() == [3, 3, 103, 103]
    state.select(torch.tensor([3, 0, 2]))
    assert state.rows["x"].flatten().tolist() == [103, 3, 103]
    state.reset()
    assert state.rows == {}


def test_without_a_state_nothing_stands_before() -> None:
    x = rows(1, 4)
    assert first(rows_before(None, "x", x, 2)) == [0, 0]
    state = DecodeState()
    rows_before(state, "x", x, 2)
    assert first(rows_before(state, "x", x, 2)) == [2, 3]
