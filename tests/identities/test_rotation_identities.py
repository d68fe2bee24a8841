"""What commutes with rotary positions."""

import pytest
import torch

from headway import HeadwayConfig, HeadwayModel, KVShift, ResidualStream, SelectiveAttention
from headway.ops.rotary import rotary

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def build(mechanisms):
    torch.manual_seed(0)
    config = HeadwayConfig(
        vocab_size=11,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        initializer_range=0.3,
        mechanisms=mechanisms,
    )
    return HeadwayModel(config).double().eval()


def rotated(model):
    """Rotated queries and keys of each layer, `(B, H, T, D)`, as attention sees them."""
    seen = {}

    def probe(slot, q, k, visible, scale):
        seen[slot] = (q, k)

    model(IDS, probe=probe, use_cache=False)
    return seen


@pytest.mark.parametrize("token", ["shared", "none", "mlp"])
def test_a_query_temperature_commutes_with_rotation(token):
    tempered = build([SelectiveAttention(value=False, token=token, per_head=True, slope=0.4)])
    temperature = tempered.layers[0].self_attn.mechanisms.members["selective_attention"].query
    captured = []
    if token != "none":
        torch.nn.init.normal_(temperature.weight)
    temperature.register_forward_hook(lambda module, given, tau: captured.append(tau))
    plain = build([])
    plain.load_state_dict(tempered.state_dict(), strict=False)
    (q, k), (plain_q, plain_k) = rotated(tempered)[0], rotated(plain)[0]
    tau = captured[0]
    assert tau.shape == (1, 3, 8)
    assert tau.std() > 0.05
    torch.testing.assert_close(q, plain_q * tau.unsqueeze(-1), rtol=1e-12, atol=1e-13)
    assert torch.equal(k, plain_k)


@pytest.mark.parametrize(("stream", "part"), [("query", 0), ("key", 1)])
def test_a_stream_commutes_with_rotation(stream, part):
    """The second layer's sum turns as its two terms, which both models project alike."""
    with_stream, without = build([ResidualStream(stream=stream)]), build([])
    without.load_state_dict(with_stream.state_dict())
    summed, terms = rotated(with_stream), rotated(without)
    torch.testing.assert_close(summed[1][part], terms[1][part] + terms[0][part])
    torch.testing.assert_close(summed[1][1 - part], terms[1][1 - part])


def test_a_key_shift_does_not_commute_with_rotation():
    """The mixed key turns by its own index: shifting the rotated keys is another operation."""
    shifted, plain = build([KVShift(targets=("key",), init="induction")]), build([])
    plain.load_state_dict(shifted.state_dict(), strict=False)
    (_, mixed), (_, usual) = rotated(shifted)[0], rotated(plain)[0]
    assert (mixed[:, :, 1:] - usual[:, :, :-1]).abs().max() > 1e-2
    one_step = rotary(torch.ones(1, 7, dtype=torch.long), 8, 10_000.0, torch.float64)
    torch.testing.assert_close(mixed[:, :, 1:], one_step(usual[:, :, :-1]))
