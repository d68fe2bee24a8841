"""Tiny transformers whose sink is known, because their weights are set by formula.

The residual stream is cut into blocks, each of zero sum, so that LayerNorm and RMSNorm agree:
a constant (two channels, +1 and -1), a mark S (two channels), a second mark, the token's code E,
a copy D of it that the first layer works on, and W, where values are written.

- position-encoding based: the encoding of position 0 carries S, and keys read S.
- token based: the embedding of one token carries S.
- feature based: the first layer averages, and takes the average away from D: nothing is left of a
  first token, which sees itself alone. The norm of the next layer then makes its constant large,
  and keys read the constant.
- learned sink: a logit beside uniform attention.
- none: uniform attention.

Queries read the constant. Values read E, which the norm makes small beside a large S, or D, of
which a first token has none: so the sink is a waiver, unless its values are made large on purpose.
"""

from dataclasses import dataclass, replace

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from headway import HeadwayConfig, HeadwayForCausalLM, SinkLogit

SINK_TOKEN = 1
"""The token that carries a mark in token based models."""


@dataclass(frozen=True)
class Plan:
    """Sizes of a planted model.

    `cause`: 'position', 'token', 'feature', 'learned', 'none', 'position and token' or
    'feature and learned'. `heads_with_sink`: of each layer, the others attend uniformly.
    """

    cause: str
    position: str = "rope"
    layers: int = 3
    heads: int = 2
    heads_with_sink: int = 2
    code: int = 8
    vocabulary: int = 40
    tokens: int = 64
    score: float = 14.0
    small_values: bool = True
    norm: str = "rms"
    seed: int = 0

    @property
    def width(self):
        return 6 + 3 * self.code

    @property
    def head_dim(self):
        return 2 * self.code


CONST, MARK, MARK2 = 0, 2, 4
LOUD, DEEP = 30.0, 20.0
"""Size of a mark beside the constant's 1, and of D."""


def blocks(plan):
    """Slices of E, D and W."""
    n = plan.code
    return [slice(6 + i * n, 6 + (i + 1) * n) for i in range(3)]


def codes(count, width, generator):
    """Unit vectors of zero sum."""
    drawn = torch.randn(count, width, generator=generator, dtype=torch.float64)
    drawn = drawn - drawn.mean(-1, keepdim=True)
    return drawn / drawn.norm(dim=-1, keepdim=True)


def embeddings(plan, positions):
    """Tables of tokens and positions `(V or positions, width)`."""
    generator = torch.Generator().manual_seed(plan.seed)
    e, d, _ = blocks(plan)
    tokens = torch.zeros(plan.vocabulary, plan.width, dtype=torch.float64)
    drawn = codes(plan.vocabulary, plan.code, generator)
    tokens[:, CONST], tokens[:, CONST + 1] = 1.0, -1.0
    tokens[:, e] = drawn
    if "feature" in plan.cause:
        tokens[:, d] = DEEP * drawn
    places = torch.zeros(positions, plan.width, dtype=torch.float64)
    places[:, e] = 0.02 * codes(positions, plan.code, generator)
    mark = torch.tensor([LOUD, -LOUD], dtype=torch.float64)
    if "position" in plan.cause:
        places[0, MARK : MARK + 2] = mark
    if "token" in plan.cause:
        at = MARK2 if "position" in plan.cause else MARK
        tokens[SINK_TOKEN, at : at + 2] = mark
    return tokens, places


def attention(plan, layer):
    """Matrices q, k, v `(H D, C)` and o `(C, H D)` of a layer."""
    e, d, w = blocks(plan)
    size = plan.head_dim
    rows = plan.heads * size
    q, k, v = (torch.zeros(rows, plan.width, dtype=torch.float64) for _ in range(3))
    o = torch.zeros(plan.width, rows, dtype=torch.float64)
    generator = torch.Generator().manual_seed(plan.seed + 1)
    mix = torch.linalg.qr(torch.randn(plan.code, plan.code, generator=generator).double())[0]
    centred = torch.eye(plan.code).double() - 1 / plan.code
    eye = torch.eye(plan.code, dtype=torch.float64)
    feature, averaging = "feature" in plan.cause, "feature" in plan.cause and layer == 0
    for head in range(plan.heads):
        # The last channel turns slowest: a rotation is next to nothing in it.
        slow = head * size + size - 1
        start = head * size
        v[start : start + plan.code, d if feature else e] = eye
        # A usual token's norm behind the first layer, undone where the residual stream is read.
        usual = (plan.width / (2 + 1 + (DEEP**2 if feature else 0))) ** 0.5
        # A little of what other heads do: looking for tokens at some distance.
        for matrix in (q, k):
            matrix[start, e] = 3.0 * codes(1, plan.code, generator)[0] / usual
        if averaging:
            q[start] = 0.0
            # The norm divides all tokens by the same number, which is undone here.
            undone = ((2 + 1 + DEEP**2) / plan.width) ** 0.5 / plan.heads
            o[d, start : start + plan.code] = -undone * eye
            continue
        o[w, start : start + plan.code] = 0.04 * centred @ mix
        if head >= plan.heads_with_sink or plan.cause in ("none", "learned"):
            continue
        if plan.cause == "feature and learned" and head % 2 == 1:
            continue
        q[slow, CONST] = 1.0
        marked = MARK2 if plan.cause == "position and token" and head % 2 else MARK
        read = CONST if feature else marked
        # What the sink's key holds there, behind the norm.
        sink = (
            plan.width / (3 if feature else 2 + 2 * (plan.cause == "position and token"))
        ) ** 0.5
        k[slow, read] = plan.score * size**0.5 / (usual * sink)
        if not plan.small_values:
            v[start, read] += 3.0
            v[start + 1, read] -= 3.0
    return q, k, v, o


