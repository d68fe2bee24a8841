"""Small sizes, drawn projections and models for the tests of single mechanisms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headway import QKV, Context, Dims, HeadwayConfig, HeadwayForCausalLM, Mechanism
from headway.mechanisms.base import MechanismModule
from properties.strategies import make_loud

DIMS = Dims(
    hidden_size=10, num_attention_heads=4, num_key_value_heads=2, head_dim=3, num_hidden_layers=4
)
POSITIONS = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 2, 3]])


def built(mechanism: Mechanism, dims: Dims = DIMS, loud: bool = True) -> Any:
    """The module of layer 1 in float64, its parameters drawn at random unless not `loud`."""
    torch.manual_seed(0)
    module = mechanism.build(dims, 1)
    assert isinstance(module, MechanismModule)
    if loud:
        make_loud(module)
    return module.double()


def projections(seed: int = 0, dims: Dims = DIMS) -> QKV:
    """Queries, keys and values for `POSITIONS`."""
    generator = torch.Generator().manual_seed(seed)
    groups = (dims.num_attention_heads, dims.num_key_value_heads, dims.num_key_value_heads)
    rows, length = POSITIONS.shape
    return QKV(
        *(
            torch.randn(rows, g, length, dims.head_dim, generator=generator, dtype=torch.float64)
            for g in groups
        )
    )


def context(**given: Any) -> Context:
    """Surroundings at `POSITIONS`, with hidden states."""
    generator = torch.Generator().manual_seed(9)
    hidden = torch.randn(*POSITIONS.shape, DIMS.hidden_size, generator=generator)
    return Context(**{"positions": POSITIONS, "hidden": hidden.double()} | given)


def tiny(*mechanisms: Mechanism, seed: int = 0, **options: Any) -> HeadwayForCausalLM:
    """A model in float64 with drawn weights; sizes as in `DIMS` unless given."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "vocab_size": 20,
        "hidden_size": 12,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "tie_word_embeddings": False,
    }
    model = HeadwayForCausalLM(HeadwayConfig(**sizes | options, mechanisms=mechanisms))
    make_loud(model)
    return model.double().eval()


def tokens(model: HeadwayForCausalLM, length: int = 7) -> Tensor:
    """Two rows of token ids."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(model.config.vocab_size, (2, length), generator=generator)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Equal up to float64 rounding."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)
