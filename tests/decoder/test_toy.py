"""The toy host is the papers' toys, written out by hand here."""

import pytest
import torch
import torch.nn.functional as F

from headway import HeadwayConfig, HeadwayError, KVShift, LayerShortcut, ResidualStream
from headway.decoder.toy import ToyTransformer


def config(hidden, layers=1, mechanisms=(), position="none", **changes):
    sizes = {"num_attention_heads": 1, "norm": "none", "attention_multiplier": 1.0} | changes
    return HeadwayConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        mechanisms=list(mechanisms),
        position=position,
        **sizes,
    )


def with_identity_weights(toy):
    toy = toy.double()
    with torch.no_grad():
        for layer in toy.layers:
            for name in ("q_proj", "k_proj", "v_proj"):
                torch.nn.init.eye_(getattr(layer, name).weight)
    return toy


def induction_head(x, sigma, slope, first, last):
    """`sum_s softmax_s(x_L . x_{s-1} / sigma - slope |L - s|) x_s` for `s = first..last`, from 1.

    `x`: `(L, d)`, and `x_0` counts as zero. Returns the sum and the softmax's denominator.
    """
    length = len(x)
    previous = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    s = torch.arange(1, length + 1, dtype=x.dtype)
    scores = (previous @ x[-1]) / sigma - slope * (length - s)
    weights = scores.exp()[first - 1 : last]
    return weights @ x[first - 1 : last] / weights.sum(), weights.sum(), scores.exp()


def kv_shift_toy(width, sigma, slope):
    toy = ToyTransformer(
        config(width, mechanisms=[KVShift(init="identity")], position="alibi"),
        residual=False,
        slopes=[slope],
    )
    toy = with_identity_weights(toy)
    with torch.no_grad():
        toy.layers[0].mechanisms.members["kv_shift"].key.copy_(
            torch.tensor([[0, 1 / sigma]], dtype=torch.float64)
        )
    return toy


@pytest.mark.parametrize(("sigma", "slope"), [(1.0, 0.25), (0.5, 0.01), (0.125, 1.0)])
def test_one_layer_of_kv_shift_is_the_induction_head(sigma, slope):
    """Theorem 2 of arXiv 2411.19574 with its two boundary terms: s = 1 (key 0) and s = L."""
    toy = kv_shift_toy(8, sigma, slope)
    x = F.normalize(torch.randn(1, 12, 8, dtype=torch.float64), dim=-1)
    out = toy(x)[0]
    for length in range(3, 13):
        seen = x[0, :length]
        whole, total, raw = induction_head(seen, sigma, slope, 1, length)
        torch.testing.assert_close(out[length - 1], whole, rtol=1e-10, atol=1e-12)
        printed, middle, _ = induction_head(seen, sigma, slope, 2, length - 1)
        boundary = raw[0] * seen[0] + raw[-1] * seen[-1]
        without = (out[length - 1] * total - boundary) / middle
        torch.testing.assert_close(without, printed, rtol=1e-8, atol=1e-9)
        assert (out[length - 1] - printed).abs().max() > 1e-6


def test_the_boundary_terms_vanish_with_sigma():
    x = F.normalize(torch.randn(1, 12, 16, dtype=torch.float64), dim=-1)
    x[0, -1] = x[0, 5]
    gaps = []
    for sigma in (1.0, 0.1, 0.01):
        printed, _, _ = induction_head(x[0], sigma, 0.01, 2, 11)
        gaps.append((kv_shift_toy(16, sigma, 0.01)(x)[0, -1] - printed).abs().max().item())
    assert gaps[0] > 1e-2
    assert gaps[2] < 1e-12
    exact = kv_shift_toy(16, 0.01, 0.01)(x)[0, -1]
    torch.testing.assert_close(exact, x[0, 6], rtol=0, atol=1e-12)


def test_the_standard_slope_of_one_head():
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    standard = ToyTransformer(config(8, position="alibi"), residual=False)
    ours = ToyTransformer(config(8, position="alibi"), residual=False, slopes=[2**-8])
    steep = ToyTransformer(config(8, position="alibi"), residual=False, slopes=[0.5])
    standard, ours, steep = (with_identity_weights(t) for t in (standard, ours, steep))
    assert torch.equal(standard(x), ours(x))
    assert (standard(x) - steep(x)).abs().max() > 1e-2


