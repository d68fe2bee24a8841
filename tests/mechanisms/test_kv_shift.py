"""KV shift against plain loops, and as the induction head of arXiv 2411.19574, definition 1."""

import math

import pytest
import torch
from torch import Tensor

from headway import QKV, Context, Dims, HeadwayError, KVShift
from headway.mechanisms.kv_shift import Target
from headway.ops.attention import eager_attention
from headway.ops.visibility import Visibility
from mechanisms.helpers import DIMS, POSITIONS, built, close, context, projections


def loop(x: Tensor, taps: Tensor) -> Tensor:
    """The definition, one number at a time."""
    mixed = torch.zeros_like(x)
    for b, g, t, d in torch.cartesian_prod(*(torch.arange(n) for n in x.shape)).tolist():
        own = taps[g, d] if taps.dim() == 3 else taps[g]
        for distance, weight in enumerate(own.tolist()):
            if distance <= POSITIONS[b, t]:
                mixed[b, g, t, d] += weight * x[b, g, t - distance, d]
    return mixed


@pytest.mark.parametrize("granularity", ["head", "channel"])
@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize(
    "targets", [("key", "value"), ("key",), ("value",), ("query",), ("value", "query", "key")]
)
def test_targets_are_mixed_with_earlier_tokens_of_the_document(
    targets: tuple[Target, ...], window: int, granularity: str
) -> None:
    module = built(KVShift(targets=targets, window=window, granularity=granularity))
    before, ctx = projections(), context()
    after = module.prologue(before, ctx)
    for target in ("query", "key", "value"):
        x, y = getattr(before, target[0]), getattr(after, target[0])
        if target in targets:
            close(y, loop(x, getattr(module, target).detach()))
        else:
            assert torch.equal(y, x)


@pytest.mark.parametrize("granularity", ["head", "channel"])
@pytest.mark.parametrize("constraint", ["none", "sigmoid"])
@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_taps_sum_to_one_at_the_start(window: int, constraint: str, granularity: str) -> None:
    wide = Dims(hidden_size=64, num_attention_heads=32, num_key_value_heads=16, head_dim=4)
    spec = KVShift(window=window, constraint=constraint, granularity=granularity)
    module = built(spec, wide, loud=False)
    for target in spec.targets:
        taps = module.taps(target)
        assert taps.shape == (16, *((4,) if granularity == "channel" else ()), window + 1)
        close(taps.sum(-1), torch.ones_like(taps[..., 0]), 1e-6)
        assert (taps[..., :-1] >= 0).all()
        assert (taps[..., :-1] <= 1).all()
        assert taps[..., 0].std() > 0.04
    assert not torch.equal(module.taps("key"), module.taps("value"))


def test_the_first_tap_is_uniform_at_the_start() -> None:
    many = Dims(hidden_size=8, num_attention_heads=4000, num_key_value_heads=4000, head_dim=2)
    for constraint in ("none", "sigmoid", "clamp"):
        first = built(KVShift(constraint=constraint), many, loud=False).taps("key")[:, 0]
        counts = torch.histc(first.detach(), bins=4, min=0, max=1)
        assert counts.sum() == 4000
        assert (counts - 1000).abs().max() < 150


@pytest.mark.parametrize(
    ("init", "key", "value"),
    [("identity", [1, 0, 0], [1, 0, 0]), ("induction", [0, 1, 0], [1, 0, 0])],
)
def test_named_starts(init: str, key: list[float], value: list[float]) -> None:
    module = built(KVShift(init=init, window=2, targets=("key", "value", "query")), loud=False)
    assert module.taps("key").tolist() == [key] * 2
    assert module.taps("value").tolist() == [value] * 2
    assert module.taps("query").tolist() == [value] * 4


def test_constraints_bound_the_taps_wherever_training_goes() -> None:
    for constraint in ("sigmoid", "clamp"):
        module = built(KVShift(window=2, constraint=constraint))
        with torch.no_grad():
            module.key.copy_(3 * torch.randn_like(module.key))
        taps = module.taps("key")
        assert (taps >= 0).all()
        assert (taps <= 1).all()
        if constraint == "sigmoid":
            close(taps.sum(-1), torch.ones(2, dtype=torch.float64))
        else:
            assert torch.equal(taps, module.key.clamp(0, 1))
    free = built(KVShift())
    with torch.no_grad():
        free.key.copy_(torch.tensor([[-2.0, 3.0], [1.5, 0.0]]))
    assert torch.equal(free.taps("key"), free.key)


