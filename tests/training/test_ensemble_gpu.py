"""On a GPU: steps replayed as one CUDA graph are the steps of each seed alone."""

import pytest
import torch

from headway.bench.toys import Toy, classification, induction
from headway.training.ensemble import Ensemble
from headway.training.ensemble_program import at
from headway.training.update_rules import SGD

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

STEPS, CHUNK = 200, 8


@pytest.fixture
def precision(request):
    """Of float32 matrix products: full ('highest') or TF32 ('high')."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("toy", "precision"),
    [(classification(), "highest"), (classification(), "high"), (induction(batch=2), "highest")],
    ids=["classification", "classification-tf32", "induction"],
    indirect=["precision"],
)
def test_replayed_copies_equal_the_same_seed_trained_alone(toy: Toy, precision: str) -> None:
    """Losses within 1e-4 after 200 steps in float32; how far TF32 comes is told, not judged."""
    batches = toy.batches(4, CHUNK, "cuda")
    rates = torch.full((CHUNK,), toy.learning_rate, device="cuda")
    models = [toy.model(seed).cuda() for seed in range(4)]
    together = Ensemble.of(models, toy.loss, toy.rule, compiled=True)
    found = torch.cat([together.run(batches, rates) for _ in range(STEPS // CHUNK)])
    alone = Ensemble.of(models[3:], toy.loss, toy.rule)
    own = {k: v[:, 3:] for k, v in batches.items()}
    losses = torch.cat([alone.step(at(own, n % CHUNK), toy.learning_rate) for n in range(STEPS)])
    worst = (losses - found[:, 3]).abs().max().item()
    print(f"{toy.name}, {precision}: largest difference of a loss {worst:.2e}")
    assert found[-CHUNK:].mean() < found[:CHUNK].mean()
    if precision == "highest":
        assert worst < 1e-4


def test_a_replay_goes_on_from_a_file_and_leaves_frozen_copies(tmp_path) -> None:
    toy = classification(batch=16)
    models = [toy.model(seed).cuda() for seed in range(3)]
    rates = torch.full((4,), 0.01, device="cuda")
    first, second = (Ensemble.of(models, toy.loss, SGD(), compiled=True) for _ in range(2))
    batches = toy.batches(3, 8, "cuda")
    half, rest = ({k: v[part] for k, v in batches.items()} for part in (slice(4), slice(4, 8)))
    first.run(half, rates)
    first.freeze(torch.tensor([True, False, False]))
    before = first.rows.clone()
    first.save(tmp_path / "half.safetensors")
    expected = first.run(rest, rates)
    second.run(rest, rates)  # another graph, already recorded, and other numbers
    second.load(tmp_path / "half.safetensors")
    assert torch.equal(second.run(rest, rates), expected)
    assert torch.equal(first.rows, second.rows)
    assert torch.equal(first.rows[0], before[0])
    assert not torch.equal(first.rows[1], before[1])
    assert first.steps.tolist() == [4, 8, 8]
