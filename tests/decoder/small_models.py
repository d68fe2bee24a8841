"""Small decoders whose mechanisms all matter: their parameters stand away from any identity."""

from typing import Any

import torch
from torch import Tensor

from headway import (
    HeadwayConfig,
    HeadwayForCausalLM,
    KVShift,
    LayerShortcut,
    ResidualStream,
    SelectiveAttention,
    SinkLogit,
)
from headway.mechanisms.base import Learned, Mechanism

PLAIN: list[Mechanism] = []
COMPOSED: list[Mechanism] = [
    ResidualStream(),
    KVShift(),
    SelectiveAttention(),
    SinkLogit(),
    LayerShortcut(mode="add", width=16),
]
REPLACED: list[Mechanism] = [KVShift(), LayerShortcut(mode="replace", width=16)]
LISTS = {"plain": PLAIN, "composed": COMPOSED, "replaced": REPLACED}


def small(mechanisms: list[Mechanism], seed: int = 0, **changes: Any) -> HeadwayForCausalLM:
    """A random float64 decoder in evaluation mode, with grouped heads."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": 61,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "pad_token_id": 0,
    }
    config = HeadwayConfig(**(sizes | changes), mechanisms=mechanisms)
    model = HeadwayForCausalLM(config).double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Learned):
                for parameter in module.parameters(recurse=False):
                    parameter.add_(torch.randn_like(parameter) * 0.5)
    return model


def tokens(batch: int, length: int, seed: int = 1) -> Tensor:
    """Random ids `(batch, length)`, none of them the pad."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 61, (batch, length), generator=generator)
