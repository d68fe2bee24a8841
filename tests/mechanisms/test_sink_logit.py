"""A sink is one more column in the softmax that is dropped afterwards."""

import pytest
import torch
from torch import Tensor

from headway import HeadwayError, SinkLogit
from headway.ops.attention import eager_attention, scores
from headway.ops.visibility import Visibility
from mechanisms.helpers import POSITIONS, built, close, context, projections, tiny, tokens

VISIBLE = Visibility(POSITIONS, 0, 6, False)


def with_a_dropped_column(sink: Tensor) -> Tensor:
    """Attention over `softmax([scores, sink])` without the last column; `sink` is `(H,)`."""
    q, k, v = projections()
    column = sink[None, :, None, None].expand(2, 4, 6, 1)
    weights = torch.cat([scores(q, k, VISIBLE, 0.7), column], dim=-1).softmax(-1)[..., :-1]
    return weights @ v.repeat_interleave(2, dim=1)


def test_a_learned_sink_is_a_dropped_column() -> None:
    module = built(SinkLogit())
    out, lse = eager_attention(*projections(), VISIBLE, 0.7)
    assert module.logit.unique().numel() == 4
    close(module.epilogue(out, lse, context()), with_a_dropped_column(module.logit))


def test_a_fixed_sink_is_softmax_off_by_one() -> None:
    module = built(SinkLogit(learned=False))
    assert not list(module.parameters())
    q, k, v = projections()
    out, lse = eager_attention(q, k, v, VISIBLE, 0.7)
    powers = scores(q, k, VISIBLE, 0.7).exp()
    weights = powers / (1 + powers.sum(-1, keepdim=True))
    close(module.epilogue(out, lse, context()), weights @ v.repeat_interleave(2, dim=1))


def test_starts_and_refusals() -> None:
    assert not built(SinkLogit(), loud=False).logit.any()
    out, lse = eager_attention(*projections(), VISIBLE, 0.7)
    identity = built(SinkLogit(init="identity"), loud=False).float()
    assert torch.equal(identity.epilogue(out.float(), lse.float(), context()), out.float())
    with pytest.raises(HeadwayError, match="do nothing for ever with learned=false"):
        SinkLogit(learned=False, init="identity")
    with pytest.raises(HeadwayError, match="log-sum-exp of attention is missing"):
        built(SinkLogit()).epilogue(out, None, context())


def test_a_huge_sink_silences_the_heads_of_a_model() -> None:
    model, plain = tiny(SinkLogit()), tiny()
    plain.load_state_dict(model.state_dict(), strict=False)
    for layer in model.model.layers:
        torch.nn.init.constant_(layer.self_attn.mechanisms.members["sink_logit"].logit, 200.0)
    for layer in plain.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    with torch.no_grad():
        close(model(tokens(model)).logits, plain(tokens(plain)).logits)


def test_what_is_shown_is_the_logit() -> None:
    module = built(SinkLogit())
    assert torch.equal(module.learned()["sink logit"], module.logit)
    assert built(SinkLogit(learned=False)).learned() == {}
