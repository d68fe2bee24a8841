"""Every path of the fused loss gives the loss of all logits, and its gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from headway import HeadwayError
from headway.ops import choice, loss
from headway.ops.loss import linear_cross_entropy, loss_path, reference_cross_entropy

has_torch_path = pytest.mark.skipif(
    not hasattr(F, "linear_cross_entropy"), reason="this torch has no linear_cross_entropy"
)


def problem(
    tokens: int, vocabulary: int = 13, width: int = 6, seed: int = 0, dtype=torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head and labels, some of which do not count."""
    drawn = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=drawn, dtype=torch.float64).to(dtype)
    weight = torch.randn(vocabulary, width, generator=drawn, dtype=torch.float64).to(dtype)
    labels = torch.randint(vocabulary, (tokens,), generator=drawn)
    labels[torch.rand(tokens, generator=drawn) < 0.3] = -100
    return hidden.requires_grad_(), weight.requires_grad_(), labels


def by_hand(hidden: Tensor, weight: Tensor, labels: Tensor) -> float:
    total = 0.0
    for row, label in zip(hidden.tolist(), labels.tolist(), strict=True):
        if label == -100:
            continue
        scores = [sum(a * b for a, b in zip(row, w, strict=True)) for w in weight.tolist()]
        total += math.log(sum(math.exp(s) for s in scores)) - scores[label]
    return total


def gradients(found: Tensor, *by: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(found, by)


@pytest.fixture
def small_chunks(monkeypatch):
    """Four rows of float64 at once."""
    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * 13 * 8)


def test_the_reference_is_the_definition():
    hidden, weight, labels = problem(9)
    found = reference_cross_entropy(hidden, weight, labels)
    assert found.item() == pytest.approx(by_hand(hidden, weight, labels), rel=1e-12)


@pytest.mark.parametrize("asked", ["reference", pytest.param("triton", marks=has_torch_path)])
def test_gradients_are_those_of_the_loss(asked, monkeypatch, small_chunks):
    monkeypatch.setenv(choice.CHOICE, asked)
    monkeypatch.setattr(choice, "INTERPRETED", False)
    hidden, weight, labels = problem(9)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, labels), (hidden, weight)
    )


@has_torch_path
@given(tokens=st.integers(1, 19), seed=st.integers(0, 99))
def test_chunks_change_nothing(tokens, seed):
    hidden, weight, labels = problem(tokens, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(choice.CHOICE, "triton")
        patch.setattr(choice, "INTERPRETED", False)
        patch.setattr(loss, "CHUNK_BYTES", 4 * 13 * 8)
        assert loss_path("cpu", torch.float64) == "torch"
        found = linear_cross_entropy(hidden, weight, labels)
    expected = reference_cross_entropy(hidden, weight, labels)
    torch.testing.assert_close(found, expected)
    for mine, other in zip(
        gradients(found / 3, hidden, weight), gradients(expected / 3, hidden, weight), strict=True
    ):
        torch.testing.assert_close(mine, other)


@pytest.mark.skipif(not choice.INTERPRETED, reason="Triton's interpreter is off")
@pytest.mark.parametrize("tokens", [1, 15, 40])
def test_liger_beside_the_reference(tokens, monkeypatch):
    pytest.importorskip("liger_kernel")
    monkeypatch.setenv(choice.CHOICE, "triton")
    monkeypatch.setattr(loss, "CHUNK_BYTES", 8 * 13 * 4)
    hidden, weight, labels = problem(tokens, dtype=torch.float32)
    assert loss_path("cpu", torch.float32) == "liger"
    expected = reference_cross_entropy(hidden, weight, labels)
    slopes = gradients(expected / 3, hidden, weight)
    torch._dynamo.reset()
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")
    for run in (linear_cross_entropy, compiled):
        found = run(hidden, weight, labels)
        torch.testing.assert_close(found, expected)
        for mine, other in zip(gradients(found / 3, hidden, weight), slopes, strict=True):
            torch.testing.assert_close(mine, other)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(hidden, weight, labels), expected)


