"""Headway's mechanisms in a GPT that knows nothing of Headway's decoder.

Model, attention, cache and training loop are plain torch; what comes from Headway is marked
`# headway`. The same model is trained twice on real text, with and without mechanisms, from the
same weights and on the same batches, and then writes some text token by token.

    python examples/own_attention.py --steps 500

One run of one seed shows that mechanisms work here, not that they help: `headway compare` does.
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import nn

from headway import (
    QKV,
    Context,
    DecodeState,
    KVShift,
    ResidualStream,
    SelectiveAttention,
    Streams,
    build_mechanisms,
)
from headway.corpora import read_documents

WIDTH, LAYERS, HEADS, LENGTH = 96, 3, 4, 128
MECHANISMS = [KVShift(), ResidualStream(stream="value"), SelectiveAttention()]


class LayerCache:
    """Keys and values of earlier tokens, and what this layer's mechanisms remember."""

    def __init__(self):
        self.keys = self.values = torch.empty(1, HEADS, 0, WIDTH // HEADS)
        self.state = DecodeState()  # headway

    def append(self, k, v):
        self.keys = torch.cat([self.keys, k], dim=2)
        self.values = torch.cat([self.values, v], dim=2)
        return self.keys, self.values


class Attention(nn.Module):
    def __init__(self, mechanisms):
        super().__init__()
        self.mechanisms = mechanisms
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x, positions, streams, cache):
        B, T, C = x.shape
        raw = QKV(*self.qkv(x).view(B, T, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4))
        state = cache.state if cache else None
        ctx = Context(positions, hidden=x, streams=streams, state=state)  # headway
        q, k, v = self.mechanisms.prologue(raw, ctx)  # headway; rotation would come after it
        if cache:
            k, v = cache.append(k, v)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)
        y = self.mechanisms.epilogue(y, None, ctx)  # headway; nothing to do for these three
        return self.out(y.transpose(1, 2).reshape(B, T, C)), streams.push(raw)  # headway


class Block(nn.Module):
    def __init__(self, mechanisms):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = Attention(mechanisms)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x, positions, streams, cache):
        update, streams = self.attention(self.norm1(x), positions, streams, cache)
        x = x + update
        return x + self.mlp(self.norm2(x)), streams


class GPT(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self, mechanisms):
        super().__init__()
        self.bytes, self.places = nn.Embedding(256, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block(m) for m in mechanisms)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256)

    def forward(self, tokens, caches=None):
        past = caches[0].keys.shape[2] if caches else 0
        positions = torch.arange(past, past + tokens.shape[1]).expand(tokens.shape)
        x, streams = self.bytes(tokens) + self.places(positions), Streams()  # headway
        for i, block in enumerate(self.blocks):
            x, streams = block(x, positions, streams, caches[i] if caches else None)
        return self.head(self.norm(x))


def make_gpt(mechanisms, seed):
    torch.manual_seed(seed)
    sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS}
    built = build_mechanisms(mechanisms, **sizes)  # headway: one module a layer
    torch.manual_seed(seed)  # drawing the mechanisms moved the generator on
    return GPT(built)


def read_bytes(characters):
    """Python's documentation and sources as bytes: training text, held-out text."""
    text = "\n".join(read_documents(None, characters)).encode()
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    return data[: len(data) * 9 // 10], data[len(data) * 9 // 10 :]


def batch(data, generator, rows=8):
    starts = torch.randint(len(data) - LENGTH, (rows, 1), generator=generator)
    return data[starts + torch.arange(LENGTH + 1)]


def loss_of(model, windows):
    return F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model, data):
    return loss_of(model, batch(data, torch.Generator().manual_seed(0), rows=64)).item()


def train(model, data, held_out, steps, seed):
    """Train in place; the held-out losses before and after."""
    before, generator = held_out_loss(model, held_out), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    for _ in range(steps):
        loss_of(model, batch(data, generator)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    return before, held_out_loss(model, held_out)


@torch.no_grad()
def write(model, prompt, count):
    """The prompt and `count` drawn bytes after it, and the logits of each step, `(count, 256)`."""
    caches, steps, generator = [LayerCache() for _ in range(LAYERS)], [], torch.Generator()
    tokens = new = prompt
    for _ in range(count):
        steps.append(model(new, caches)[0, -1])  # the prompt at once, then one token a step
        new = (steps[-1] / 0.7).softmax(-1).multinomial(1, generator=generator)[None]
        tokens = torch.cat([tokens, new], dim=1)
    return tokens, torch.stack(steps)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=500, help="training steps of each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="more help larger models only")
    parser.add_argument("--characters", type=int, default=4_000_000, help="how much text to read")
    parser.add_argument("--prompt", default="def __init__(self, ", help="what to continue")
    asked = parser.parse_args(argv)
    torch.set_num_threads(asked.threads)
    data, held_out = read_bytes(asked.characters)
    for name, mechanisms in (("without", []), ("with", MECHANISMS)):
        model, started = make_gpt(mechanisms, asked.seed), time.perf_counter()
        before, after = train(model, data, held_out, asked.steps, asked.seed)
        size, seconds = sum(p.numel() for p in model.parameters()), time.perf_counter() - started
        print(
            f"{name:>7} mechanisms: held-out loss {before:.4f} -> {after:.4f} nats per byte, "
            f"{size:,} parameters, {seconds:.0f} s"
        )
    prompt = torch.tensor([list(asked.prompt.encode())])
    tokens, steps = write(model, prompt, min(80, LENGTH - prompt.shape[1]))
    with torch.no_grad():
        whole = model(tokens[:, :-1])[0, prompt.shape[1] - 1 :]
    print(f"largest difference, step by step against at once: {(steps - whole).abs().max():.1e}")
    print(bytes(tokens[0].tolist()).decode(errors="replace"))


if __name__ == "__main__":
    main()
