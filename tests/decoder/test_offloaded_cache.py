"""Copies of offloaded layers are on their way for a while, and whoever touches a layer waits."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from small_models import COMPOSED, small, tokens

from headway import HeadwayCache

TOUCHING: dict[str, Callable[[HeadwayCache], object]] = {
    "reorder_cache": lambda cache: cache.reorder_cache(torch.tensor([1, 0])),
    "batch_repeat_interleave": lambda cache: cache.batch_repeat_interleave(2),
    "batch_select_indices": lambda cache: cache.batch_select_indices(torch.tensor([1])),
    "reset": lambda cache: cache.reset(),
}


@pytest.fixture
def cache() -> HeadwayCache:
    """As it is with a GPU that all of it lies on."""
    model = small(COMPOSED)
    cache = HeadwayCache(model.config)
    with torch.no_grad():
        model(tokens(2, 5), past_key_values=cache)
    cache.offloading = cache.only_non_sliding = True
    return cache


@pytest.mark.parametrize("name", TOUCHING)
def test_layers_are_touched_when_they_have_arrived(
    name: str, cache: HeadwayCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[tuple[torch.device, int]] = []

    def wait(device: torch.device) -> None:
        came.append((device, sum(id(layer.keys) in before for layer in cache.layers)))

    before = {id(layer.keys) for layer in cache.layers}
    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    TOUCHING[name](cache)
    assert came == [(torch.device("cpu"), len(cache.layers))]


def test_a_layer_is_fetched_when_it_has_left(
    cache: HeadwayCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stream waits for the other before the next layer is fetched."""
    came = []
    default = SimpleNamespace(wait_stream=lambda other: came.append("default waits"))
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: default)
    cache.prefetch_stream = SimpleNamespace(wait_stream=lambda other: came.append("fetching waits"))
    monkeypatch.setattr(cache, "prefetch", lambda *_: came.append("fetched"))
    monkeypatch.setattr(cache, "offload", lambda *_: came.append("sent"))
    one = torch.zeros(2, 2, 1, 8, dtype=torch.float64)
    cache.update(one, one, 0)
    assert came[-2:] == ["fetched", "sent"]
    assert {"fetching waits", "default waits"} <= set(came[:-2])
    assert cache.get_seq_length() == 6
