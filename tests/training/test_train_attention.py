"""Which implementation of attention `headway train` takes."""

import pytest

from headway.training.train_run import chosen_attention
from headway_train_settings import TrainSettings


@pytest.mark.parametrize(
    ("asked", "ours", "cuda", "expected"),
    [
        ({}, True, True, "flex_attention"),
        ({"compile": True}, True, True, "flex_attention"),
        ({"sharding": "fsdp"}, True, True, "flex_attention"),
        ({"compile": True, "sharding": "fsdp"}, True, True, "flex_attention"),
        ({"reset_positions": False}, True, True, "sdpa"),
        ({}, False, True, "sdpa"),
        ({}, True, False, "sdpa"),
        ({"attention": "sdpa", "compile": True, "sharding": "fsdp"}, True, True, "sdpa"),
        ({"attention": "eager"}, True, True, "eager"),
    ],
)  # fmt: skip
def test_attention_that_is_chosen(asked, ours, cuda, expected):
    assert chosen_attention(TrainSettings(**asked), ours, cuda) == expected
