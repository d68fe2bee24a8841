"""Residual streams against plain sums, and what reaches a layer by them."""

import pytest
import torch
from torch import Tensor

from headway import (
    QKV,
    HeadwayError,
    HeadwayForCausalLM,
    KVShift,
    ResidualStream,
    Streams,
    check_list,
)
from mechanisms.helpers import DIMS, built, close, context, projections, tiny, tokens

FIRST, PREVIOUS = projections(1), projections(2)


@pytest.mark.parametrize("stream", ["value", "key", "query"])
@pytest.mark.parametrize("source", ["previous", "first"])
@pytest.mark.parametrize("scale", [1.0, 0.5, -2.0, "layer", "head"])
def test_the_source_is_added_to_one_projection(stream: str, source: str, scale: object) -> None:
    module = built(ResidualStream(stream=stream, source=source, scale=scale))
    before, ctx = projections(), context(streams=Streams(FIRST, PREVIOUS))
    after = module.prologue(before, ctx)
    given = {"previous": PREVIOUS, "first": FIRST}[source]
    for name in "qkv":
        own, other = getattr(before, name), getattr(given, name)
        if name != stream[0]:
            assert getattr(after, name) is own
            continue
        for head in range(own.shape[1]):
            if isinstance(scale, str):
                column = head if scale == "head" else 0
                a, b = module.weights[:, column].tolist()
                assert a != b
            else:
                a = b = scale
            close(getattr(after, name)[:, head], a * own[:, head] + b * other[:, head])


def test_learned_weights_start_as_named() -> None:
    heads = {"value": 2, "query": 4}
    for stream, count in heads.items():
        paper = built(ResidualStream(stream=stream, scale="head"), loud=False)
        assert paper.weights.tolist() == [[1.0] * count] * 2
    identity = built(ResidualStream(scale="layer", init="identity"), loud=False)
    assert identity.weights.tolist() == [[1.0], [0.0]]
    assert not list(built(ResidualStream()).parameters())


def test_the_first_layer_has_no_source() -> None:
    assert ResidualStream().build(DIMS, 0) is None
    with pytest.raises(HeadwayError, match=r"after the first was given no streams"):
        built(ResidualStream()).prologue(projections(), context())


def changed_value_matrix(model: HeadwayForCausalLM, layer: int) -> Tensor:
    """Logits after another draw of one layer's W_V."""
    with torch.no_grad():
        weight = model.model.layers[layer].self_attn.v_proj.weight
        held = weight.clone()
        weight.copy_(torch.randn_like(weight))
        out = model(tokens(model)).logits
        weight.copy_(held)
    return out


@pytest.mark.parametrize(("source", "reaching"), [("previous", 1), ("first", 0)])
def test_raw_projections_are_passed_on_never_sums(source: str, reaching: int) -> None:
    model = tiny(ResidualStream(source=source), KVShift())
    for layer in (0, 1):
        # Nothing of these layers' attention enters the residual stream.
        torch.nn.init.zeros_(model.model.layers[layer].self_attn.o_proj.weight)
    with torch.no_grad():
        before = model(tokens(model)).logits
    for layer in (0, 1):
        moved = not torch.equal(changed_value_matrix(model, layer), before)
        assert moved == (layer == reaching)


def test_half_of_the_first_layer_is_resformer() -> None:
    model = tiny(ResidualStream(source="first", scale=0.5), seed=4)
    plain = tiny(seed=5)
    plain.load_state_dict(model.state_dict())
    inputs, firsts = tokens(model), []

    def mix(layer: int, projected: Tensor) -> Tensor:
        if layer == 0:
            firsts.append(projected)
            return projected
        return 0.5 * firsts[0] + 0.5 * projected

    for i, layer in enumerate(plain.model.layers):
        layer.self_attn.v_proj.register_forward_hook(lambda _, __, out, i=i: mix(i, out))
    with torch.no_grad():
        close(model(inputs).logits, plain(inputs).logits)


def test_at_two_layers_previous_is_first_and_half_is_one_after_rescaling() -> None:
    sizes = {"num_hidden_layers": 2, "seed": 6}
    unit = tiny(ResidualStream(), **sizes)
    half = tiny(ResidualStream(source="first", scale=0.5), **sizes)
    half.load_state_dict(unit.state_dict())
    with torch.no_grad():
        half.model.layers[1].self_attn.o_proj.weight.mul_(2)
        close(unit(tokens(unit)).logits, half(tokens(unit)).logits)


def test_streams_remember_the_first_and_the_previous_layer() -> None:
    a, b, c = (QKV(*(torch.full((1,), float(n)),) * 3) for n in range(3))
    streams = Streams().push(a)
    assert streams == (a, a)
    assert streams.push(b).push(c) == (a, c)


def test_clashes_and_refusals() -> None:
    check_list([ResidualStream(), ResidualStream(stream="key")], DIMS)
    with pytest.raises(HeadwayError, match="written twice"):
        check_list([ResidualStream(), ResidualStream(source="first")], DIMS)
    with pytest.raises(HeadwayError, match=r"scale: 1.0 is fixed .*'layer' or 'head'"):
        ResidualStream(init="identity")
    with pytest.raises(HeadwayError, match=r"scale: 'heads' is not accepted; .*'layer' or 'head'"):
        ResidualStream(scale="heads")


def test_what_is_shown_are_the_learned_weights() -> None:
    module = built(ResidualStream(stream="key", scale="head"))
    assert torch.equal(module.learned()["key own, source"], module.weights)
    assert built(ResidualStream()).learned() == {}
