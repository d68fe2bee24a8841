"""What a compiled training step keeps for its backward, and what it computes once."""

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import min_cut_rematerialization_partition
from small_models import COMPOSED, small, tokens
from torch._dynamo.backends.common import aot_autograd
from torch.func import functional_call, grad, vmap

from headway.decoder import block
from headway.decoder.block import FeedForward

WIDTH = 48
PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.bmm.default)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Graphs:
    """Forward and backward graph of a compiled training step."""

    def __init__(self, model, ids):
        def keep(name):
            def compiler(graph, inputs):
                setattr(self, name, graph.graph)
                return graph

            return compiler

        backend = aot_autograd(
            fw_compiler=keep("forward"),
            bw_compiler=keep("backward"),
            partition_fn=min_cut_rematerialization_partition,
        )
        self.loss = torch.compile(model, fullgraph=True, backend=backend)(ids, labels=ids).loss
        self.loss.backward()

    def kept(self):
        """Shapes of what the forward hands to the backward, but for parameters."""
        *_, output = self.forward.nodes
        made = [n for n in output.args[0] if isinstance(n, torch.fx.Node) and n.op != "placeholder"]
        return [tuple(n.meta["val"].shape) for n in made if hasattr(n.meta["val"], "shape")]


def count(graph, *targets):
    return sum(n.target in targets for n in graph.nodes)


def model_of(mechanisms=()):
    return small(list(mechanisms), intermediate_size=WIDTH, num_hidden_layers=2).float().train()


def test_the_gated_product_is_computed_again():
    model, ids = model_of(), tokens(2, 17)
    graphs = Graphs(model, ids)
    wide = [shape for shape in graphs.kept() if shape[-1:] == (WIDTH,)]
    assert len(wide) == 2 * 2, "gate and up of every layer, and not their product"
    assert count(graphs.backward, *PRODUCTS) == 2 * count(graphs.forward, *PRODUCTS)


@pytest.mark.parametrize("mechanisms", [[], COMPOSED], ids=["plain", "composed"])
def test_gradients_stay(mechanisms):
    model, ids = model_of(mechanisms), tokens(2, 17)
    Graphs(model, ids)
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=2e-5, msg=name)


def test_uncompiled_nothing_is_computed_twice():
    model, ids, runs = model_of(), tokens(2, 17), []
    model.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda *_: runs.append(1))
    model(ids, labels=ids).loss.backward()
    assert len(runs) == 1


def test_checkpointing_around_it():
    model, ids = model_of(), tokens(2, 17)
    plain = Graphs(model, ids)
    torch._dynamo.reset()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    frugal = Graphs(model, ids)
    torch.testing.assert_close(frugal.loss, plain.loss)
    assert len(frugal.kept()) < len(plain.kept())


def test_copies_that_train_together():
    """torch.func has no checkpoints: there the product is kept."""
    layer = FeedForward(model_of().config)
    stacked = {name: torch.stack([p, 2 * p]).detach() for name, p in layer.named_parameters()}
    x = torch.randn(2, 3, layer.down_proj.out_features)

    def loss(parameters, x):
        return functional_call(layer, parameters, (x,)).square().sum()

    expected = vmap(grad(loss))(stacked, x)
    found = torch.compile(vmap(grad(loss)), fullgraph=True, backend="aot_eager")(stacked, x)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


@pytest.mark.parametrize("act", ["silu", "gelu"])
def test_gate_and_up_in_one_piece(act, monkeypatch):
    layer = FeedForward(small([], hidden_act=act).config).double()
    x = torch.randn(2, 5, layer.down_proj.out_features, dtype=torch.float64)
    apart = layer(x)

    def joined(linears, x):
        return F.linear(x, torch.cat([linear.weight for linear in linears]))

    monkeypatch.setattr(block, "in_one_piece", joined)
    torch.testing.assert_close(layer(x), apart)


def test_angles_are_computed_once():
    model, ids = model_of(), tokens(2, 17)
    graphs = Graphs(model, ids)
    assert count(graphs.forward, torch.ops.headway.rotary_angles.default) == 1
    computed = (torch.ops.aten.sin.default, torch.ops.aten.cos.default, torch.ops.aten.pow.Scalar)
    for graph in (graphs.forward, graphs.backward):
        assert count(graph, *computed) == 0
    assert count(graphs.backward, torch.ops.headway.rotary_angles.default) == 0


def test_rows_alike_share_one_table():
    seen = []
    model, ids = model_of(), tokens(2, 9)
    model.model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    model(ids)
    model(ids, position_ids=torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4], [*range(9)]]))
    assert [run.rotation.cos.shape[0] for run in seen] == [1, 2]
