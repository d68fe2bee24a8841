"""The compiled program of an ensemble: the same numbers, alone or together, at once or by steps."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from headway import HeadwayConfig, HeadwayForCausalLM, KVShift, ResidualStream
from headway.bench.toys import classification
from headway.errors import HeadwayError
from headway.mechanisms.fused import FusedPrologue
from headway.training.ensemble import Ensemble
from headway.training.ensemble_attention import FoldedAttention
from headway.training.ensemble_layout import ALIGNED, Layout
from headway.training.ensemble_program import at
from headway.training.initialise import seed_weights
from headway.training.update_rules import SGD, AdamW

STEPS = 200
TOY = classification(batch=4, pairs=4, slots=9, width=8, labels=4, classes=8, novel_classes=8)


def squares(call, batch: Tensor) -> Tensor:
    return (call(batch) - 1).square().mean()


def lines(copies: int) -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)) for _ in range(copies)]


def test_compiled_copies_equal_the_same_seeds_trained_alone(tmp_path: Path) -> None:
    """Within 1e-4 after 200 steps, through a file, beside one frozen and one that diverges."""
    models, rates = [TOY.model(seed) for seed in range(4)], [1.0, 0.5, 1.0, 1.0]
    batches, rate = TOY.batches(4, STEPS, "cpu"), torch.linspace(0.1, 0.02, STEPS)
    batches["inputs"][30, 3] = float("inf")
    middle = STEPS // 2
    half, rest = (
        {k: v[s] for k, v in batches.items()} for s in (slice(middle), slice(middle, None))
    )
    first = Ensemble.of(models, TOY.loss, SGD(), rates, compiled=True)
    losses = [first.run(half, rate[:middle])]
    first.freeze(torch.tensor([False, False, True, False]))
    first.save(tmp_path / "half.safetensors")
    second = Ensemble.of(list(reversed(models)), TOY.loss, SGD())
    second.load(tmp_path / "half.safetensors")
    losses.append(second.run(rest, rate[middle:]))
    found = torch.cat(losses)
    assert found.shape == (STEPS, 4)
    assert second.active.tolist() == [True, True, False, False]
    assert second.steps.tolist() == [STEPS, STEPS, middle, 30]
    assert second.rows.isfinite().all()
    for number, taken in enumerate([STEPS, STEPS, middle, 30]):
        model = TOY.model(number)
        optimiser = torch.optim.SGD(model.parameters())
        for step in range(taken):
            optimiser.param_groups[0]["lr"] = float(rate[step]) * rates[number]
            loss = TOY.loss(model, {k: v[step, number] for k, v in batches.items()})
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            assert abs(loss.item() - found[step, number].item()) < 1e-4, (number, step)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(second.parameters[name][number], parameter.detach())
    assert found[-20:, :2].mean() < found[:20, :2].mean() - 0.05


@pytest.mark.parametrize("rule", [SGD(clip=0.1), AdamW(clip=0.1, weight_decay=0.2)])
def test_fixed_parameters_are_as_if_they_asked_for_no_gradient(rule) -> None:
    """They keep their bits, and count neither in the norm nor in the decay."""
    if isinstance(rule, AdamW):
        rule = AdamW(clip=0.1, weight_decay=0.2, decayed={"0.weight", "2.weight"})
    models = lines(2)
    batches = torch.randn(20, 2, 5, 3, generator=torch.Generator().manual_seed(1))
    ensemble = Ensemble.of(models, squares, rule, fixed=[["0.weight"], []])
    losses = ensemble.run(batches, torch.full((20,), 0.05))
    model = models[0]
    model[0].weight.requires_grad_(False)
    free = [p for p in model.parameters() if p.requires_grad]
    kinds = {SGD: torch.optim.SGD, AdamW: torch.optim.AdamW}
    groups = [
        {"params": [p for p in free if p.dim() > 1]},
        {"params": [p for p in free if p.dim() < 2]},
    ]
    if isinstance(rule, AdamW):
        groups = [
            g | {"weight_decay": d, "betas": (0.9, 0.95)}
            for g, d in zip(groups, (0.2, 0.0), strict=True)
        ]
    optimiser = kinds[type(rule)](groups, lr=0.05)
    for step in range(20):
        loss = squares(model, batches[step, 0])
        assert abs(loss.item() - losses[step, 0].item()) < 1e-5
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(free, 0.1)
        optimiser.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ensemble.parameters[name][0], parameter.detach())
    assert torch.equal(ensemble.parameters["0.weight"][0], model[0].weight)
    assert not torch.equal(ensemble.parameters["0.weight"][1], models[1][0].weight)


def test_many_steps_at_once_are_the_same_steps() -> None:
    batches = {"x": torch.randn(4, 2, 5, 3)}
    at_once, by_steps = (
        Ensemble.of(lines(2), lambda call, b: squares(call, b["x"]), AdamW()) for _ in range(2)
    )
    losses = at_once.run(batches, torch.linspace(0.1, 0.4, 4))
    for number, rate in enumerate(torch.linspace(0.1, 0.4, 4)):
        assert torch.equal(by_steps.step(at(batches, number), rate), losses[number])
    assert torch.equal(at_once.rows, by_steps.rows)


def test_mechanisms_without_parameters_make_another_architecture() -> None:
    sizes = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    models = [
        HeadwayForCausalLM(HeadwayConfig(**sizes, mechanisms=m)) for m in ([], [ResidualStream()])
    ]
    shapes = [[p.shape for p in m.parameters()] for m in models]
    assert shapes[0] == shapes[1]
    with pytest.raises(HeadwayError, match="models: they are not of one architecture"):
        Ensemble.of(models, squares, SGD())


@pytest.mark.parametrize(
    ("fixed", "words"),
    [([["0.weight"]], "fixed: 1 sets of names"), ([[], ["taps"]], "fixed: 'taps' is no parameter")],
)
def test_wrong_names_to_fix_are_refused(fixed, words) -> None:
    with pytest.raises(HeadwayError, match=words):
        Ensemble.of(lines(2), squares, SGD(), fixed=fixed)


def test_several_dtypes_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    with pytest.raises(HeadwayError, match=r"models: parameters of torch\.float32, torch\.float64"):
        Ensemble.of([model], squares, SGD())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=4), st.integers(1, 3))
def test_rows_hold_parameters_apart_and_in_place(shapes, copies) -> None:
    layout = Layout({str(i): torch.Size(s) for i, s in enumerate(shapes)})
    given_copies = [{n: torch.rand(s) for n, s in layout.shapes.items()} for _ in range(copies)]
    rows = layout.pack(given_copies)
    assert rows.shape == (copies, layout.width)
    for name, view in layout.views(rows).items():
        assert torch.equal(view, torch.stack([c[name] for c in given_copies]))
        assert view.storage_offset() % ALIGNED == 0
        view.zero_()
    assert not rows.any(), "every number of the row is a parameter's, or zero"
    spread = layout.spread({name: i + 1.0 for i, name in enumerate(layout.shapes)})
    for number, view in enumerate(layout.views(spread).values()):
        assert (view == number + 1).all()


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([20, 64, 70]), st.sampled_from([6, 16]), st.sampled_from([1, 2]),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_folded_attention_is_attention(length, width, groups, causal, shared) -> None:
    """Values and gradients, against each copy alone in float64; shared values, grouped heads."""
    generator = torch.Generator().manual_seed(length + width)
    q, k, v = (
        torch.randn(3, 2, heads, length, width, generator=generator)
        for heads in (2, groups, groups)
    )
    weights = torch.linspace(-1, 1, width)

    def loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(
            q, k, v, is_causal=causal, scale=0.3, enable_gqa=groups == 1
        )
        return (out * weights.to(out)).square().sum()

    def folded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with FoldedAttention():
            return loss(q, k, v)

    dims = (0, 0, None if shared else 0)
    mapped = vmap(grad_and_value(folded, argnums=(0, 1, 2)), in_dims=dims)
    gradients, losses = mapped(q, k, v[0] if shared else v)
    for copy in range(3):
        alone = [t[copy].double().requires_grad_() for t in (q, k, v)]
        if shared:
            alone[2] = v[0].double().requires_grad_()
        expected = loss(*alone)
        torch.testing.assert_close(losses[copy].double(), expected, rtol=1e-4, atol=1e-4)
        for found, leaf in zip(gradients, torch.autograd.grad(expected, alone), strict=True):
            torch.testing.assert_close(found[copy].double(), leaf, rtol=1e-3, atol=1e-3)


def test_long_sequences_of_all_copies_are_one_fused_call() -> None:
    config = HeadwayConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        mechanisms=[KVShift()],
    )  # fmt: skip
    models = [HeadwayForCausalLM(config) for _ in range(4)]
    for seed, model in enumerate(models):
        seed_weights(model, seed)
    ensemble = Ensemble.of(models, squares_of_logits, SGD())
    batch = torch.randint(8, (4, 2, 64))
    traced = make_fx(lambda b: ensemble.gradients(b)[0])(batch)
    names = [str(n.target) for n in traced.graph.nodes if "attention" in str(n.target)]
    assert len(names) == 2, names
    gradient = ensemble.gradients(batch)[0]["model.layers.0.self_attn.q_proj.weight"]
    squares_of_logits(models[1], batch[1]).backward()
    torch.testing.assert_close(gradient[1], models[1].model.layers[0].self_attn.q_proj.weight.grad)


def squares_of_logits(call, batch: Tensor) -> Tensor:
    return call(batch, use_cache=False).logits.square().mean()


def test_copies_run_plain_operations_and_models_keep_their_kernels() -> None:
    config = HeadwayConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        mechanisms=[KVShift()],
    )  # fmt: skip
    model = HeadwayForCausalLM(config)
    ensemble = Ensemble.of([model, model], squares_of_logits, SGD())
    own, shared = (
        [m.choice for m in made.modules() if isinstance(m, FusedPrologue)]
        for made in (model, ensemble.template)
    )
    assert own == ["auto"]
    assert shared == ["reference"]
