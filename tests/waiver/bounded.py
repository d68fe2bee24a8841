"""What a bounded cache must compute, written down slowly and apart from it.

Query t sees the kept tokens that its window has left, then its last `window` tokens, itself
counted; all of them are numbered anew in this order, from 0.
"""

from dataclasses import replace

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from headway.decoder import forward_pass, model
from headway.mechanisms.context import QKV


def seen_by(t, window, keep):
    """Columns that query t sees, in order."""
    first = max(0, t - window + 1)
    return [p for p in sorted(keep) if p < first] + list(range(first, t + 1))


def rotated(x, place, theta, width):
    """One vector `(..., D)` at a place, its first `width` channels turned in half-split pairs."""
    half = width // 2
    angle = place * theta ** (-torch.arange(half, dtype=torch.float64) * 2 / width)
    low, high, rest = x[..., :half], x[..., half:width], x[..., width:]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([low * cos - high * sin, high * cos + low * sin, rest], dim=-1)


class Float64Rotary(torch.nn.Module):
    """transformers counts angles in float32; this is the same in float64."""

    def __init__(self, width, theta):
        super().__init__()
        steps = torch.arange(0, width, 2, dtype=torch.float64)
        self.register_buffer("inv_freq", theta ** (-steps / width), persistent=False)

    def forward(self, x, position_ids):
        angles = position_ids[..., None].double() * self.inv_freq
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def float64_llama(seed=0):
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=None,
        rope_parameters={"rope_theta": 100.0, "rope_type": "default"},
    )
    made = AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for weight in made.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
    made.model.rotary_emb = Float64Rotary(8, 100.0)
    return made


@torch.no_grad()
def llama_reference(made, ids, window, keep):
    """Logits `(T, V)` of one stream `(T,)`, token by token from the weights alone."""
    stack, heads, groups, width = made.model, 4, 2, 8
    keys = [[] for _ in stack.layers]
    values = [[] for _ in stack.layers]
    logits = []
    for t, token in enumerate(ids):
        x = stack.embed_tokens.weight[token]
        seen = seen_by(t, window, keep)
        for layer, k_held, v_held in zip(stack.layers, keys, values, strict=True):
            a = layer.self_attn
            h = layer.input_layernorm(x)
            q = (a.q_proj.weight @ h).view(heads, width)
            k_held.append((a.k_proj.weight @ h).view(groups, width))
            v_held.append((a.v_proj.weight @ h).view(groups, width))
            q = rotated(q, len(seen) - 1, 100.0, width)
            k = torch.stack([rotated(k_held[p], i, 100.0, width) for i, p in enumerate(seen)])
            v = torch.stack([v_held[p] for p in seen])
            k, v = (y.repeat_interleave(heads // groups, dim=1) for y in (k, v))
            weights = (torch.einsum("hd,shd->hs", q, k) * width**-0.5).softmax(-1)
            x = x + a.o_proj.weight @ torch.einsum("hs,shd->hd", weights, v).flatten()
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        logits.append(made.lm_head.weight @ stack.norm(x))
    return torch.stack(logits)


@torch.no_grad()
def own_reference(made, ids, window, keep, monkeypatch):
    """Logits `(B, T, V)` of our decoder in one pass without a cache, its attention replaced."""
    config = made.config

    def attend(run, q, k, v, slot, need_lse=True):
        k, v = (y.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for y in (k, v))
        rows, sums = [], []
        for t in range(q.shape[2]):
            seen = seen_by(t, window, keep)
            places = list(range(len(seen)))
            here, there = q[:, :, t], k[:, :, seen]
            if config.position == "rope":
                width = q.shape[-1]
                here = rotated(here, places[-1], config.rope_theta, width)
                turned = [rotated(there[:, :, i], i, config.rope_theta, width) for i in places]
                there = torch.stack(turned, dim=2)
            scores = torch.einsum("bhd,bhsd->bhs", here, there) * run.scale
            if config.position == "alibi":
                distance = places[-1] - torch.tensor(places)
                scores = scores - run.visible.slopes[:, None] * distance
            sums.append(scores.logsumexp(-1))
            rows.append(torch.einsum("bhs,bhsd->bhd", scores.softmax(-1), v[:, :, seen]))
        return torch.stack(rows, dim=2), torch.stack(sums, dim=2)

    def start(*args, **kwargs):
        run = forward_pass.start_pass(*args, **kwargs)
        places = [len(seen_by(t, window, keep)) - 1 for t in range(run.positions.shape[1])]
        return replace(run, positions=torch.tensor(places).expand_as(run.positions))

    with monkeypatch.context() as patch:
        # What it is given is not turned yet.
        patch.setattr(forward_pass.ForwardPass, "rotate", lambda run, *qkv: QKV(*qkv))
        patch.setattr(forward_pass.ForwardPass, "attend", attend)
        patch.setattr(model, "start_pass", start)
        return made(ids, use_cache=False).logits


@torch.no_grad()
def family_reference(made, ids, window, keep, rotations):
    """Logits `(B, T, V)` of a model of transformers in one pass, its attention replaced.

    The keys arrive rotated at their columns and are turned from there, by what was measured.
    """

    def attention(module, q, k, v, mask, scaling=None, softcap=None, **kwargs):
        rotation = rotations[module.layer_idx]
        scaling = q.shape[-1] ** -0.5 if scaling is None else scaling
        rows = []
        for t in range(q.shape[2]):
            seen = seen_by(t, window, keep)
            there = k[:, :, seen]
            if rotation is not None:
                by = torch.tensor([[t - len(seen) + 1 + i - p for i, p in enumerate(seen)]])
                there = rotation.turn(there, rotation.waves(by))
            repeats = q.shape[1] // k.shape[1]
            there = there.repeat_interleave(repeats, dim=1)
            scores = torch.einsum("bhd,bhsd->bhs", q[:, :, t], there) * scaling
            if softcap is not None:
                scores = softcap * (scores / softcap).tanh()
            shown = v[:, :, seen].repeat_interleave(repeats, dim=1)
            sink = kwargs.get("s_aux")
            if sink is not None:
                sink = sink[None, :, None].expand(len(scores), -1, 1)
                weights = torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]
            else:
                weights = scores.softmax(-1)
            rows.append(torch.einsum("bhs,bhsd->bhd", weights, shown))
        return torch.stack(rows, dim=1), None

    ALL_ATTENTION_FUNCTIONS["bounded_reference"] = attention
    ALL_MASK_ATTENTION_FUNCTIONS["bounded_reference"] = lambda *args, **kwargs: None
    before = made.config._attn_implementation
    try:
        made.set_attn_implementation("bounded_reference")
        return made(ids, use_cache=False).logits
    finally:
        made.set_attn_implementation(before)


@torch.no_grad()
def streamed(made, ids, cache, first=1, **options):
    """Logits `(B, T, V)`, the first `first` tokens fed together and then one by one."""
    parts = [ids[:, :first], *ids[:, first:].split(1, dim=1)]
    return torch.cat([made(x, past_key_values=cache, **options).logits for x in parts], dim=1)
