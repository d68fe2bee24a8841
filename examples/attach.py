"""Mechanisms in a model of transformers: attach, fine-tune, save, load, generate.

    python examples/attach.py                       # a tiny Llama, made and trained on the spot
    python examples/attach.py --model my-model      # a folder that transformers can load

The same model is fine-tuned twice, without and with mechanisms, on the same batches. One run of one
seed shows that mechanisms work here, not that they help: `headway retrofit` tells that.
"""

import argparse
import copy
import tempfile
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import headway
from headway import KVShift, SelectiveAttention
from headway.corpora import read_documents, train_bpe
from headway.corpora.tokenizer import END_OF_TEXT

LENGTH, VOCABULARY = 128, 512
MECHANISMS = [KVShift(init="identity"), SelectiveAttention(init="identity")]


def make_tokenizer(documents):
    """A byte-level BPE, learned from the text."""
    made = train_bpe(documents, VOCABULARY)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END_OF_TEXT)


def make_llama(tokenizer):
    """A tiny Llama with random weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def tokenize(documents, tokenizer):
    """All documents in one row: what to train on, and a last tenth that is held out."""
    text = (tokenizer.eos_token or "\n").join(documents)
    tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt", verbose=False)
    row = tokens["input_ids"][0]
    return row[: len(row) * 9 // 10], row[len(row) * 9 // 10 :]


def batch(tokens, generator, rows=8):
    """Windows from random places."""
    starts = torch.randint(len(tokens) - LENGTH, (rows, 1), generator=generator)
    return tokens[starts + torch.arange(LENGTH)]


@torch.no_grad()
def held_out_loss(model, held_out):
    """The mean loss of windows that are always the same, in nats per token."""
    windows = batch(held_out, torch.Generator().manual_seed(0), rows=64)
    return model.eval()(windows, labels=windows, use_cache=False).loss.item()


def train(model, tokens, steps, learning_rate):
    """Plain training of all parameters, the new ones with them."""
    new = dict(headway.mechanism_parameters(model)) if headway.attached(model) else {}
    old = [p for n, p in model.named_parameters() if n not in new]
    groups = [{"params": old}, {"params": list(new.values()), "lr": 10 * learning_rate}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(steps):
        windows = batch(tokens, generator)
        model(windows, labels=windows).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def compare(model, tokens, held_out, steps):
    """Fine-tune a copy without mechanisms and the model with them; the model comes back."""
    for name in ("without", "with"):
        tuned = copy.deepcopy(model) if name == "without" else headway.attach(model, MECHANISMS)
        before = held_out_loss(tuned, held_out)
        train(tuned, tokens, steps, learning_rate=1e-3)
        after = held_out_loss(tuned, held_out)
        print(f"{name:>7} mechanisms: held-out loss {before:.4f} -> {after:.4f} nats per token")
    new = sum(p.numel() for _, p in headway.mechanism_parameters(model))
    print(f"new parameters: {new:,} beside {model.num_parameters() - new:,}")
    return model


def save_and_load(model, tokenizer, held_out, folder):
    """Save a whole folder and the mechanisms alone; load both; the logits are the same."""
    ids = held_out[None, :LENGTH]
    with torch.no_grad():
        expected = model.eval()(ids).logits
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        loaded = headway.from_pretrained(folder)
        print(f"loaded: {', '.join(m.name for m in headway.attached(loaded))}")
        print(f"the same logits: {torch.equal(loaded(ids).logits, expected)}")

        headway.save_mechanisms(model, folder / "mechanisms")
        plain = headway.detach(model)
        print(f"the same logits after detaching: {torch.equal(plain(ids).logits, expected)}")
        headway.load_mechanisms(plain, folder / "mechanisms")
        print(f"the same logits after attaching: {torch.equal(plain(ids).logits, expected)}")
    return loaded


def write(model, tokenizer, prompt):
    """Some text, with a cache, as for any model of transformers."""
    torch.manual_seed(0)
    inputs = tokenizer(prompt, return_tensors="pt")["input_ids"]
    out = model.generate(inputs, max_new_tokens=60, do_sample=True, temperature=0.7, top_k=40)
    print(tokenizer.decode(out[0], skip_special_tokens=True))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="a folder with a model and its tokenizer")
    parser.add_argument("--first-steps", type=int, default=300, help="to train the tiny Llama")
    parser.add_argument("--steps", type=int, default=300, help="of fine-tuning, twice")
    parser.add_argument("--characters", type=int, default=2_000_000, help="how much text to read")
    parser.add_argument("--threads", type=int, default=1, help="more help larger models only")
    parser.add_argument("--prompt", default="def __init__(self, ", help="what to continue")
    asked = parser.parse_args(argv)
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    documents = read_documents(None, asked.characters)
    if asked.model:
        tokenizer = AutoTokenizer.from_pretrained(asked.model)
        model = AutoModelForCausalLM.from_pretrained(asked.model)
    else:
        tokenizer = make_tokenizer(documents)
        model = make_llama(tokenizer)
    tokens, held_out = tokenize(documents, tokenizer)
    if not asked.model:
        train(model, tokens, asked.first_steps, learning_rate=2e-3)
    model = compare(model, tokens, held_out, asked.steps)
    with tempfile.TemporaryDirectory() as folder:
        loaded = save_and_load(model, tokenizer, held_out, Path(folder))
        write(loaded, tokenizer, asked.prompt)


if __name__ == "__main__":
    main()
