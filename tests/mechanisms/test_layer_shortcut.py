"""Attention over the outputs of earlier layers, against one softmax over all keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headway import (
    Dims,
    HeadwayCache,
    HeadwayError,
    HeadwayForCausalLM,
    KVShift,
    LayerShortcut,
    check_list,
)
from headway.mechanisms.layer_shortcut import ShortcutAttention
from mechanisms.helpers import DIMS, close, tiny, tokens


def run(model: HeadwayForCausalLM) -> Tensor:
    """Logits of the usual tokens."""
    with torch.no_grad():
        return model(tokens(model), use_cache=False).logits


def shortcut(model: HeadwayForCausalLM) -> ShortcutAttention:
    """The last layer's attention over depth."""
    last = model.model.layers[-1]
    module = last.shortcut if last.shortcut is not None else last.self_attn
    assert isinstance(module, ShortcutAttention)
    return module


def heads(x: Tensor, norm: nn.Module | None = None) -> Tensor:
    """`(B, T, H D)` to `(B, H, T, D)` with D = 4."""
    x = x.unflatten(-1, (-1, 4))
    return (x if norm is None else norm(x)).transpose(1, 2)


def update(module: ShortcutAttention, x: Tensor, tapped: list[Tensor], scale: float) -> Tensor:
    """The definition: one softmax over all keys of all taps that the reach allows."""
    spec, length = module.spec, x.shape[1]
    q = heads(module.q_proj(x), getattr(module, "q_norm", None))
    keys, values = [], []
    for i, hidden in enumerate(tapped):
        if spec.features != "none":
            hidden = module.features[i if spec.features == "mlp" else 0](hidden)
        keys.append(heads(module.k_proj(hidden), getattr(module, "k_norm", None)))
        values.append(heads(module.v_proj(hidden)))
    k = torch.cat(keys, dim=2).repeat_interleave(2, dim=1)
    v = torch.cat(values, dim=2).repeat_interleave(2, dim=1)
    seen = torch.ones(length, length).tril() if spec.reach == "context" else torch.eye(length)
    logits = scale * (q @ k.transpose(-1, -2))
    logits = logits.masked_fill(seen.repeat(1, len(tapped)) == 0, float("-inf"))
    return module.o_proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("reach", ["context", "token"])
@pytest.mark.parametrize("features", ["mlp", "shared_mlp", "none"])
@pytest.mark.parametrize("taps", ["all", (0,), (2, 0, 1), (1, 1)])
@pytest.mark.parametrize("multiplier", [None, 1.3])
def test_the_last_layer_reads_the_tapped_outputs(
    taps: Any, features: Any, reach: Any, multiplier: float | None
) -> None:
    spec = LayerShortcut(taps=taps, features=features, reach=reach, width=6)
    model = tiny(spec, position="none", attention_multiplier=multiplier, qk_norm=multiplier is None)
    entering: list[Tensor] = []
    model.model.norm.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    with torch.no_grad():
        outputs = model.model(tokens(model), output_hidden_states=True).hidden_states
        last, before = model.model.layers[-1], outputs[2]
        named = {"all": (1, 2)}.get(taps, taps)
        tapped = [last.input_layernorm(outputs[t]) for t in named]
        scale = 0.5 if multiplier is None else multiplier
        after = before + update(shortcut(model), last.input_layernorm(before), tapped, scale)
        close(entering[0], after + last.mlp(last.post_attention_layernorm(after)))