def test_one_previous_token_under_sigmoid_is_the_gate_of_the_paper() -> None:
    module = built(KVShift(constraint="sigmoid"))
    gate = module.key[:, 0].sigmoid()
    close(module.taps("key"), torch.stack([gate, 1 - gate], dim=-1))


def test_taps_differ_by_head_and_expanding_heads_first_is_the_same() -> None:
    module, before = built(KVShift()), projections()
    mixed = module.prologue(before, context()).k.repeat_interleave(2, dim=1)
    expanded = before.k.repeat_interleave(2, dim=1)
    close(mixed, loop(expanded, module.key.detach().repeat_interleave(2, dim=0)))
    assert not torch.equal(module.key[0], module.key[1])


def induction(a: tuple[float, float], b: tuple[float, float], x: Tensor, slope: float) -> Tensor:
    """One head, all matrices the identity, very sharp scores, ALiBi with one slope."""
    length, width = x.shape
    dims = Dims(hidden_size=width, num_attention_heads=1, num_key_value_heads=1, head_dim=width)
    module = built(KVShift(init="induction"), dims, loud=False)
    with torch.no_grad():
        module.key.copy_(torch.tensor([a]))
        module.value.copy_(torch.tensor([b]))
    heads, positions = x[None, None], torch.arange(length)[None]
    q, k, v = module.prologue(QKV(heads, heads, heads), Context(positions=positions))
    slopes = torch.tensor([slope], dtype=torch.float64)
    visible = Visibility(positions, 0, length, True, slopes)
    return eager_attention(q, k, v, visible, 60.0)[0][0, 0]


SEQUENCE = [3, 1, 4, 0, 5, 2, 1, 3, 4]
"""Symbols 1, 3 and 4 come back at columns 6, 7 and 8."""


def test_induction_taps_copy_what_followed_the_same_token() -> None:
    x = torch.eye(6, dtype=torch.float64)[SEQUENCE]
    out = induction((0, 1), (1, 0), x, slope=0.0)
    assert out[[6, 7, 8]].argmax(-1).tolist() == [4, 1, 0]
    close(out[[6, 7, 8]], x[[2, 1, 3]], 1e-6)


def test_shifting_the_values_instead_returns_what_stood_before() -> None:
    x = torch.eye(6, dtype=torch.float64)[SEQUENCE]
    out = induction((1, 0), (0, 1), x, slope=0.5)
    # Every token also matches itself; the earlier match is e^-slope times distance weaker.
    for column, match in ((6, 1), (7, 0), (8, 2)):
        before = x[match - 1] if match else torch.zeros(6)
        odds = math.exp(-0.5 * (column - match))
        close(out[column], (x[column - 1] + odds * before) / (1 + odds), 1e-6)


def test_a_shift_with_alibi_is_the_induction_head_of_definition_1() -> None:
    generator = torch.Generator().manual_seed(3)
    x = 0.3 * torch.randn(7, 5, generator=generator, dtype=torch.float64)
    out = induction((0, 1), (1, 0), x, slope=0.25)
    for last in range(7):
        # Beside definition 1, the first token has a zero key and the last one is seen too.
        logits = [
            60.0 * float(x[last] @ x[s - 1]) * (s > 0) - 0.25 * (last - s) for s in range(last + 1)
        ]
        weights = torch.tensor(logits, dtype=torch.float64).softmax(0)
        close(out[last], weights @ x[: last + 1], 1e-9)


@pytest.mark.parametrize("targets", [(), ("key", "key"), ("keys",), "key"])
def test_targets_that_are_refused(targets: object) -> None:
    with pytest.raises(HeadwayError, match=r"targets: .* accepted"):
        KVShift(targets=targets)


def test_other_refusals() -> None:
    with pytest.raises(HeadwayError, match=r"window: 0 is not accepted; the minimum is 1"):
        KVShift(window=0)
    with pytest.raises(HeadwayError, match=r"window: True is not accepted; .* a whole number"):
        KVShift(window=True)
    for init in ("identity", "induction"):
        with pytest.raises(HeadwayError, match=rf"'{init}' cannot be reached .*'sigmoid'"):
            KVShift(init=init, constraint="sigmoid")


def test_what_is_shown_are_the_taps_in_force() -> None:
    module = built(KVShift(constraint="clamp"))
    shown = module.learned()
    assert list(shown) == ["key taps", "value taps"]
    assert torch.equal(shown["value taps"], module.taps("value"))
    assert module.num_new_parameters == 4 * DIMS.num_key_value_heads
