"""What a decoder costs, and the feed-forward width at which another one costs as much."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from fractions import Fraction
from math import ceil

import torch
from torch.utils.flop_counter import FlopCounterMode

from headway.decoder import HeadwayConfig, HeadwayForCausalLM


def parameter_count(config: HeadwayConfig) -> int:
    """How many numbers a decoder learns."""
    return _without_memory(config).num_parameters()


def forward_operations(config: HeadwayConfig, length: int) -> int:
    """Multiplications and additions of a forward pass over one row.

    Matrix products alone, the head's too, and all scores of attention: also those that a causal
    kernel leaves out.

    Args:
        config: of a decoder.
        length: tokens of the row.
    """
    model = _without_memory(config)
    row = torch.zeros(1, length, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(row, use_cache=False)
    return int(counter.get_total_flops())


def matching_width(config: HeadwayConfig, cost: Callable[[HeadwayConfig], int], target: int) -> int:
    """The least `intermediate_size` at which a decoder costs no less than another one.

    Args:
        config: of the decoder, which costs less now.
        cost: of a decoder; the same more for each unit of width.
        target: the cost of the other one.

    Returns:
        A multiple of 8, as the decoder's own widths are.
    """
    wider = deepcopy(config)
    assert config.intermediate_size is not None
    wider.intermediate_size = config.intermediate_size + 1
    now = cost(config)
    missing = ceil(Fraction(target - now, cost(wider) - now))
    return -(-(config.intermediate_size + missing) // 8) * 8


def _without_memory(config: HeadwayConfig) -> HeadwayForCausalLM:
    with torch.device("meta"):
        return HeadwayForCausalLM(config)
