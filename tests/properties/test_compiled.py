"""One graph without breaks, with the results of the eager model."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from headway import (
    AttentionResidual,
    KVShift,
    LayerShortcut,
    Mechanism,
    OutputGate,
    ResidualStream,
    ScalableSoftmax,
    SelectiveAttention,
    ShortConv,
    SinkLogit,
)
from properties.strategies import MECHANISMS, Case, assert_equal, cases, logits, one_of_each

EVERYTHING: tuple[Mechanism, ...] = (
    KVShift(window=2, granularity="channel"),
    ResidualStream(scale="head"),
    ResidualStream(stream="query", source="first", scale=0.5),
    ShortConv(),
    SelectiveAttention(token="mlp", per_head=True),
    ScalableSoftmax(bias=True),
    SinkLogit(),
    OutputGate(),
    AttentionResidual(),
    LayerShortcut(mode="add", width=8),
)
HOST = {
    "heads": (4, 2),
    "head_dim": 6,
    "num_hidden_layers": 2,
    "position": "rope",
    "qk_norm": True,
    "norm": "rms",
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_multiplier": None,
    "attn_implementation": "sdpa",
}

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing compiled before counts."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compare(case: Case, backend: str, lengths: tuple[int, ...] = (9,)) -> None:
    """One graph serves sequences of these lengths; several make the length symbolic."""
    model = case.model()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=len(lengths) > 1)
    for length in lengths:
        tokens = case.tokens(2, length)
        assert_equal(logits(compiled, tokens), logits(model, tokens))


@pytest.mark.parametrize("name", MECHANISMS)
def test_each_mechanism_compiles_into_one_graph(name: str) -> None:
    @given(cases(one_of_each(name), num_hidden_layers=st.just(2)))
    @settings(max_examples=1, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
    def holds(case: Case) -> None:
        compare(case, "aot_eager")

    holds()


def test_one_graph_serves_all_lengths() -> None:
    compare(Case(HOST, (), seed=1), "aot_eager", (9, 6, 11))
    # Capturing alone, as the backend costs more than it can show here.
    compare(Case(HOST, EVERYTHING, seed=2), "eager", (9, 6, 11))


def test_packed_documents_compile_into_one_graph() -> None:
    case = Case(HOST, EVERYTHING, seed=1)
    model, tokens = case.model(), case.tokens(2, 9)
    positions = torch.tensor([[0, 1, 2, 0, 0, 1, 2, 3, 4]])
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    expected = logits(model, tokens, position_ids=positions)
    assert_equal(logits(compiled, tokens, position_ids=positions), expected)


def test_all_mechanisms_together_compile_to_machine_code() -> None:
    compare(Case(HOST, EVERYTHING, seed=3), "inductor")
