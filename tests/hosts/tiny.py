"""Tiny models of every family, and lists of mechanisms to put into them."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from headway import (
    AttentionResidual,
    KVShift,
    LayerShortcut,
    OutputGate,
    ResidualStream,
    ScalableSoftmax,
    ScalarMix,
    SelectiveAttention,
    ShortConv,
    SinkLogit,
    SmearedKey,
)
from headway.hosts.family import families, family_of
from headway.mechanisms.base import Learned

VOCABULARY = 61
GROUPED = {"num_key_value_heads": 2, "intermediate_size": 48}
WINDOWS = {"sliding_window": 5}
SIZES = {
    "llama": GROUPED,
    "mistral": GROUPED | WINDOWS,
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 12},
    "smollm3": GROUPED | {"no_rope_layers": [1, 0, 1]},
    "olmo2": GROUPED,
    "granite": GROUPED | {"residual_multiplier": 0.7, "attention_multiplier": 0.3},
    "gemma2": GROUPED | WINDOWS | {"head_dim": 8, "attn_logit_softcapping": 4.0},
    "gemma3_text": GROUPED
    | WINDOWS
    | {"head_dim": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "phi3": GROUPED | {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}},
    "gpt_neox": {"intermediate_size": 48},
    "gpt2": {"max_position_embeddings": 64},
    "opt": {"ffn_dim": 48, "max_position_embeddings": 64, "word_embed_proj_dim": 32},
    "bloom": {},
    "gpt_oss": GROUPED
    | WINDOWS
    | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
}

IDENTITY = {
    "kv_shift": [KVShift(init="identity")],
    "smeared_key": [SmearedKey(init="identity")],
    "residual_stream": [ResidualStream(scale="head", init="identity")],
    "short_conv": [ShortConv(init="identity")],
    "selective_attention": [SelectiveAttention(init="identity")],
    "scalable_softmax": [ScalableSoftmax(init="identity", bias=True)],
    "sink_logit": [SinkLogit(init="identity")],
    "output_gate": [OutputGate(init="identity")],
    "attention_residual": [AttentionResidual(total="count")],
    "layer_shortcut": [LayerShortcut(mode="add", init="identity", width=16)],
    "scalar_mix": [ScalarMix(init="identity")],
    "attention composed": [
        KVShift(init="identity", targets=("key",)),
        ResidualStream(scale="layer", init="identity", source="first"),
        SelectiveAttention(init="identity", token="mlp", key=True),
        OutputGate(init="identity", granularity="head"),
    ],
    "everything": [
        KVShift(init="identity"),
        ResidualStream(scale="head", init="identity"),
        ShortConv(init="identity", targets=("query", "value")),
        SelectiveAttention(init="identity", token="frequency"),
        ScalableSoftmax(init="identity", bias=True),
        SinkLogit(init="identity"),
        OutputGate(init="identity"),
        AttentionResidual(total="count"),
        LayerShortcut(mode="add", init="identity", width=16),
    ],
}
LOUD = IDENTITY | {
    "replaced": [KVShift(), LayerShortcut(width=16, features="shared_mlp"), ScalarMix()],
    "token shortcut": [SelectiveAttention(), LayerShortcut(width=16, reach="token", mode="add")],
}
"""Lists to decode with; the values of their parameters are drawn anew."""

assert set(SIZES) == set(families()), "each family needs a tiny model here"


def tiny_config(model_type: str, **options):
    """A configuration with 3 layers and 4 heads."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3}
    sizes |= {
        "num_attention_heads": 4,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    config = AutoConfig.for_model(model_type, **(sizes | SIZES[model_type] | options))
    for name in ("dropout", "attention_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return config


def tiny(model_type: str, seed: int = 0, **options):
    """A model in eval mode, with weights that make attention neither flat nor one-hot."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type, **options)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "embed" not in name and "wte" not in name:
                weight.normal_(std=1.2 * 32**-0.5)
            elif weight.dim() > 1:
                weight.normal_(std=0.7)
            elif "norm" not in name and "ln" not in name:
                weight.normal_(std=0.2)
    return model


def fitting(model_type: str, mechanisms):
    """The list without what the family refuses."""
    config = tiny_config(model_type)
    return [m for m in mechanisms if not family_of(config).refuses(config, m)]


@torch.no_grad()
def make_loud(model, seed: int = 1):
    """Draw the mechanisms' own numbers far from the identity."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "headway" in name.split(".") and parameter.dim() > 1:
            parameter.add_(torch.randn_like(parameter) * 0.8 * parameter.shape[-1] ** -0.5)
    for module in model.modules():
        if isinstance(module, Learned):
            for own in module.parameters(recurse=False):
                own.clamp_(-2, 2).add_(0.3 * torch.randn_like(own))
        if hasattr(module, "set_token_counts"):
            module.set_token_counts(torch.randint(1, 1000, (VOCABULARY,)))
    return model


def tokens(*shape: int, seed: int = 0):
    """Token ids of this shape, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, shape, generator=generator)
