"""What reads FlexAttention's log-sum-exp is compiled without padded strides."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor import config

from headway.ops import attention
from headway.ops.attention import attend
from headway.ops.visibility import Visibility


@pytest.fixture(autouse=True)
def padded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As torch.compile is set before, and an attention that needs no GPU."""
    monkeypatch.setattr(attention, "_flex", lambda q, *_: (2 * q, q.sum(-1)))
    torch.compiler.reset()
    settings: Any = config
    entry = settings._config["comprehensive_padding"]
    monkeypatch.setattr(entry, "env_value_force", entry.env_value_force)  # put back
    with config.patch(comprehensive_padding=True):
        yield


def attended(q: Tensor, need_lse: bool) -> Tensor:
    visible = Visibility(torch.arange(3).expand(1, 3), 0, 3, True)
    return attend(q, q, q, visible, 1.0, "flex_attention", need_lse)[0]


@pytest.mark.parametrize("need_lse", [True, False])
def test_where_it_is_read(need_lse: bool) -> None:
    q = torch.ones(1, 1, 3, 2)
    program = torch.compile(attended, fullgraph=True, backend="eager")
    torch.testing.assert_close(program(q, need_lse), 2 * q)
    assert config.comprehensive_padding is not need_lse


def test_in_every_thread_and_whatever_is_set_later() -> None:
    """A backward is compiled in a thread of its own, and Inductor sets and resets on its way."""
    with config.patch(comprehensive_padding=True):
        torch.compile(attended, backend="eager")(torch.ones(1, 1, 3, 2), True)
    config.comprehensive_padding = True
    with ThreadPoolExecutor() as threads:
        assert threads.submit(lambda: config.comprehensive_padding).result() is False
    assert config.comprehensive_padding is False


def test_not_outside_of_a_trace() -> None:
    attended(torch.ones(1, 1, 3, 2), need_lse=True)
    assert config.comprehensive_padding is True
