"""Small random models with their tokenizers, and profiles of them, for the tests of sinks."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers import PreTrainedTokenizerFast as Fast

import headway
from headway import HeadwayConfig, HeadwayForCausalLM, SinkProfile
from headway.corpora import train_bpe

SENTENCES = (
    "The old boat lay on the shore and waited for the tide to come back.",
    "A child asked why the sea is salt, and nobody had an answer.\nSo it asked again.",
    "Two friends walked over the hill; one of them sang, the other listened.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
)
VOCABULARY, CONTEXT = 300, 64
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
}
HOSTILE = (
    "</script><img src=x onerror=alert(1)>%{x}",
    "\n",
    "\ud800",
    "x" * 5000,
    "\ufffd",
    "",
    "  ",
    "\u202eabc",
    "{y}&amp;<b>",
    '=HYPERLINK("x")',
    "`${1}`",
    "<!--",
)
"""Token texts that could break a page or a file."""


@cache
def tokenizer(bos: str | None = "<|endoftext|>", around: bool = False) -> Any:
    """A byte-level BPE.

    Args:
        bos: its token that begins a text, if it has one.
        around: it puts [CLS] in front of a text and [SEP] behind it by itself.
    """
    made = train_bpe(SENTENCES, VOCABULARY - 2)
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]"} if around else {}
    fast = Fast(tokenizer_object=made, bos_token=bos, eos_token="<|endoftext|>", **names)
    if around:
        ids = [(name, fast.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")]
        fast.backend_tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=ids
        )
    return fast


@torch.no_grad()
def model(kind: str, **changes: Any) -> Any:
    """A random model in evaluation mode, far from uniform; 'headway' is our own."""
    torch.manual_seed(0)
    if kind == "headway":
        made: Any = HeadwayForCausalLM(HeadwayConfig(**SIZES | changes))
    else:
        loader = AutoModelForMaskedLM if kind in ("bert", "roberta") else AutoModelForCausalLM
        ends: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
        made = loader.from_config(AutoConfig.for_model(kind, **SIZES | ends | changes))
    for weight in made.parameters():
        if weight.dim() > 1:
            weight.normal_(std=0.3)
    return made.eval()


def saved(made: Any, folder: Path, around: bool = False) -> str:
    """The folder of a model and its tokenizer."""
    made.save_pretrained(folder)
    tokenizer(around=around).save_pretrained(folder)
    return str(folder)


@cache
def profile(tokens: int = 20, samples: int = 5) -> SinkProfile:
    """Of a random Llama."""
    ids = torch.randint(
        VOCABULARY - 2, (samples, tokens), generator=torch.Generator().manual_seed(0)
    )
    return headway.profile_sinks(model("llama"), ids, tokenizer=tokenizer(), bos_added=False)


def with_sink(of: SinkProfile, layer: int, head: int, position: int) -> SinkProfile:
    """The profile with a strong sink of small value in one head."""
    changed: dict[str, Tensor] = {}
    for name, value in (("received", 0.9), ("sink_rate", 1.0), ("written_norm", 0.01)):
        changed[name] = getattr(of, name).clone()
        changed[name][layer, head, position] = value
    return replace(of, **changed)


def hostile(of: SinkProfile) -> SinkProfile:
    """The profile with texts that could break a page."""
    texts = tuple(HOSTILE[i % len(HOSTILE)] for i in range(of.tokens))
    first = of.first._replace(text=HOSTILE[0], ids=(3,))
    return replace(of, token_texts=texts, first=first, model=HOSTILE[0])
