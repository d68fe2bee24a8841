"""Attention residuals and the scalar mix: what each sublayer and the final norm read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from headway import (
    AttentionResidual,
    HeadwayError,
    HeadwayForCausalLM,
    LayerShortcut,
    ScalarMix,
    check_list,
)
from headway.mechanisms.attention_residual import DepthRead
from mechanisms.helpers import DIMS, close, tiny, tokens


def trace(model: HeadwayForCausalLM) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """What sublayers and the final norm read, what was added, and all layers' outputs."""
    reads: list[Tensor] = []
    updates: list[Tensor] = []
    hooks = [model.model.embed_tokens.register_forward_hook(lambda *a: updates.append(a[2]))]
    for layer in model.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            hooks.append(norm.register_forward_pre_hook(lambda _, args: reads.append(args[0])))
        hooks.append(layer.self_attn.register_forward_hook(lambda *a: updates.append(a[2][0])))
        hooks.append(layer.mlp.register_forward_hook(lambda *a: updates.append(a[2])))
    hooks.append(model.model.norm.register_forward_pre_hook(lambda _, args: reads.append(args[0])))
    with torch.no_grad():
        outputs = model.model(tokens(model), output_hidden_states=True).hidden_states
    for hook in hooks:
        hook.remove()
    return reads, updates, list(outputs)


def readers(model: HeadwayForCausalLM) -> list[DepthRead]:
    """The reading sites in the order of the data."""
    sites: list[nn.Module | None] = []
    for layer in model.model.layers:
        sites += [layer.attention_read, layer.mlp_read]
    sites.append(model.model.final_read)
    assert all(isinstance(site, DepthRead) for site in sites)
    return sites


@pytest.mark.parametrize("total", ["one", "count"])
@pytest.mark.parametrize("zero", [True, False])
def test_every_sublayer_reads_a_softmax_over_the_updates(total: str, zero: bool) -> None:
    model = tiny(AttentionResidual(total=total))
    sites = readers(model)
    if zero:
        for site in sites:
            site.reset_parameters()
    reads, updates, _ = trace(model)
    assert len(reads) == len(sites) == 7
    for count, (site, read) in enumerate(zip(sites, reads, strict=True), start=1):
        sources = torch.stack(updates[:count])
        sizes = sources.pow(2).mean(-1, keepdim=True).add(1e-6).sqrt()
        weights = (sources / sizes * site.query.detach()).sum(-1).softmax(0)
        if zero:
            close(weights, torch.full_like(weights, 1 / count))
        scale = count if total == "count" else 1
        close(read, scale * (weights[..., None] * sources).sum(0))


def test_with_zero_queries_count_is_the_ordinary_residual_stream() -> None:
    model, plain = tiny(AttentionResidual(total="count")), tiny()
    for site in readers(model):
        site.reset_parameters()
    plain.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        close(model(tokens(model)).logits, plain(tokens(plain)).logits)


@pytest.mark.parametrize(
    ("taps", "indices"), [("all", (1, 2)), ((0,), (0,)), ((2, 0), (2, 0)), ((1, 1), (1, 1))]
)
def test_the_final_norm_reads_the_mix(taps: object, indices: tuple[int, ...]) -> None:
    model = tiny(ScalarMix(taps=taps))
    weights = model.model.final_mix.weights.detach()
    assert weights.shape == (len(indices) + 1,)
    reads, updates, outputs = trace(model)
    expected = sum(w * outputs[t] for w, t in zip(weights, (*indices, 3), strict=True))
    close(reads[-1], expected)
    close(outputs[-1], torch.stack(updates).sum(0))


def test_the_mix_starts_at_the_last_output() -> None:
    for init, others in (("paper", 1e-4), ("identity", 0.0)):
        mix = ScalarMix(init=init).build(DIMS, DIMS.num_hidden_layers)
        expected = torch.tensor([others] * 3 + [1.0])
        assert torch.equal(mix.weights, expected)
        assert torch.equal(mix.learned()["weight of each tap"], expected)


def test_refusals() -> None:
    with pytest.raises(HeadwayError, match=r"scalar_mix.taps: 4 is beyond the depth"):
        check_list([ScalarMix(taps=(4,))], DIMS)
    for pair in ([AttentionResidual(), ScalarMix()],):
        with pytest.raises(HeadwayError, match="both replace what the final norm reads"):
            check_list(pair, DIMS)
    check_list([AttentionResidual(), LayerShortcut()], DIMS)
    check_list([LayerShortcut(), ScalarMix()], DIMS)
