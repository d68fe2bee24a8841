"""Random models in float64 whose bounded caches are compared with the definition."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from headway import (
    KVShift,
    LayerShortcut,
    ResidualStream,
    ScalableSoftmax,
    SelectiveAttention,
    ShortConv,
    SinkLogit,
)
from headway.decoder import HeadwayConfig, HeadwayForCausalLM
from headway.mechanisms.base import Learned

EXACT = {"rtol": 0, "atol": 1e-9}
CLOSE = {"rtol": 0, "atol": 1e-5}
"""For BLOOM, whose softmax is in float32."""
COMPOSED = [
    ResidualStream(),
    KVShift(),
    ShortConv(),
    SelectiveAttention(),
    SinkLogit(),
    LayerShortcut(mode="add", width=16),
]
REPLACED = [ScalableSoftmax(), LayerShortcut(mode="replace", width=16)]


def tokens(batch, length, seed=1):
    return torch.randint(1, 61, (batch, length), generator=torch.Generator().manual_seed(seed))


def own(mechanisms=(), **changes):
    """A random float64 decoder of ours whose mechanisms stand away from the identity."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 61,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "rope_theta": 100.0,
    }
    made = HeadwayForCausalLM(HeadwayConfig(**(sizes | changes), mechanisms=list(mechanisms)))
    made = made.double().eval()
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, Learned):
                for parameter in module.parameters(recurse=False):
                    parameter.add_(torch.randn_like(parameter) * 0.5)
    return made


def family(model_type, **options):
    """A tiny float64 model of transformers."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    config = AutoConfig.for_model(model_type, **(sizes | options))
    if "attn_logit_softcapping" in options:
        # transformers' sdpa leaves the cap out, where it does not refuse it.
        config._attn_implementation = "eager"
    made = AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for weight in made.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
    return made


GROUPED = {"num_key_value_heads": 2}
