"""Exact statements about KV shifting attention (arXiv 2411.19574)."""

import math

import pytest
import torch

from headway import HeadwayConfig, KVShift
from headway.decoder.toy import ToyTransformer

T = 20
TAPS = [
    ((1.0, 0.0), (1.0, 0.0)),
    ((0.0, 1.0), (1.0, 0.0)),
    ((0.3, 0.7), (0.6, 0.4)),
    ((0.9, 0.1), (0.2, 0.8)),
    ((0.5, 0.5), (0.5, 0.5)),
    ((-0.4, 2.5), (1.7, -0.6)),
]


def one_layer(width, key=None, value=None, sharpness=1.0):
    """One head without norm, position, scale or residual; all matrices are the identity."""
    config = HeadwayConfig(
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=1,
        norm="none",
        position="none",
        attention_multiplier=sharpness,
        mechanisms=[] if key is None else [KVShift(init="identity")],
    )
    toy = ToyTransformer(config, residual=False).double()
    with torch.no_grad():
        for name in ("q_proj", "k_proj", "v_proj"):
            torch.nn.init.eye_(getattr(toy.layers[0], name).weight)
        if key is not None:
            taps = toy.layers[0].mechanisms.members["kv_shift"]
            taps.key.copy_(torch.tensor([key], dtype=torch.float64))
            taps.value.copy_(torch.tensor([value], dtype=torch.float64))
    return toy


def exact_loss(a, b, *, printed=False):
    """Theorem 3's loss; `printed` repeats the paper's slip, e^{a2} where e^{a1} belongs."""
    (a1, a2), (b1, b2) = a, b
    total = 2 * math.exp(a1) + math.exp(a2) + T - 2
    match, after = math.exp(a1) / total, math.exp(a2) / total
    right = math.exp(after * b1 + b2 / total)
    neighbour = math.exp(b1 / total + b2 * (after if printed else match))
    itself = math.exp(2 * match * b1 + after * b2)
    others = (T - 4) * math.exp((b1 + b2) / total)
    return -math.log(right / (right + 2 * neighbour + itself + others))


def simulated_loss(a, b, embeddings, repeated):
    """T tokens once, then the `repeated`-th again; the loss of naming its first successor."""
    order = torch.randperm(T)
    ids = torch.cat([order, order[repeated : repeated + 1]])
    out = one_layer(T, a, b)(embeddings[ids][None])[0, -1]
    logits = out @ embeddings.T
    return -logits.log_softmax(-1)[order[repeated + 1]].item()


@pytest.mark.parametrize(("a", "b"), TAPS)
@pytest.mark.parametrize("repeated", [1, 9, T - 3])
def test_corrected_theorem_3(a, b, repeated):
    rotation, _ = torch.linalg.qr(torch.randn(T, T, dtype=torch.float64))
    for embeddings in (torch.eye(T, dtype=torch.float64), rotation):
        loss = simulated_loss(a, b, embeddings, repeated)
        assert loss == pytest.approx(exact_loss(a, b), abs=1e-12)


def test_the_printed_theorem_3_is_off():
    embeddings = torch.eye(T, dtype=torch.float64)
    for a, b in [((0.3, 0.7), (0.6, 0.4)), ((0.9, 0.1), (0.2, 0.8)), ((0.1, 0.9), (0.5, 0.5))]:
        loss = simulated_loss(a, b, embeddings, 9)
        assert 6e-4 < abs(loss - exact_loss(a, b, printed=True)) < 5e-3


def test_theorem_3_descends_to_the_induction_head():
    """Along a2 = 1 - a1, b2 = 1 - b1 the loss falls towards a1 = 0, b1 = 1 (for b1 not near 0)."""

    def loss(a1, b1):
        return exact_loss((a1, 1 - a1), (b1, 1 - b1))

    for u in (0.1, 0.3, 0.6, 0.9):
        for w in (0.2, 0.4, 0.7, 0.95):
            assert loss(u - 0.01, w) < loss(u, w) < loss(u, w - 0.01)
            assert loss(0.0, 1.0) < loss(u, w)


TEXT = torch.tensor([[3, 1, 4, 0, 5, 2, 6, 4]])
RETURNED = {
    "after the match (induction)": ((0.0, 1.0), (1.0, 0.0), 0),
    "before the match": ((1.0, 0.0), (0.0, 1.0), None),
    "the match": ((1.0, 0.0), (1.0, 0.0), 4),
}


@pytest.mark.parametrize("name", RETURNED)
def test_which_value_a_sharp_head_returns(name):
    key, value, token = RETURNED[name]
    out = one_layer(7, key, value, sharpness=200.0)(TEXT)[0, -1]
    expected = torch.zeros(7, dtype=torch.float64)
    if token is None:
        # both occurrences of 4 match: the values stored there are 1 and 6
        expected[1] = expected[6] = 0.5
    else:
        expected[token] = 1.0
    torch.testing.assert_close(out, expected, atol=1e-9, rtol=0)


def test_induction_init_solves_every_repeat():
    config = HeadwayConfig(
        hidden_size=30,
        num_hidden_layers=1,
        num_attention_heads=1,
        norm="none",
        position="none",
        attention_multiplier=500.0,
        mechanisms=[KVShift(init="induction")],
    )
    toy = ToyTransformer(config, residual=False).double()
    plain = one_layer(30, sharpness=500.0)
    toy.load_state_dict(plain.state_dict(), strict=False)
    once = torch.stack([torch.randperm(30) for _ in range(4)])
    ids = torch.cat([once, once], dim=1)
    assert torch.equal(toy(ids).argmax(-1)[:, 30:-1], ids[:, 31:])
    assert not (plain(ids).argmax(-1)[:, 30:-1] == ids[:, 31:]).any()


def test_taps_one_zero_are_plain_attention():
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    assert torch.equal(one_layer(8, (1.0, 0.0), (1.0, 0.0))(x), one_layer(8)(x))


@pytest.mark.parametrize(("a", "b"), TAPS[1:])
def test_without_positions_the_shift_is_a_filter_of_scores_and_columns(a, b):
    """Keys: `a1 s_i + a2 s_{i-1}` over the scores; values: weight `b1 A_i + b2 A_{i+1}` on V_i."""
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    scores = x[0] @ x[0].T
    filtered = a[0] * scores
    filtered[:, 1:] += a[1] * scores[:, :-1]
    causal = torch.ones(9, 9).tril().bool()
    weights = filtered.masked_fill(~causal, float("-inf")).softmax(-1)
    columns = b[0] * weights
    columns[:, :-1] += b[1] * weights[:, 1:]
    torch.testing.assert_close(one_layer(8, a, b)(x)[0], columns @ x[0], rtol=1e-10, atol=1e-12)
