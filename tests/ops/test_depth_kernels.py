"""The depth read's kernels: outputs and all gradients, and what PyTorch asks of an operator."""

from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import headway
from headway import AttentionResidual, HeadwayConfig, HeadwayForCausalLM, LayerShortcut, Mechanism
from headway.errors import HeadwayError
from headway.mechanisms.layer_shortcut import ShortcutAttention
from headway.ops import depth_op
from headway.ops.depth import depth_attention, depth_reference
from properties.strategies import make_loud

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPTIONS = ("both", 1e-3, 0.4, 1.7)


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Memory that nobody has written is full of NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def drawn(
    heads: int, count: int, rows: tuple[int, ...], channels: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, list[Tensor]]:
    """A query, of all rows if `heads` is 0, and sources."""
    generator = torch.Generator().manual_seed(heads + 100 * count + channels)
    shape = (heads, *rows, channels) if heads else (channels,)
    shapes = [shape, *[(*rows, channels)] * count]
    tensors = [torch.randn(s, generator=generator).to(DEVICE, dtype) for s in shapes]
    return tensors[0].requires_grad_(), [x.requires_grad_() for x in tensors[1:]]


def with_gradients(read: Any, query: Tensor, sources: list[Tensor], options: Any) -> list[Tensor]:
    """Output and gradients of all inputs, under one fixed gradient of the output."""
    out = read(query, sources, *options)
    out = out if isinstance(out, Tensor) else out[0]
    return [out, *torch.autograd.grad(out, [query, *sources], gradient_of(out))]


def gradient_of(out: Tensor) -> Tensor:
    return torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)


def in_float64(query: Tensor, sources: list[Tensor], options: Any) -> list[Tensor]:
    query, *sources = (x.detach().double().requires_grad_() for x in (query, *sources))
    return with_gradients(depth_reference, query, sources, options)


@pytest.mark.parametrize("normed", ["none", "keys", "both"])
@pytest.mark.parametrize(
    ("heads", "count", "rows", "channels"),
    [
        (0, 1, (1,), 10),
        (0, 5, (3, 5), 24),
        (0, 11, (63,), 5),
        (1, 2, (15,), 24),
        (3, 5, (1,), 10),
        (8, 11, (3, 5), 40),
        (3, 1, (2, 1), 70),
        (17, 18, (2,), 130),
    ],
)
def test_kernels_and_reference_agree(
    heads: int, count: int, rows: tuple[int, ...], channels: int, normed: str, poisoned: None
) -> None:
    query, sources = drawn(heads, count, rows, channels)
    options = (normed, *OPTIONS[1:])
    found = with_gradients(depth_op.depth_read, query, sources, options)
    expected = in_float64(query, sources, options)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize(("heads", "channels"), [(0, 24), (3, 40), (12, 300)])
def test_in_low_precision_the_error_is_at_most_twice_the_references(
    heads: int, channels: int, held: bool, monkeypatch: pytest.MonkeyPatch, poisoned: None
) -> None:
    if not held:
        monkeypatch.setattr(depth_op, "HELD", 0)
    query, sources = drawn(heads, 5, (4,), channels, torch.bfloat16)
    options = ("both", 1e-3, 0.2, 1.0)
    exact = in_float64(query, sources, options)
    low = with_gradients(depth_reference, query, sources, options)
    found = with_gradients(depth_op.depth_read, query, sources, options)
    for one, other, true in zip(found, low, exact, strict=True):
        assert one.dtype == torch.bfloat16
        bound = (other - true).abs().max() + torch.finfo(one.dtype).eps * true.abs().max()
        assert (one - true).abs().max() <= 2 * bound


@pytest.mark.parametrize("heads", [0, 2])
def test_a_single_source_gives_itself_and_moves_no_query(heads: int) -> None:
    query, sources = drawn(heads, 1, (5,), 24, torch.bfloat16)
    options = ("keys", 1e-3, 0.4, 1.7)
    out, by_query, by_source = with_gradients(depth_op.depth_read, query, sources, options)
    itself = (1.7 * sources[0]).expand_as(out)
    # The interpreter cuts off where a GPU rounds.
    torch.testing.assert_close(out, itself, rtol=2**-7, atol=0)
    torch.testing.assert_close(by_query, torch.zeros_like(query), rtol=0, atol=1e-4)
    (expected,) = torch.autograd.grad(itself, sources, gradient_of(out))
    torch.testing.assert_close(by_source, expected, rtol=2**-6, atol=2**-6)