WIDE = Dims(
    hidden_size=12, num_attention_heads=4, num_key_value_heads=2, head_dim=3, num_hidden_layers=8
)


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("features", ["none", "shared_mlp"])
@pytest.mark.parametrize("normed", [True, False])
def test_absorbed_projections_change_nothing(normed: bool, features: Any, groups: int) -> None:
    torch.manual_seed(0)
    spec = LayerShortcut(reach="token", features=features, width=5)
    module = spec.build(replace(WIDE, num_key_value_heads=groups), 7)
    assert isinstance(module, ShortcutAttention)
    module.double()
    x, *outputs = torch.randn(8, 2, 5, 12, dtype=torch.float64)
    norm = nn.RMSNorm(12, eps=0.1, dtype=torch.float64)
    nn.init.normal_(norm.weight)
    given = (outputs, norm) if normed else ([norm(h) for h in outputs], None)

    def refuse(*_: Any) -> Any:
        raise AssertionError("the same position needs no other attention")

    module.absorbs = True
    absorbed = module(x, given[0], refuse, 0.7, given[1])
    module.absorbs = False
    close(absorbed, module(x, given[0], refuse, 0.7, given[1]))
    assert (absorbed - module(x, outputs, refuse, 0.7)).abs().max() > 1e-3
    gradients = []
    for module.absorbs in (True, False):
        total = module(x, given[0], refuse, 0.7, given[1]).pow(2).sum()
        gradients.append(torch.autograd.grad(total, list(module.parameters())))
    for one, other in zip(*gradients, strict=True):
        close(one, other, 1e-9)


@pytest.mark.parametrize(
    ("reach", "taps", "options", "absorbs"),
    [
        ("token", 11, {}, True),
        ("token", 5, {}, True),
        ("token", 4, {}, False),
        ("token", 11, {"qk_norm": True}, False),
        ("token", 11, {"num_key_value_heads": 2}, False),
        ("context", 11, {}, False),
    ],
)
def test_projections_are_absorbed_where_that_costs_less(
    reach: Any, taps: int, options: dict[str, Any], absorbs: bool
) -> None:
    """At 124M: 12 heads of 64 over 768 channels."""
    dims = Dims(hidden_size=768, num_attention_heads=12, num_key_value_heads=12, head_dim=64)
    dims = replace(dims, num_hidden_layers=12, **options)
    spec = LayerShortcut(taps=tuple(range(1, taps + 1)), features="none", reach=reach)
    with torch.device("meta"):
        module = spec.build(dims, 11)
    assert isinstance(module, ShortcutAttention)
    assert module.absorbs == absorbs


def test_quantised_or_adapted_projections_are_not_absorbed() -> None:
    dims = replace(WIDE, num_key_value_heads=4)
    module = LayerShortcut(reach="token", features="none").build(dims, 7)
    assert isinstance(module, ShortcutAttention)
    assert module.absorbs
    x, *outputs = torch.randn(8, 2, 5, 12)
    before = module(x, outputs, None, 0.7)
    module.v_proj = nn.Sequential(module.v_proj, nn.Identity())
    torch.testing.assert_close(module(x, outputs, None, 0.7), before)


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("position", ["rope", "alibi"])
def test_tapping_the_layer_below_alone_is_the_ordinary_last_block(
    position: str, qk_norm: bool
) -> None:
    options = {"position": position, "qk_norm": qk_norm, "attention_multiplier": 0.3}
    model = tiny(LayerShortcut(taps=(2,), features="none"), **options)
    plain = tiny(seed=1, **options)
    plain.load_state_dict(model.state_dict())
    close(run(model), run(plain))


def with_taps(taps: tuple[int, ...], copied: tuple[int, ...]) -> Tensor:
    """Logits with these taps; tap i has the perceptron that tap `copied[i]` of (1, 2) has."""
    base = tiny(LayerShortcut(taps=(1, 2), width=6))
    model = tiny(LayerShortcut(taps=taps, width=6), seed=1)
    model.load_state_dict(base.state_dict(), strict=False)
    for i, source in enumerate(copied):
        perceptron = shortcut(base).features[source].state_dict()
        shortcut(model).features[i].load_state_dict(perceptron)
    return run(model)


def test_repeated_and_permuted_taps() -> None:
    once = with_taps((1, 2), (0, 1))
    close(with_taps((1, 2, 2, 1), (0, 1, 1, 0)), once)
    close(with_taps((2, 1), (1, 0)), once)
    # Listing one of several twice doubles that layer's odds; swapping the perceptrons matters.
    assert (with_taps((1, 2, 2), (0, 1, 1)) - once).abs().max() > 1e-3
    assert (with_taps((1, 2), (1, 0)) - once).abs().max() > 1e-3