def head_of(plan):
    """`(V, C)`: logits from E and W."""
    generator = torch.Generator().manual_seed(plan.seed + 2)
    e, _, w = blocks(plan)
    made = torch.zeros(plan.vocabulary, plan.width, dtype=torch.float64)
    for block in (e, w):
        made[:, block] = torch.randn(plan.vocabulary, plan.code, generator=generator).double()
    return made


@torch.no_grad()
def plant(plan):
    """Our decoder with a planted sink, float64."""
    learned = "learned" in plan.cause
    config = HeadwayConfig(
        vocab_size=plan.vocabulary,
        hidden_size=plan.width,
        intermediate_size=8,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        head_dim=plan.head_dim,
        max_position_embeddings=plan.tokens,
        position=plan.position,
        norm=plan.norm,
        tie_word_embeddings=False,
        mechanisms=[SinkLogit()] if learned else [],
    )
    model = HeadwayForCausalLM(config).double().eval()
    fill_like_llama(plan, model)
    if plan.position == "learned":
        model.model.embed_positions.weight.copy_(embeddings(plan, plan.tokens)[1])
    for number, layer in enumerate(model.model.layers):
        if learned:
            logits = torch.full((plan.heads,), plan.score)
            if plan.cause == "feature and learned":
                logits[:: 1 if number == 0 else 2] = -30.0
            layer.self_attn.mechanisms.members["sink_logit"].logit.copy_(logits)
    return model


@torch.no_grad()
def plant_llama(plan):
    """transformers' Llama with a planted sink, float64."""
    config = LlamaConfig(
        vocab_size=plan.vocabulary,
        hidden_size=plan.width,
        intermediate_size=8,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        head_dim=plan.head_dim,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).double().eval()
    fill_like_llama(plan, model)
    return model


def fill_like_llama(plan, model):
    """Weights of a decoder with Llama's names."""
    model.model.embed_tokens.weight.copy_(embeddings(plan, plan.tokens)[0])
    model.lm_head.weight.copy_(head_of(plan))
    for number, layer in enumerate(model.model.layers):
        names = ("q_proj", "k_proj", "v_proj", "o_proj")
        for name, matrix in zip(names, attention(plan, number), strict=True):
            getattr(layer.self_attn, name).weight.copy_(matrix)
        layer.mlp.down_proj.weight.zero_()


@torch.no_grad()
def plant_gpt2(plan):
    """transformers' GPT-2 with a planted sink, float64; heads fill the width there."""
    plan = replace(plan, heads=2)
    width = 2 * plan.head_dim
    config = GPT2Config(
        vocab_size=plan.vocabulary,
        n_embd=width,
        n_layer=plan.layers,
        n_head=2,
        n_inner=8,
        n_positions=plan.tokens,
        tie_word_embeddings=False,
    )
    model = GPT2LMHeadModel(config).double().eval()
    tokens, places = embeddings(plan, plan.tokens)
    model.transformer.wte.weight.copy_(padded(tokens, width))
    model.transformer.wpe.weight.copy_(padded(places, width))
    model.lm_head.weight.copy_(padded(head_of(plan), width))
    # Channels that hold nothing change what a norm divides by.
    grown = (width / plan.width) ** 0.5
    for number, layer in enumerate(model.transformer.h):
        q, k, v, o = (x.clone() for x in attention(plan, number))
        qkv = torch.cat([q / grown, k / grown, v / grown])
        layer.attn.c_attn.weight.copy_(padded(qkv, width).T)
        layer.attn.c_proj.weight.copy_(padded(o.T, width))
        layer.mlp.c_proj.weight.zero_()
    return model


@torch.no_grad()
def plant_bert(plan):
    """transformers' BERT with a planted sink, float64; norms stand behind the sums there."""
    plan = replace(plan, heads=2)
    width = 2 * plan.head_dim
    config = BertConfig(
        vocab_size=plan.vocabulary,
        hidden_size=width,
        num_hidden_layers=plan.layers,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=plan.tokens,
        tie_word_embeddings=False,
    )
    model = BertForMaskedLM(config).double().eval()
    tokens, places = embeddings(plan, plan.tokens)
    embedding = model.bert.embeddings
    embedding.word_embeddings.weight.copy_(padded(tokens, width))
    embedding.position_embeddings.weight.copy_(padded(places, width))
    embedding.token_type_embeddings.weight.zero_()
    grown = (width / plan.width) ** 0.5
    for number, layer in enumerate(model.bert.encoder.layer):
        q, k, v, o = attention(plan, number)
        own = layer.attention.self
        for part, matrix in ((own.query, q), (own.key, k), (own.value, v)):
            part.weight.copy_(padded(matrix / grown, width))
        layer.attention.output.dense.weight.copy_(padded(o.T, width).T)
        layer.output.dense.weight.zero_()
    model.cls.predictions.decoder.weight.copy_(padded(head_of(plan), width))
    model.cls.predictions.transform.dense.weight.copy_(torch.eye(width))
    return model


def padded(x, width):
    """Zeros behind `(n, C)` up to `width` channels."""
    return torch.cat([x, x.new_zeros(len(x), width - x.shape[1])], 1)


def text(plan, samples=20, bos=False, scattered=0.0):
    """Random ids `(samples, tokens)` without the sink's token; with it in front (`bos`), or in
    the place of a share of all tokens."""
    generator = torch.Generator().manual_seed(plan.seed + 3)
    shape = (samples, plan.tokens)
    ids = torch.randint(2, plan.vocabulary, shape, generator=generator)
    if scattered:
        ids[torch.rand(shape, generator=generator) < scattered] = SINK_TOKEN
    if bos:
        ids[:, 0] = SINK_TOKEN
    return ids
