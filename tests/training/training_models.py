"""A tiny decoder and text of known structure for the tests of training."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from headway import HeadwayConfig, HeadwayForCausalLM, KVShift
from headway.corpora.batches import Windows
from headway.mechanisms.base import Mechanism
from headway.training.initialise import seed_weights
from headway.training.recipe import Recipe


def tiny(*mechanisms: Mechanism, seed: int = 0, **changes: Any) -> HeadwayForCausalLM:
    """A decoder of 11 tokens, drawn by `seed_weights`."""
    sizes = {
        "vocab_size": 11,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 160,
        "initializer_range": 0.1,
    }
    config = HeadwayConfig(**(sizes | changes), mechanisms=list(mechanisms))
    model = HeadwayForCausalLM(config)
    seed_weights(model, seed)
    return model


def counting_windows(seed: int = 0) -> Windows:
    """Text in which token t + 1 follows token t, so that one token tells the next."""
    return Windows(np.arange(2_000, dtype=np.uint16) % 11, 16, 4, seed)


def recipe(**changes: Any) -> Recipe:
    """A short recipe."""
    return Recipe(**({"steps": 20, "learning_rate": 1e-2, "weight_decay": 0.1} | changes))


def induction_model(tokens: int) -> HeadwayForCausalLM:
    """One layer that looks for the token after the last occurrence, and says it.

    Tokens are one-hot. KV shifting puts the previous token into every key, so that a query finds
    the place after its own token's last occurrence; values and output carry that place's token.
    """
    model = tiny(
        KVShift(init="induction"),
        vocab_size=tokens,
        hidden_size=tokens,
        intermediate_size=1,
        num_hidden_layers=1,
        num_attention_heads=1,
        attention_multiplier=1.0,
        position="none",
        norm="none",
    )
    with torch.no_grad():
        for linear in model.modules():
            if isinstance(linear, torch.nn.Linear):
                linear.weight.zero_()
        attention = model.model.layers[0].self_attn
        torch.nn.init.eye_(model.model.embed_tokens.weight)
        for projection, factor in (("q", 40), ("k", 1), ("v", 1), ("o", 2)):
            weight = getattr(attention, f"{projection}_proj").weight
            weight.copy_(factor * torch.eye(tokens))
    return model


def random_windows(rows: int, length: int, tokens: int = 11) -> Tensor:
    """Windows `(rows, length + 1)`."""
    drawn = torch.Generator().manual_seed(3)
    return torch.randint(0, tokens, (rows, length + 1), generator=drawn)
