"""The profile says what the weights say that a model gives out itself."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from headway import HeadwayConfig, HeadwayForCausalLM, KVShift, SinkLogit, attach
from headway.decoder.observer import Observer
from headway.errors import HeadwayError
from headway.ops import received
from headway.ops.attention import scores as all_scores
from headway.waiver.measure import lower_median
from headway.waiver.profile import profile_sinks
from headway.waiver.watch import run, watching

VOCABULARY, LENGTH, LAYERS, HEADS = 61, 19, 2, 4
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA = SIZES | {"intermediate_size": 48, "num_key_value_heads": 2}


def llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**LLAMA))


MODELS: dict[str, Callable[[], Any]] = {
    "llama": llama,
    "mistral window": lambda: MistralForCausalLM(MistralConfig(**LLAMA, sliding_window=5)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**LLAMA, head_dim=8, sliding_window=6, attn_logit_softcapping=1.0)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=LAYERS,
            n_head=HEADS,
            n_positions=32,
            bos_token_id=None,
            eos_token_id=None,
        )
    ),
    "gpt-oss": lambda: GptOssForCausalLM(
        GptOssConfig(**LLAMA, head_dim=8, sliding_window=7, num_local_experts=4)
    ),
    "bert": lambda: BertForMaskedLM(
        BertConfig(**SIZES | {"pad_token_id": 0}, intermediate_size=48, max_position_embeddings=32)
    ),
    "bloom": lambda: BloomForCausalLM(
        BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=LAYERS, n_head=HEADS)
    ),
    "attached llama": lambda: attach(llama(), [KVShift(init="identity")]),
    "attached bloom": lambda: attach(MODELS["bloom"](), [KVShift(init="identity")]),
}


def ids(rows: int = 3, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY, (rows, LENGTH), generator=generator)


def made(name: str) -> Any:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for parameter in model.parameters():
        # Larger weights, so that attention is far from uniform.
        parameter.data.mul_(3 if parameter.dim() > 1 else 1).add_(
            0.1 * torch.randn_like(parameter) * (parameter.dim() == 1)
        )
    return model


@pytest.mark.parametrize("name", MODELS)
def test_received_attention_is_that_of_the_weights(name: str) -> None:
    model = made(name)
    found = profile_sinks(model, ids(), batch_size=2)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(ids(), attention_mask=torch.ones_like(ids()), output_attentions=True)
    weights = torch.stack(out.attentions, 1)[..., :LENGTH]
    assert weights.shape == (3, LAYERS, HEADS, LENGTH, LENGTH)
    viewers = (weights > 0).any(2, keepdim=True).sum(-2)
    alpha = weights.sum(-2) / viewers
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found.received, alpha.mean(0), **close)
    torch.testing.assert_close(found.sink_rate, (alpha > 0.3).float().mean(0))
    torch.testing.assert_close(found.sink_by_sample, (alpha > 0.3).float().mean(2))
    torch.testing.assert_close(found.peak, weights.amax(-2).mean(0), **close)
    share = (weights > 0.3).sum(-2) / viewers
    torch.testing.assert_close(found.share_over, share.mean(0), **close)
    torch.testing.assert_close(found.mass, weights.sum(-1).mean((0, -1)), **close)
    entropy = -(weights * weights.clamp(min=1e-30).log()).sum(-1)
    torch.testing.assert_close(found.entropy, entropy.mean(0), rtol=1e-3, atol=1e-4)
    assert found.causal == (name != "bert")
    assert found.layers == tuple(sorted(found.layers))
    assert not found.written_norm.isnan().any()


def test_norms_are_those_of_llama() -> None:
    model = made("llama")
    seen: dict[int, Tensor] = {}
    for layer, block in enumerate(model.model.layers):
        block.self_attn.v_proj.register_forward_hook(
            lambda _m, _i, out, layer=layer: seen.update({layer: out})
        )
    with torch.no_grad():
        states = model(ids(), output_hidden_states=True).hidden_states
    found = profile_sinks(model, ids())
    for layer in range(LAYERS):
        v = seen[layer].unflatten(-1, (2, 8)).transpose(1, 2).repeat_interleave(2, 1)
        torch.testing.assert_close(found.value_norm[layer], v.norm(dim=-1).mean(0))
        w_o = model.model.layers[layer].self_attn.o_proj.weight.unflatten(1, (HEADS, 8))
        written = torch.einsum("bhtd,chd->bhtc", v, w_o).norm(dim=-1).detach()
        torch.testing.assert_close(found.written_norm[layer], written.mean(0), rtol=1e-4, atol=1e-5)
    # The last entry of transformers' list has the final norm applied: compare the one before.
    torch.testing.assert_close(found.hidden_norm[0], states[1].norm(dim=-1).mean(0))
    size = states[1].abs().flatten(1)
    ratio = (size.amax(-1) / size.median(-1).values).mean()
    torch.testing.assert_close(found.massive_ratio[0], ratio)


def test_writes_are_attention_times_norms() -> None:
    model = made("llama")
    found = profile_sinks(model, ids(rows=1))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = torch.stack(model(ids(rows=1), output_attentions=True).attentions)[:, 0]
    given = weights.sum(-2)
    later = given - weights.diagonal(dim1=-2, dim2=-1)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found.write, later * found.value_norm, **close)
    spent = given * found.written_norm
    torch.testing.assert_close(found.contribution, spent / spent.sum(-1, keepdim=True), **close)
    # A rotation leaves the norm of a key as it is.
    normed = model.model.layers[0].input_layernorm(model.model.embed_tokens(ids(rows=1)))
    keys = model.model.layers[0].self_attn.k_proj(normed)[0].unflatten(-1, (2, 8))
    expected = keys.norm(dim=-1).T.repeat_interleave(2, 0)
    torch.testing.assert_close(found.key_norm[0], expected.detach(), **close)


@pytest.mark.parametrize("position", ["rope", "learned", "alibi", "none"])
def test_our_decoder_equals_its_own_scores(position: Any) -> None:
    torch.manual_seed(2)
    config = HeadwayConfig(**LLAMA, position=position, mechanisms=[KVShift(), SinkLogit()])
    model = HeadwayForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    taken: list[Tensor] = []

    def probe(slot: int, q: Tensor, k: Tensor, visible: Any, scale: float) -> None:
        logits = all_scores(q, k, visible, scale)
        sink = model.model.layers[slot].self_attn.mechanisms.members["sink_logit"].logit
        column = sink[None, :, None, None].expand(*logits.shape[:3], 1)
        taken.append(torch.cat([logits, column], -1).softmax(-1)[..., :-1])

    with torch.no_grad():
        model(ids(), probe=probe, use_cache=False)
    found = profile_sinks(model, ids())
    weights = torch.stack(taken, 1)
    alpha = weights.sum(-2) / torch.arange(LENGTH, 0, -1)
    torch.testing.assert_close(found.received, alpha.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.mass, weights.sum(-1).mean((0, -1)), rtol=1e-4, atol=1e-6)
    assert bool((found.mass < 0.99).all())


@pytest.mark.parametrize("name", MODELS)
def test_watching_changes_no_logits(name: str) -> None:
    """In particular causality is kept: our attention function brings its mask function."""
    model = made(name)
    with torch.no_grad():
        before = model(ids(), attention_mask=torch.ones_like(ids())).logits
    with watching(model, Observer()):
        watched = run(model, ids()).logits
    torch.testing.assert_close(watched, before, rtol=1e-4, atol=1e-4)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.numel = max(self.numel, out.numel())
        return out


@pytest.mark.parametrize("name", ["llama", "mistral window", "bert", "bloom"])
def test_nothing_of_size_t_by_t_exists(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received, "BLOCK_SCORES", 1 << 14)
    length = 1024
    torch.manual_seed(0)
    model = (
        MODELS[name]()
        if name != "bert"
        else BertForMaskedLM(
            BertConfig(
                **SIZES | {"pad_token_id": 0}, intermediate_size=48, max_position_embeddings=length
            )
        )
    )
    long = torch.randint(1, VOCABULARY, (1, length))
    with Largest() as largest:
        profile_sinks(model, long)
    assert largest.numel <= length * VOCABULARY * 4 < length * length // 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_named(bad: float) -> None:
    model = made("llama")
    model.model.layers[1].self_attn.v_proj.weight.data[9] = bad
    with pytest.raises(HeadwayError, match=r"layers\.1\.self_attn: values .* head 1, position 0"):
        profile_sinks(model, ids())


def test_first_token_is_told() -> None:
    found = profile_sinks(made("llama"), ids())
    assert found.first.ids == tuple(sorted({int(i) for i in ids()[:, 0]}))
    assert found.first.text is None
    assert found.token_texts == tuple(str(int(i)) for i in ids()[0])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda rows: st.integers(1, 9).flatmap(
            lambda count: st.lists(
                st.floats(0, float(torch.finfo(torch.float32).max), width=32),
                min_size=rows * count,
                max_size=rows * count,
            ).map(lambda numbers: torch.tensor(numbers).view(rows, count))
        )
    )
)
def test_the_median_is_that_of_torch(x: Tensor) -> None:
    assert torch.equal(lower_median(x), x.median(-1).values)


def test_a_sink_stands_out_from_its_neighbours() -> None:
    """A metric that rises along the text, as of heads that look at recent tokens, is no sink."""
    found = profile_sinks(made("llama"), torch.randint(1, VOCABULARY, (2, 64)))
    rising = torch.linspace(0, 0.5, 64).expand(LAYERS, HEADS, 64).clone()
    assert replace(found, sink_rate=rising).sinks() == ()
    rising[..., 0] += 0.2
    rising[..., 7] += 0.1
    both = replace(found, sink_rate=rising)
    assert both.sinks() == (0, 7)
    assert both.excess()[7] == pytest.approx(0.1, abs=0.03)
    # Late positions, which few queries see, are not searched.
    rising[..., 60] += 0.4
    assert replace(found, sink_rate=rising).sinks() == (0, 7)
    assert replace(found, sink_rate=rising, causal=False).sinks()[:3] == (60, 0, 7)


def test_massive_activations_are_found() -> None:
    model = made("llama")
    embedding = model.model.embed_tokens.weight.data
    token = int(ids()[0, 4])
    embedding[token, 7] = 1e5
    found = profile_sinks(model, ids(rows=1))
    hits = {(m.position, m.channel) for m in found.massive[0]}
    assert hits == {(i, 7) for i, t in enumerate(ids()[0].tolist()) if t == token}
    assert found.massive[0][0].value == pytest.approx(1e5, rel=0.01)


@pytest.mark.parametrize("shape", [(3,), (0, 5), (2, 1)])
def test_ids_of_another_form_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(HeadwayError, match=r"input_ids: the shape .* is not accepted"):
        profile_sinks(made("llama"), torch.ones(shape, dtype=torch.long))


@pytest.mark.parametrize("threshold", [0, 1, 2, -0.1, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(threshold: float) -> None:
    model, ids = LlamaForCausalLM(LlamaConfig(**LLAMA)), torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(HeadwayError, match=f"threshold: value is {threshold}; accepted are"):
        profile_sinks(model, ids, threshold=threshold)