def test_sources_of_several_dtypes() -> None:
    """As under autocast, where updates are in bfloat16 and the embedding in float32."""
    query, sources = drawn(0, 3, (5,), 24)
    sources = [*[x.detach().bfloat16().requires_grad_() for x in sources[1:]], sources[0]]
    found = with_gradients(depth_op.depth_read, query, sources, OPTIONS)
    kinds = [torch.float32, torch.float32, torch.bfloat16, torch.bfloat16, torch.float32]
    assert [x.dtype for x in found] == kinds
    for one, other in zip(found, in_float64(query, sources, OPTIONS), strict=True):
        tolerance = 1e-2 if one.dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)
    query, _ = drawn(2, 1, (5,), 24, torch.bfloat16)
    found = with_gradients(depth_op.depth_read, query, [x.float() for x in sources], OPTIONS)
    assert [x.dtype for x in found] == [torch.bfloat16] * 2 + [torch.float32] * 3


@settings(max_examples=8)
@given(st.integers(0, 3), st.integers(1, 5), st.randoms())
def test_sources_have_no_order_and_equal_ones_give_themselves(
    heads: int, count: int, random: Random
) -> None:
    query, sources = drawn(heads, count, (3,), 6)
    read = partial(depth_op.depth_read, query)
    shuffled = random.sample(sources, count)
    torch.testing.assert_close(read(shuffled, *OPTIONS)[0], read(sources, *OPTIONS)[0])
    same = read([sources[0]] * count, "keys", 1e-3, 0.4, 1.0)[0]
    torch.testing.assert_close(same, sources[0].expand_as(same))


