"""How a run is optimised: the course of the learning rate, and what is decayed."""

from itertools import pairwise

import pytest
import torch
from training_models import recipe, tiny

from headway import KVShift, LayerShortcut, SelectiveAttention, SinkLogit


def test_warm_up_is_linear_over_a_tenth():
    plan = recipe(steps=200, learning_rate=3.0)
    assert [plan.rate(i) for i in (0, 4, 9, 19)] == pytest.approx([0.15, 0.75, 1.5, 3.0])


def test_cosine_falls_from_the_peak_to_a_tenth():
    plan = recipe(steps=200, learning_rate=3.0)
    assert plan.rate(20) == pytest.approx(3.0)
    assert plan.rate(110) == pytest.approx(3.0 * 0.55)  # half way: the mean of peak and end
    assert plan.rate(200) == pytest.approx(0.3)
    rates = [plan.rate(i) for i in range(20, 201)]
    assert all(later < earlier for earlier, later in pairwise(rates))


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_short_runs_have_positive_rates_up_to_the_peak(steps):
    rates = [recipe(steps=steps, learning_rate=1.0).rate(i) for i in range(steps)]
    assert rates[0] == 1.0
    assert all(0.1 <= rate <= 1.0 for rate in rates)


def decayed_names(model, decay=0.1):
    decays = {
        id(p): group["weight_decay"]
        for group in recipe(weight_decay=decay).optimiser(model).param_groups
        for p in group["params"]
    }
    assert decays.keys() == {id(p) for p in model.parameters()}
    assert set(decays.values()) == {0.0, decay}
    return {name for name, p in model.named_parameters() if decays[id(p)]}


def test_only_the_weights_of_linear_layers_and_embeddings_are_decayed():
    mechanisms = KVShift(), SelectiveAttention(token="mlp"), SinkLogit()
    model = tiny(*mechanisms, position="learned", attention_bias=True)
    decayed = decayed_names(model)
    expected = {
        f"{path}.weight"
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding) and path != "lm_head"
    }
    assert decayed == expected
    left = {name for name, _ in model.named_parameters()} - decayed
    for part in ("norm.weight", "q_proj.bias", "kv_shift.key", "alpha", "sink_logit"):
        assert any(part in name for name in left), part


def test_matrices_of_a_mechanism_are_decayed():
    decayed = decayed_names(tiny(LayerShortcut(mode="add", width=8)))
    assert "model.layers.1.shortcut.q_proj.weight" in decayed


def test_decay_pulls_a_matrix_and_leaves_a_norm():
    model = tiny()
    optimiser = recipe(weight_decay=0.5, learning_rate=0.1).optimiser(model)
    matrix, norm = model.model.layers[0].mlp.up_proj.weight, model.model.norm.weight
    before = matrix.detach().clone(), norm.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    torch.testing.assert_close(matrix.detach(), before[0] * 0.95)
    assert torch.equal(norm.detach(), before[1])
