"""Which layers may be tapped."""

import pytest

from headway import Dims, HeadwayError
from headway.mechanisms.taps import check_taps, tap_indices


def dims(layers: int) -> Dims:
    """Of a model this deep."""
    return Dims(
        hidden_size=4,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=4,
        num_hidden_layers=layers,
    )


def test_all_is_every_layer_but_the_last() -> None:
    assert tap_indices("all", dims(4)) == (1, 2, 3)
    assert tap_indices((3, 0, 0), dims(4)) == (3, 0, 0)
    check_taps("x.taps", "all", dims(2))
    check_taps("x.taps", (0, 1), dims(2))
    check_taps("x.taps", (0,), dims(1))


@pytest.mark.parametrize(
    ("taps", "layers", "words"),
    [
        ((2,), 2, r"x\.taps: 2 is beyond the depth; accepted are 0 \(the embedding\) to 1"),
        ((0, -1), 4, r"x\.taps: -1 is beyond the depth; .* in a model of 4 layers"),
        ((), 4, r"x\.taps: the list is empty"),
        ("all", 1, r"x\.taps: 'all' taps nothing in a model of 1 layer"),
    ],
)
def test_taps_that_are_refused(taps: tuple[int, ...], layers: int, words: str) -> None:
    with pytest.raises(HeadwayError, match=words):
        check_taps("x.taps", taps, dims(layers))
