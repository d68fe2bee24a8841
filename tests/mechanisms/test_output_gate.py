"""Output gates against plain loops."""

import pytest
import torch

from headway import HeadwayError, OutputGate
from mechanisms.helpers import DIMS, built, close, context, projections, tiny


@pytest.mark.parametrize("init", ["paper", "identity"])
@pytest.mark.parametrize("granularity", ["channel", "head"])
def test_each_output_is_gated_by_the_input_of_its_own_token(granularity: str, init: str) -> None:
    module, out, ctx = (
        built(OutputGate(granularity=granularity, init=init)),
        projections().q,
        context(),
    )
    gated = module.epilogue(out, None, ctx)
    weight = module.gate.weight.detach().unflatten(0, (DIMS.num_attention_heads, -1))
    assert weight.shape[1] == (DIMS.head_dim if granularity == "channel" else 1)
    for b in range(2):
        for h in range(4):
            for t in range(6):
                gate = (weight[h] @ ctx.hidden[b, t]).sigmoid() * (2 if init == "identity" else 1)
                close(gated[b, h, t], out[b, h, t] * gate)


def test_starts() -> None:
    out = projections().q
    identity = built(OutputGate(init="identity"), loud=False)
    assert torch.equal(identity.epilogue(out, None, context()), out)
    wide = tiny(OutputGate(), hidden_size=64, initializer_range=0.2)
    wide.apply(wide._init_weights)
    drawn = wide.model.layers[0].self_attn.mechanisms.members["output_gate"].gate.weight
    assert 0.17 < drawn.std() < 0.23


def test_it_needs_the_hidden_state() -> None:
    with pytest.raises(HeadwayError, match=r"Context\.hidden is missing"):
        built(OutputGate()).epilogue(projections().q, None, context(hidden=None))
