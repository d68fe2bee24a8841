"""Selective self-attention against plain formulas of arXiv 2411.12892, definition 1."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu

from headway import (
    Context,
    HeadwayConfig,
    HeadwayError,
    HeadwayForCausalLM,
    SelectiveAttention,
)
from headway.ops.rotary import rotary
from mechanisms.helpers import POSITIONS, built, close, context, projections, tiny, tokens

FREQUENCY = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(2, 6)
RAW = projections(7)


def expected_tau(
    spec: SelectiveAttention, part: torch.nn.Module, name: str, ctx: Context
) -> Tensor:
    """`(B, heads, T)`, written out one head and token at a time."""
    raw = getattr(RAW, name)
    tau = torch.zeros(raw.shape[:3], dtype=torch.float64)
    for b in range(2):
        for h in range(raw.shape[1]):
            own = h if spec.per_head else 0
            for t in range(6):
                x, value = raw[b, :, t], 1.0
                if spec.position:
                    slope = 1 / (1 + math.exp(-part.alpha[own].item()))
                    slope -= 0.5 if spec.init == "identity" else 0
                    value += slope * math.log(int(POSITIONS[b, t]) + 1)
                if spec.token == "shared" and spec.per_head:
                    value += math.tanh((part.weight[h] @ gelu(x[h])).item())
                elif spec.token == "shared":
                    value += math.tanh(((part.weight * gelu(x)).sum()).item())
                elif spec.token == "mlp":
                    features = gelu(part.hidden.weight @ ctx.hidden[b, t])
                    value += math.tanh((part.weight[own] @ features).item())
                elif spec.token == "frequency":
                    value += math.tanh((part.weight[own] * FREQUENCY[b, t]).item())
                elif spec.token == "constant":
                    value += math.tanh(part.weight[own].item())
                tau[b, h, t] = value
    return tau


@pytest.mark.parametrize("init", ["paper", "identity"])
@pytest.mark.parametrize("per_head", [True, False])
@pytest.mark.parametrize("position", [True, False])
@pytest.mark.parametrize("token", ["shared", "mlp", "frequency", "constant", "none"])
def test_projections_are_scaled_by_their_temperature(
    token: str, position: bool, per_head: bool, init: str
) -> None:
    if token == "none" and not position:
        with pytest.raises(HeadwayError, match="leaves no temperature"):
            SelectiveAttention(token="none", position=False)
        return
    spec = SelectiveAttention(
        token=token, position=position, per_head=per_head, init=init, key=True
    )
    module, before = built(spec), projections()
    ctx = context(raw=RAW, log_frequency=FREQUENCY)
    after = module.prologue(before, ctx)
    for target in ("query", "key", "value"):
        name = target[0]
        tau = expected_tau(spec, module.get_submodule(target), name, ctx)
        assert (tau - 1).abs().max() > 0.01
        close(getattr(after, name), getattr(before, name) * tau[..., None], 1e-9)


@pytest.mark.parametrize("target", ["query", "key", "value"])
def test_only_the_chosen_projections_are_scaled(target: str) -> None:
    spec = SelectiveAttention(**{t: t == target for t in ("query", "key", "value")})
    before = projections()
    after = built(spec).prologue(before, context(raw=RAW))
    for name in "qkv":
        assert torch.equal(getattr(after, name), getattr(before, name)) == (name != target[0])


def test_the_start_of_the_paper_and_the_identity() -> None:
    ctx, before = context(raw=RAW), projections()
    logs = (POSITIONS + 1).double().log()[:, None, :, None]
    module = built(SelectiveAttention(slope=0.25), loud=False)
    close(module.prologue(before, ctx).q, before.q * (1 + 0.25 * logs), 1e-6)
    identity = built(SelectiveAttention(init="identity", token="mlp"), loud=False)
    assert torch.equal(identity.prologue(before, ctx).v, before.v)
    official = built(SelectiveAttention(), loud=False)
    close(official.learned()["query position slope"], torch.tensor([0.0113]).double(), 1e-7)


def test_the_temperature_lies_between_the_bounds_of_definition_1() -> None:
    module, before = built(SelectiveAttention(per_head=True)), projections()
    for sign in (-40.0, 40.0):
        with torch.no_grad():
            module.query.weight.fill_(sign)
        tau = module.query(before.q, context(raw=before))
        slope = module.query.alpha.sigmoid()[:, None] * (POSITIONS + 1).double().log()[:, None]
        assert (tau >= slope - 1e-12).all()
        assert (tau <= 2 + slope + 1e-12).all()
        # Bounds that are reached: features of one sign saturate the tanh.
        assert ((tau - slope - (0 if sign < 0 else 2)).abs() < 1e-6).any()


def test_new_parameters_are_less_than_half_a_percent_of_gpt2() -> None:
    def count(*mechanisms: SelectiveAttention) -> int:
        with torch.device("meta"):
            config = HeadwayConfig(
                vocab_size=50257,
                hidden_size=768,
                num_hidden_layers=12,
                num_attention_heads=12,
                hidden_act="gelu",
                norm="layer",
                position="learned",
                max_position_embeddings=1024,
                mechanisms=mechanisms,
            )
            return sum(p.numel() for p in HeadwayForCausalLM(config).parameters())

    plain = count()
    assert 120e6 < plain < 130e6
    shared = count(SelectiveAttention()) - plain
    assert shared == 12 * 2 * (768 + 1)
    assert shared < 0.005 * plain
    per_head = count(SelectiveAttention(per_head=True)) - plain
    assert per_head == 12 * 2 * (768 + 12)
    # The two-layer perceptron of the paper, for queries and for values: about 5 % each.
    assert 0.10 < (count(SelectiveAttention(token="mlp")) - plain) / plain < 0.12


def test_it_still_acts_under_qk_norm() -> None:
    model = tiny(SelectiveAttention(value=False, token="none"), qk_norm=True)
    with torch.no_grad():
        before = model(tokens(model)).logits
        for layer in model.model.layers:
            layer.self_attn.mechanisms.members["selective_attention"].query.alpha.fill_(3.0)
        change = model(tokens(model)).logits - before
    assert not change[:, 0].any()
    assert change[:, 1:].abs().amax(-1).min() > 1e-3


def test_features_are_the_raw_projections_under_qk_norm() -> None:
    model = tiny(SelectiveAttention(value=False, position=False), qk_norm=True)
    with torch.no_grad():
        before = model(tokens(model)).logits
        for layer in model.model.layers:
            # QK-norm undoes the size of the query, the temperature's features do not.
            layer.self_attn.q_proj.weight.mul_(3)
        change = model(tokens(model)).logits - before
    assert change[:, 1:].abs().amax(-1).min() > 1e-3


def test_rotation_commutes_with_a_query_temperature() -> None:
    turn = rotary(POSITIONS, 4, 100.0, torch.float64)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 6, 4, generator=generator, dtype=torch.float64)
    tau = torch.rand(2, 4, 6, 1, generator=generator, dtype=torch.float64)
    close(turn(q * tau), turn(q) * tau)


def test_token_frequencies_are_standardised_over_the_text() -> None:
    model = tiny(SelectiveAttention(token="frequency"))
    counts = torch.arange(20) ** 2
    model.model.set_token_counts(counts)
    stored, share = model.model.token_log_frequency, counts / counts.sum()
    close((share * stored).sum(), torch.tensor(0.0).double(), 1e-6)
    close((share * stored**2).sum(), torch.tensor(1.0).double(), 1e-6)
    assert (stored.diff() > 0).all()
    plain = tiny()
    plain.model.set_token_counts(counts)
    assert plain.model.token_log_frequency is None


def test_token_counts_without_meaning_are_refused() -> None:
    model = tiny(SelectiveAttention(token="frequency"))
    before = model.model.token_log_frequency.clone()
    for counts in (torch.full((20,), 7), torch.zeros(20), torch.arange(19), -torch.arange(20)):
        with pytest.raises(HeadwayError, match=r"counts: .* accepted"):
            model.model.set_token_counts(counts)
    assert torch.equal(model.model.token_log_frequency, before)


def test_refusals() -> None:
    with pytest.raises(HeadwayError, match="query, key and value are all false"):
        SelectiveAttention(query=False, value=False)
    for slope in (0.0, 1.0, -0.1):
        with pytest.raises(HeadwayError, match=r"slope: .* is not accepted; the m"):
            SelectiveAttention(slope=slope)
    for token, missing in (("mlp", "Context.hidden"), ("frequency", "Context.log_frequency")):
        with pytest.raises(HeadwayError, match=missing):
            built(SelectiveAttention(token=token)).prologue(
                projections(), context(raw=RAW, hidden=None)
            )
    with pytest.raises(HeadwayError, match=r"Context\.raw is missing"):
        built(SelectiveAttention()).prologue(projections(), context())


def test_what_is_shown_are_slopes_and_frequency_weights() -> None:
    module = built(SelectiveAttention(token="frequency", key=True, value=False))
    shown = module.learned()
    assert set(shown) == {
        f"{t} {n}" for t in ("query", "key") for n in ("position slope", "frequency weight")
    }
    assert torch.equal(shown["key position slope"], module.key.alpha.sigmoid())
    assert torch.equal(shown["query frequency weight"], module.query.weight)
    assert built(SelectiveAttention(position=False)).learned() == {}
    constant = built(SelectiveAttention(token="constant", per_head=True, value=False))
    close(constant.learned()["query constant"], constant.query.weight.tanh(), 0)
