"""One run: it learns what can be learned, stops where the loss is lost, and repeats exactly."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_models import counting_windows, recipe, tiny

from headway import KVShift
from headway.corpora.batches import Windows
from headway.training.run import Divergence, next_token_loss, train


def steps(model, data=None, dtype="float32", **changes):
    return list(train(model, data or counting_windows(), recipe(**changes), dtype, False))


def test_the_loss_falls_to_what_the_text_allows():
    taken = steps(tiny(), steps=80, learning_rate=2e-2)
    assert taken[0].loss == pytest.approx(math.log(11), abs=0.3)
    assert taken[-1].loss < 0.05


def test_random_text_is_not_learned():
    noise = Windows(np.random.default_rng(0).integers(0, 11, 20_000).astype(np.uint16), 16, 4, 0)
    taken = steps(tiny(), noise, steps=60)
    assert np.mean([s.loss for s in taken[-20:]]) > math.log(11) - 0.1


def test_a_step_says_what_was_done():
    taken = steps(tiny(), steps=20, learning_rate=1e-2)
    assert [s.number for s in taken] == list(range(1, 21))
    assert [s.tokens for s in taken] == [64 * n for n in range(1, 21)]
    assert [s.learning_rate for s in taken] == [recipe(steps=20).rate(n) for n in range(20)]
    assert all(s.tokens_per_second > 0 for s in taken)


def test_the_first_loss_is_that_of_the_untrained_model():
    model, windows = tiny(), counting_windows().batch(0)
    logits = model(windows[:, :-1]).logits.detach()
    expected = F.cross_entropy(logits.transpose(1, 2), windows[:, 1:]).item()
    assert steps(tiny(), steps=1)[0].loss == pytest.approx(expected, rel=1e-6)


def test_the_run_is_the_plain_loop_written_out():
    trained, model, data, plan = tiny(), tiny(), counting_windows(), recipe(weight_decay=0.3)
    found = [s.loss for s in train(trained, data, plan, "float32", False)]
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    adam = [
        torch.optim.AdamW(matrices, betas=(0.9, 0.95), weight_decay=0.3),
        torch.optim.AdamW(vectors, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    expected = []
    for i in range(plan.steps):
        windows = data.batch(i)
        logits = model(windows[:, :-1]).logits
        loss = F.cross_entropy(logits.reshape(-1, 11), windows[:, 1:].reshape(-1))
        expected.append(loss.item())
        gradients = torch.autograd.grad(loss, [*matrices, *vectors])
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        for parameter, gradient in zip([*matrices, *vectors], gradients, strict=True):
            parameter.grad = gradient * min(1.0, 1.0 / norm)
        for optimiser in adam:
            optimiser.param_groups[0]["lr"] = plan.rate(i)
            optimiser.step()
    assert found == pytest.approx(expected, rel=1e-4)
    for one, other in zip(trained.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_losses_by_token_have_the_shape_of_the_targets():
    windows = counting_windows().batch(0)
    losses = next_token_loss(tiny(), windows)
    assert losses.shape == (4, 16)
    assert losses.dtype == torch.float32


@pytest.mark.parametrize("mechanisms", [(), (KVShift(),)], ids=["plain", "kv_shift"])
def test_the_same_run_twice_gives_the_same_numbers(mechanisms):
    first, second = tiny(*mechanisms), tiny(*mechanisms)
    losses = [s.loss for s in steps(first)]
    torch.manual_seed(99)
    assert [s.loss for s in steps(second)] == losses
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_other_seeds_of_the_data_give_other_losses():
    assert steps(tiny())[5].loss != steps(tiny(), counting_windows(seed=1))[5].loss


def test_a_huge_learning_rate_diverges():
    model = tiny()
    with pytest.raises(Divergence) as caught:
        steps(model, learning_rate=1e30, steps=50)
    assert 2 <= caught.value.step <= 50
    assert str(caught.value) == f"the loss of step {caught.value.step} is not finite"


def test_a_broken_weight_diverges_before_the_step_is_taken():
    model = tiny()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(Divergence) as caught:
        steps(model)
    assert caught.value.step == 1
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.nan_to_num(7.0), before[name].nan_to_num(7.0)), name


def test_a_finite_run_yields_all_steps_before_it_diverges():
    model = tiny()
    run = train(model, counting_windows(), recipe(), "float32", False)
    seen = [next(run) for _ in range(4)]
    with torch.no_grad():
        model.model.embed_tokens.weight[:] = float("inf")
    with pytest.raises(Divergence) as caught:
        next(run)
    assert all(math.isfinite(s.loss) for s in seen)
    assert caught.value.step == 5


def test_gradients_are_clipped():
    """Under a rate so small that weights stay, every step's gradient has at most norm 1."""
    model, norms = tiny(initializer_range=1.0), []
    optimiser_step = torch.optim.AdamW.step

    def noting(self, *args, **kwargs):
        grads = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        norms.append(torch.stack([g.norm() for g in grads]).norm().item())
        return optimiser_step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", noting)
        steps(model, steps=3, learning_rate=1e-9)
    assert len(norms) == 3
    assert norms == pytest.approx([1.0] * 3, abs=1e-4)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights():
    wide, narrow = tiny(), tiny()
    exact = [s.loss for s in steps(wide)]
    rounded = [s.loss for s in steps(narrow, dtype="bfloat16")]
    assert all(p.dtype == torch.float32 for p in narrow.parameters())
    assert rounded != exact
    assert rounded == pytest.approx(exact, abs=0.05)
