"""What the tests of evaluation make on the spot: models, a tokenizer, task files."""

import json

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from headway import HeadwayConfig, HeadwayForCausalLM
from headway.corpora import train_bpe

SENTENCES = [
    "The old boat lay on the shore and waited for the tide to come back.",
    "A child asked why the sea is salt, and nobody had an answer.\nSo it asked again.",
    "Two friends walked over the hill; one of them sang, the other listened.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
]
VOCABULARY, CONTEXT = 300, 64
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
}


def tokenizer():
    """A byte-level BPE whose one special token begins and ends a text."""
    made = train_bpe(SENTENCES, VOCABULARY)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=end, eos_token=end)


def llama(seed=0):
    """A random Llama in eval mode, far from uniform."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model("llama", **SIZES, bos_token_id=0, eos_token_id=0)
    return loud(AutoModelForCausalLM.from_config(config).eval())


def own(mechanisms=()):
    """A random HeadwayForCausalLM in eval mode, far from uniform."""
    torch.manual_seed(0)
    return loud(HeadwayForCausalLM(HeadwayConfig(**SIZES, mechanisms=list(mechanisms))).eval())


@torch.no_grad()
def loud(model):
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(std=0.3)
    return model


def saved(model, folder):
    """The model and the tokenizer as a folder."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write_lines(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_task(folder, name, data, **fields):
    """A task file of lm-eval over JSON lines (YAML holds JSON)."""
    folder.mkdir(exist_ok=True)
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(data)},
            "cache_dir": str(folder / ".cache"),
        },
        "test_split": "test",
        **fields,
    }
    (folder / f"{name}.yaml").write_text(json.dumps(task))
    return folder


ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [
        {"metric": name, "aggregation": rule, "higher_is_better": False}
        for name, rule in (
            ("word_perplexity", "weighted_perplexity"),
            ("byte_perplexity", "weighted_perplexity"),
            ("bits_per_byte", "bits_per_byte"),
        )
    ],
}
"""What lm-eval's wikitext asks and counts, without its undoing of spaces around punctuation."""

PAIRS = {
    "output_type": "multiple_choice",
    "doc_to_text": "",
    "doc_to_target": 0,
    "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
"""As lm-eval's BLiMP."""

LAST_WORD = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{context}}",
    "doc_to_target": " {{continuation}}",
    "metric_list": [
        {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
    ],
}
"""As lm-eval's LAMBADA."""