@pytest.mark.skipif(not choice.INTERPRETED, reason="Triton's interpreter is off")
@pytest.mark.parametrize("wanted", [True, False])
def test_liger_is_a_whole_operator(wanted):
    pytest.importorskip("liger_kernel")
    hidden, weight, labels = problem(10, dtype=torch.float32)
    matrices = (hidden, weight) if wanted else (hidden.detach(), weight.detach())
    torch.library.opcheck(loss._liger, (*matrices, labels, -100, wanted))


def test_autocast_multiplies_as_a_linear_layer_does(monkeypatch):
    monkeypatch.setenv(choice.CHOICE, "reference")
    hidden, weight, labels = problem(9, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_cross_entropy(hidden, weight, labels)
    rounded = [x.detach().bfloat16() for x in (hidden, weight)]
    assert found.dtype == torch.float32
    assert torch.equal(found, reference_cross_entropy(*rounded, labels))


@has_torch_path
def test_autocast_of_a_fused_path(monkeypatch, small_chunks):
    monkeypatch.setattr(loss, "loss_path", lambda device, dtype: "torch")
    hidden, weight, labels = problem(9, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(linear_cross_entropy(hidden, weight, labels), hidden, weight)
    for gradient in found:
        assert gradient.dtype == torch.float32
        assert torch.equal(gradient, gradient.bfloat16().float()), "not computed in bfloat16"


@has_torch_path
def test_which_path(monkeypatch):
    monkeypatch.setattr(choice, "INTERPRETED", False)
    monkeypatch.setenv(choice.CHOICE, "auto")
    assert loss_path("cpu", torch.float32) == "reference"
    assert loss_path("cuda", torch.float32) in ("liger", "torch")
    monkeypatch.setattr(loss, "find_spec", lambda name: None)
    assert loss_path("cuda", torch.float32) == "torch"
    assert loss_path("cuda", torch.bfloat16) == "reference", "torch's would round the loss"
    monkeypatch.setenv(choice.CHOICE, "reference")
    assert loss_path("cuda", torch.float32) == "reference"
    monkeypatch.setenv(choice.CHOICE, "triton")
    assert loss_path("cpu", torch.float32) == "torch"
    monkeypatch.setattr(loss, "find_spec", lambda name: object())
    assert loss_path("cuda", torch.bfloat16) == "liger"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_forced_path_that_is_not_there_is_refused(dtype, monkeypatch):
    monkeypatch.setenv(choice.CHOICE, "triton")
    monkeypatch.setattr(loss, "find_spec", lambda name: None)
    monkeypatch.delattr(F, "linear_cross_entropy", raising=False)
    hidden, weight, labels = problem(3, dtype=dtype)
    with pytest.raises(HeadwayError, match=f"HEADWAY_OPS: 'triton'.*{dtype}.*on cpu.*reference"):
        linear_cross_entropy(hidden, weight, labels)


def test_the_path_is_told_once(monkeypatch, caplog):
    monkeypatch.setattr(choice, "_said", set())
    monkeypatch.setenv(choice.CHOICE, "auto")
    caplog.set_level("INFO", logger="headway")
    for _ in range(3):
        linear_cross_entropy(*problem(3))
    assert caplog.messages == ["cross-entropy of torch.float64 on cpu: reference"]


def test_labels_that_do_not_count_have_no_gradient(monkeypatch):
    monkeypatch.setenv(choice.CHOICE, "reference")
    hidden, weight, labels = problem(12)
    (by_hidden,) = gradients(linear_cross_entropy(hidden, weight, labels), hidden)
    assert torch.equal(by_hidden.abs().sum(-1) == 0, labels == -100)
    assert linear_cross_entropy(hidden, weight, torch.full_like(labels, -100)).item() == 0.0


def test_rows_of_a_chunk(monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_BYTES", 2**20)
    assert loss.chunk_rows(10_000, 1024, 2) == 512
    assert loss.chunk_rows(100, 1024, 2) == 100, "no more than there are"
    assert loss.chunk_rows(100, 2**22, 2) == 1, "at least one"
