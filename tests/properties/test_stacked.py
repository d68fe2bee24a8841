"""Several models trained at once by `torch.func` are the same models one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from headway import HeadwayForCausalLM
from properties.strategies import Case, assert_equal, cases

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


def seeds(case: Case) -> list[HeadwayForCausalLM]:
    """Two models of one shape."""
    return [Case(case.host, case.mechanisms, case.seed + i).model() for i in range(2)]


@given(cases(), st.integers(1, 9))
@settings(max_examples=60)
def test_stacked_models_give_the_logits_of_each(case: Case, length: int) -> None:
    models, tokens = seeds(case), case.tokens(2, 2, length)
    parameters, buffers = stack_module_state(models)

    def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], ids: Tensor) -> Tensor:
        inputs = {"input_ids": ids, "use_cache": False}
        return functional_call(models[0], (parameters, buffers), (), inputs).logits

    with torch.no_grad():
        stacked = vmap(one)(parameters, buffers, tokens)
        apart = [m(ids, use_cache=False).logits for m, ids in zip(models, tokens, strict=True)]
    assert_equal(stacked, torch.stack(apart))
    assert not torch.equal(stacked[0], stacked[1])


@given(cases(), st.integers(2, 7))
@settings(max_examples=30)
def test_stacked_models_give_the_gradients_of_each(case: Case, length: int) -> None:
    models, tokens = seeds(case), case.tokens(2, 2, length)
    parameters, buffers = stack_module_state(models)

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], ids: Tensor) -> Tensor:
        inputs = {"input_ids": ids, "labels": ids, "use_cache": False}
        return functional_call(models[0], (parameters, buffers), (), inputs).loss

    stacked = vmap(grad(loss))(parameters, buffers, tokens)
    for i, model in enumerate(models):
        model(tokens[i], labels=tokens[i], use_cache=False).loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert_equal(stacked[name][i], parameter.grad)