def by_hand(toy, x, stream, source="previous"):
    """Layers `x <- x + A V`, one head, no scale; each reads an earlier one's `stream`."""
    causal = torch.ones(x.shape[1], x.shape[1]).tril().bool()
    earlier = []
    for layer in toy.layers:
        raw = {n: x @ getattr(layer, f"{n}_proj").weight.T for n in "qkv"}
        used = dict(raw)
        if earlier and stream is not None:
            used[stream] = raw[stream] + earlier[-1 if source == "previous" else 0][stream]
        earlier.append(raw)
        scores = (used["q"] @ used["k"].transpose(-1, -2)).masked_fill(~causal, float("-inf"))
        x = x + scores.softmax(-1) @ used["v"]
    return x


@pytest.mark.parametrize("stream", [None, "value", "key", "query"])
def test_two_layers_as_in_the_residual_stream_paper(stream):
    mechanisms = [ResidualStream(stream=stream)] if stream else []
    toy = ToyTransformer(config(150, 2, mechanisms), slots=65).double()
    with torch.no_grad():
        for parameter in toy.parameters():
            parameter.normal_(std=85**-0.5)
    assert sum(p.numel() for p in toy.parameters()) == 2 * 3 * 150 * 150
    items = torch.randn(3, 17, 85, dtype=torch.float64) * 85**-0.5
    shifts = torch.tensor([[0], [20], [48]])
    slots = shifts + torch.arange(17)
    out = toy(items, slots)
    x = torch.cat([items, F.one_hot(slots, 65)], dim=-1)
    torch.testing.assert_close(out, by_hand(toy, x, stream and stream[0]), rtol=1e-9, atol=1e-11)
    if stream:
        assert (out - by_hand(toy, x, None)).abs().max() > 1e-2


@pytest.mark.parametrize("source", ["previous", "first"])
def test_streams_over_four_layers_are_raw_and_not_summed_up(source):
    toy = ToyTransformer(config(12, 4, [ResidualStream(source=source)])).double()
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    out = toy(x)
    torch.testing.assert_close(out, by_hand(toy, x, "v", source), rtol=1e-9, atol=1e-11)
    other = {"previous": "first", "first": "previous"}[source]
    assert (out - by_hand(toy, x, "v", other)).abs().max() > 1e-3


def test_what_the_first_layer_reads():
    toy = ToyTransformer(config(12), slots=5)
    ids = torch.tensor([[6, 0, 3]])
    x = toy.embed(ids)
    assert torch.equal(x[..., :7].argmax(-1), ids)
    assert torch.equal(x[..., 7:].argmax(-1), torch.tensor([[0, 1, 2]]))
    assert torch.equal(x.sum(-1), torch.full((1, 3), 2.0))
    assert torch.equal(toy(ids), toy(F.one_hot(ids, 7).float(), torch.tensor([[0, 1, 2]])))


def test_options():
    x = torch.randn(2, 5, 8)
    toy, bare = ToyTransformer(config(8)), ToyTransformer(config(8), residual=False)
    bare.load_state_dict(toy.state_dict())
    torch.testing.assert_close(toy(x), x + bare(x))
    projected = ToyTransformer(config(8), output=True)
    assert projected.layers[0].o_proj.weight.shape == (8, 8)
    projected.load_state_dict(toy.state_dict(), strict=False)
    with torch.no_grad():
        projected.layers[0].o_proj.weight.copy_(2 * torch.eye(8))
    torch.testing.assert_close(projected(x), x + 2 * bare(x))


REFUSED = {
    "norm: 'rms'": lambda: ToyTransformer(config(8, norm="rms")),
    "position: 'learned'": lambda: ToyTransformer(config(8, position="learned")),
    "'layer_shortcut' acts on a whole layer": lambda: ToyTransformer(
        config(8, 2, mechanisms=[LayerShortcut()])
    ),
    "hidden_size: 8.*width 6": lambda: ToyTransformer(config(8, head_dim=6)),
    "slots: 8.*7": lambda: ToyTransformer(config(8), slots=8),
    "slopes: .*position='alibi'": lambda: ToyTransformer(config(8), slopes=[0.5]),
    "slopes: .*each of the 1 heads": lambda: ToyTransformer(
        config(8, position="alibi"), slopes=[0.5, 0.25]
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_refusals(words):
    with pytest.raises(HeadwayError, match=words):
        REFUSED[words]()