def test_two_runs_over_many_programs_give_the_same_bits() -> None:
    query, sources = drawn(0, 3, (700,), 33)
    once = with_gradients(depth_op.depth_read, query, sources, OPTIONS)
    again = with_gradients(depth_op.depth_read, query, sources, OPTIONS)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    for one, other in zip(once, in_float64(query, sources, OPTIONS), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


def test_layouts_other_than_row_after_row() -> None:
    query, sources = drawn(3, 2, (2, 5), 6)
    expected = with_gradients(depth_op.depth_read, query, sources, OPTIONS)
    turned = query.transpose(1, 2).contiguous().transpose(1, 2)
    apart = [torch.stack([x, x], -1)[..., 0] for x in sources]
    assert not turned.is_contiguous()
    assert not apart[0].is_contiguous()
    for one, other in zip(
        with_gradients(depth_op.depth_read, turned, apart, OPTIONS), expected, strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("heads", [0, 2])
def test_pytorch_finds_no_fault_with_the_operators(heads: int) -> None:
    query, sources = drawn(heads, 3, (2, 3), 6)
    torch.library.opcheck(depth_op.depth_read, (query, sources, *OPTIONS))
    out, lse = depth_op.depth_read(query, sources, *OPTIONS)
    plain = [x.detach() for x in (torch.randn_like(out), query, *sources, out, lse)]
    grad, query, *sources = plain[:-2]
    torch.library.opcheck(
        depth_op.depth_read_backward, (grad, query, sources, *plain[-2:], *OPTIONS)
    )


def loss(query: Tensor, *sources: Tensor, read: Any) -> Tensor:
    out = read(query, list(sources), *OPTIONS)
    return (out if isinstance(out, Tensor) else out[0]).pow(2).sum()


@pytest.mark.parametrize("heads", [0, 2])
@pytest.mark.parametrize("dims", [(0, 0, 0), (None, 1, None), (0, None, 2), (1, None, None)])
def test_many_at_once(heads: int, dims: tuple[int | None, ...]) -> None:
    """Copies by `vmap`, with their gradients, as an ensemble trains them."""
    tensors = [x.detach() for pair in [drawn(heads, 2, (2, 3), 6)] for x in (pair[0], *pair[1])]
    if dims[0] == 1 and not heads:
        dims = (0, None, None)
    copies = [
        x if d is None else torch.stack([x, x + 0.3, -x], d)
        for x, d in zip(tensors, dims, strict=True)
    ]
    for read in (loss, torch.func.grad(loss, argnums=(0, 1, 2))):
        found, expected = (
            torch.func.vmap(partial(read, read=own), in_dims=dims)(*copies)
            for own in (depth_op.depth_read, depth_reference)
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_second_derivative_is_refused() -> None:
    query, sources = drawn(2, 2, (3,), 6)
    out, _ = depth_op.depth_read(query, sources, *OPTIONS)
    (grad,) = torch.autograd.grad(out.pow(2).sum(), query, create_graph=True)
    with pytest.raises(HeadwayError, match=r"no second derivative .* accepted is reference"):
        torch.autograd.grad(grad.sum(), query)


def test_many_at_once_compiled() -> None:
    query, sources = drawn(0, 2, (2, 3), 6)
    copies = [torch.stack([x.detach(), 2 * x.detach()]) for x in (query, *sources)]
    found, expected = (
        torch.func.vmap(torch.func.grad(partial(loss, read=own), argnums=(0, 1, 2)))
        for own in (depth_op.depth_read, depth_reference)
    )
    compiled = torch.compile(found, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*copies), expected(*copies), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", [0, 2])
def test_compiled_in_one_graph(heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query, sources = drawn(heads, 3, (2, 3), 6)

    def read(query: Tensor, sources: list[Tensor], *options: Any) -> Tensor:
        normed, eps, scale, gain = options
        named = {"normed": normed, "eps": eps, "scale": scale, "gain": gain}
        return depth_attention(2 * query, [x + 1 for x in sources], **named)

    monkeypatch.setenv("HEADWAY_OPS", "reference")
    expected = with_gradients(read, query, sources, OPTIONS)
    monkeypatch.setenv("HEADWAY_OPS", "triton")
    compiled = torch.compile(read, fullgraph=True, backend="aot_eager")
    found = with_gradients(compiled, query, sources, OPTIONS)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def model_results(model: nn.Module) -> list[Tensor]:
    """Logits and the gradients of all parameters."""
    tokens = torch.randint(10, (2, 5), generator=torch.Generator().manual_seed(3)).to(DEVICE)
    logits = model(tokens, use_cache=False).logits
    names, parameters = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(logits.pow(2).sum(), parameters, allow_unused=True)
    assert all(g is not None for n, g in zip(names, grads, strict=True) if "shortcut" in n)
    return [logits, *[g for g in grads if g is not None]]


@pytest.mark.parametrize(
    "mechanism",
    [
        AttentionResidual(),
        AttentionResidual(total="count"),
        LayerShortcut(taps=(0, 1, 2, 3), reach="token", features="none"),
        LayerShortcut(taps=(0, 1, 2, 3), reach="token", width=6, mode="add"),
    ],
)
@pytest.mark.filterwarnings("ignore:the logits change at once")
@pytest.mark.parametrize("host", ["own", "llama"])
def test_models_on_both_paths(
    host: str, mechanism: Mechanism, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 20,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    }
    if host == "own":
        model: Any = HeadwayForCausalLM(HeadwayConfig(**sizes, mechanisms=[mechanism]))
    else:
        model = headway.attach(LlamaForCausalLM(LlamaConfig(**sizes)), [mechanism])
    make_loud(model)
    model = model.to(DEVICE).eval()
    shortcuts = [m for m in model.modules() if isinstance(m, ShortcutAttention)]
    calls: list[int] = []
    launch = depth_op._options
    monkeypatch.setattr(depth_op, "_options", lambda *a: (calls.append(1), launch(*a))[1])
    monkeypatch.setenv("HEADWAY_OPS", "reference")
    expected = model_results(model)
    assert not calls
    monkeypatch.setenv("HEADWAY_OPS", "triton")
    found = model_results(model)
    assert calls
    assert all(m.absorbs for m in shortcuts)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * other.abs().max().item())
