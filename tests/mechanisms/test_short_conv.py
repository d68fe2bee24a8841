"""Short convolutions against plain loops."""

import pytest
import torch

from headway import HeadwayError, ShortConv
from mechanisms.helpers import DIMS, POSITIONS, built, close, context, projections


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("taps", [2, 3, 4])
@pytest.mark.parametrize("targets", [("query", "key", "value"), ("key",), ("value", "query")])
def test_one_causal_filter_a_channel(targets: tuple[str, ...], taps: int, residual: bool) -> None:
    module = built(ShortConv(targets=targets, taps=taps, residual=residual))
    before = projections()
    after = module.prologue(before, context())
    for target in ("query", "key", "value"):
        x, y = getattr(before, target[0]), getattr(after, target[0])
        if target not in targets:
            assert torch.equal(x, y)
            continue
        filters = getattr(module, target).detach()
        assert filters.shape == (DIMS.heads(target), DIMS.head_dim, taps)
        expected = x.clone() if residual else torch.zeros_like(x)
        for b in range(2):
            for t in range(6):
                for j in range(min(taps, int(POSITIONS[b, t]) + 1)):
                    expected[b, :, t] += filters[..., j] * x[b, :, t - j]
        close(y, expected)


def test_starts() -> None:
    for taps in (2, 4):
        filters = built(ShortConv(taps=taps), loud=False).key
        assert filters.abs().max() <= taps**-0.5
        assert filters.abs().max() > 0.7 * taps**-0.5
        assert filters.min() < 0
    for residual, current in ((True, 0), (False, 1)):
        module = built(ShortConv(init="identity", residual=residual), loud=False)
        assert torch.equal(module.query[..., 0], torch.full((4, 3), current).double())
        assert not module.query[..., 1:].any()


def test_refusals() -> None:
    for taps, word in ((1, "minimum is 2"), (5, "maximum is 4")):
        with pytest.raises(HeadwayError, match=rf"taps: {taps} is not accepted; the {word}"):
            ShortConv(taps=taps)
    with pytest.raises(HeadwayError, match=r"short_conv.targets: .* each once"):
        ShortConv(targets=("key", "key"))


def test_what_is_shown_is_the_mean_filter() -> None:
    module = built(ShortConv(targets=("key",)))
    shown = module.learned()
    assert list(shown) == ["key mean filter"]
    close(shown["key mean filter"], module.key.detach().mean(dim=1))