def test_without_its_output_projection_the_last_layer_has_no_attention() -> None:
    model, plain = tiny(LayerShortcut(width=6)), tiny(seed=1)
    nn.init.zeros_(shortcut(model).o_proj.weight)
    plain.load_state_dict(model.state_dict(), strict=False)
    nn.init.zeros_(plain.model.layers[-1].self_attn.o_proj.weight)
    close(run(model), run(plain))


def test_adding_is_both_attentions() -> None:
    spec = {"taps": (0, 2), "width": 6}
    added, replaced = tiny(LayerShortcut(mode="add", **spec)), tiny(LayerShortcut(**spec), seed=1)
    own = added.model.layers[-1].self_attn
    assert (run(added) - run(replaced)).abs().max() > 1e-3
    replaced.load_state_dict(added.state_dict(), strict=False)
    shortcut(replaced).load_state_dict(shortcut(added).state_dict())
    plain = tiny(seed=2)
    plain.load_state_dict(added.state_dict(), strict=False)
    held = shortcut(added).o_proj.weight.clone()
    nn.init.zeros_(shortcut(added).o_proj.weight)
    close(run(added), run(plain))
    with torch.no_grad():
        shortcut(added).o_proj.weight.copy_(held)
    nn.init.zeros_(own.o_proj.weight)
    close(run(added), run(replaced))


def test_only_the_last_layer_is_changed() -> None:
    spec = LayerShortcut()
    assert [spec.build(DIMS, layer) is None for layer in range(4)] == [True, True, True, False]
    model = tiny(KVShift(), LayerShortcut(width=6))
    names = {n.split(".")[2] for n, _ in model.named_parameters() if "kv_shift" in n}
    assert names == {"0", "1"}


@pytest.mark.parametrize(("features", "count"), [("mlp", 3), ("shared_mlp", 1), ("none", 0)])
def test_new_parameters(features: Any, count: int) -> None:
    module = LayerShortcut(features=features, width=7).build(DIMS, 3)
    assert isinstance(module, ShortcutAttention)
    perceptrons = [p for n, p in module.named_parameters() if n.startswith("features")]
    assert sum(p.numel() for p in perceptrons) == count * 2 * 7 * DIMS.hidden_size


def test_starts() -> None:
    for init, zero in (("identity", True), ("paper", False)):
        module = LayerShortcut(init=init, mode="add").build(DIMS, 3)
        assert isinstance(module, ShortcutAttention)
        assert (not module.o_proj.weight.any()) == zero
        assert module.q_proj.weight.any()


@pytest.mark.parametrize(
    ("options", "slots"),
    [
        ({"taps": (0, 1, 2)}, 5),
        ({"taps": (0, 1, 2), "mode": "add"}, 6),
        ({"taps": (0, 1, 2), "mode": "add", "reach": "token"}, 3),
        ({"taps": (1,)}, 3),
    ],
)
def test_the_cache_has_one_slot_a_tap(options: dict[str, Any], slots: int) -> None:
    model = tiny(LayerShortcut(width=6, **options))
    cache = HeadwayCache(model.config)
    assert len(cache) == slots
    with torch.no_grad():
        model(tokens(model), past_key_values=cache)
    lengths = [layer.get_seq_length() for layer in cache.layers]
    unused = options.get("reach") == "token" and options.get("mode") == "replace"
    assert lengths == [7] * (slots - unused) + [0] * unused


def test_refusals() -> None:
    with pytest.raises(HeadwayError, match=r"taps: 4 is beyond the depth; accepted are 0 .* to 3"):
        check_list([LayerShortcut(taps=(1, 4))], DIMS)
    with pytest.raises(HeadwayError, match=r"width: 0 is not accepted; the minimum is 1"):
        LayerShortcut(width=0)
    with pytest.raises(HeadwayError, match=r"mode: 'swap' .* 'replace' or 'add'"):
        LayerShortcut(mode="swap")
    one = Dims(hidden_size=8, num_attention_heads=2, num_key_value_heads=2, head_dim=4)
    with pytest.raises(HeadwayError, match="leaves no attention over tokens"):
        check_list([LayerShortcut(taps=(0,), reach="token")], one)
    check_list([LayerShortcut(taps=(0,))], one)
