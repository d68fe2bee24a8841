"""Initial weights: what arms share is equal, what differs is the seed's and the mechanism's own."""

import torch
from training_models import tiny

from headway import KVShift, LayerShortcut, ResidualStream, SelectiveAttention, ShortConv


def weights(*mechanisms, seed=0):
    return {name: p.detach() for name, p in tiny(*mechanisms, seed=seed).named_parameters()}


def test_arms_agree_in_all_that_they_share():
    plain = weights()
    arms = [
        weights(KVShift()),
        weights(ResidualStream(), SelectiveAttention()),
        weights(LayerShortcut(mode="add", width=8)),
        weights(KVShift(), ShortConv()),
    ]
    for arm in arms:
        assert plain.keys() < arm.keys()
        for name, value in plain.items():
            assert torch.equal(arm[name], value), name


def test_a_mechanism_starts_alike_beside_others():
    alone = weights(KVShift())
    composed = weights(ResidualStream(), KVShift(), SelectiveAttention())
    taps = [name for name in alone if ".kv_shift." in name]
    assert len(taps) == 4
    for name in taps:
        assert torch.equal(alone[name], composed[name])


def test_seeds_differ_in_every_matrix_and_in_the_draws_of_a_mechanism():
    first, second = weights(KVShift(), seed=0), weights(KVShift(), seed=1)
    drawn = [n for n in first if "norm" not in n]
    assert any("kv_shift.key" in name for name in drawn)
    for name in drawn:
        assert not torch.equal(first[name], second[name]), name


def test_layers_and_projections_are_drawn_apart():
    model = weights()
    matrices = [p for n, p in model.items() if n.endswith(("q_proj.weight", "k_proj.weight"))]
    assert len(matrices) == 4
    for i, matrix in enumerate(matrices):
        assert not any(torch.equal(matrix, other) for other in matrices[:i])


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before():
    first = weights(KVShift())
    torch.manual_seed(1234)
    again = weights(KVShift())
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_the_scale_of_the_matrices_is_the_configured_one():
    model = tiny(hidden_size=64, num_attention_heads=2, vocab_size=300)
    for matrix in (model.model.embed_tokens.weight, model.model.layers[1].mlp.up_proj.weight):
        assert 0.095 < matrix.std().item() < 0.105
        assert abs(matrix.mean().item()) < 0.005


def test_the_global_generator_is_left_alone():
    from headway.training.initialise import seed_weights

    model = tiny(KVShift())
    before = torch.get_rng_state()
    seed_weights(model, 5)
    assert torch.equal(torch.get_rng_state(), before)
