"""The associative memory: exact statements on orthogonal tokens, and the published accuracies."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headway import HeadwayError
from headway.memory.amicl import Amicl, Task, accuracy, normal, right


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def orthonormal(count: int, width: int = 64, seed: int = 0) -> Tensor:
    """Unit vectors at right angles, each of mean zero."""
    rows = torch.randn(count, width, generator=drawn(seed), dtype=torch.float64)
    rows -= rows.mean(dim=1, keepdim=True)
    return torch.linalg.qr(rows.T)[0].T


def context(place: int, pairs: int = 5) -> Tensor:
    """`(1, 2 pairs + 2, D)`: orthogonal objects and labels; the query is the object of a pair."""
    vectors = orthonormal(2 * pairs)
    objects, labels = vectors[:pairs], vectors[pairs:]
    told = torch.stack([objects, labels], dim=1).flatten(0, 1)
    return torch.cat([told, objects[place][None], torch.zeros_like(told[:1])])[None]


@given(a=st.floats(0.0, 8.0), place=st.integers(1, 4))
def test_scores_on_orthogonal_tokens(a: float, place: int) -> None:
    """In units of 1/(a+1)^2: the label a^2, its object a, the query's own object a, others 0."""
    tokens = context(place)
    scores = Amicl(a=a).scores(tokens, drawn(0))[0] * (a + 1) ** 2
    wanted = torch.zeros(12, dtype=torch.float64)
    wanted[2 * place], wanted[2 * place + 1], wanted[10] = a, a * a, a
    torch.testing.assert_close(scores[:-1], wanted[:-1], rtol=0, atol=1e-12 * (1 + a) ** 2)


def test_at_one_three_tokens_tie_and_above_it_the_label_wins() -> None:
    tokens = context(2)
    scores = Amicl(a=1).scores(tokens, drawn(0))[0]
    tied = scores[[4, 5, 10]]
    assert (tied - 0.25).abs().max() < 1e-15
    assert (scores[[0, 1, 2, 3, 6, 7, 8, 9]]).abs().max() < 1e-15
    assert torch.equal(Amicl(a=1.001).recall(tokens, drawn(0))[0], tokens[0, 5])
    below = Amicl(a=0.999).recall(tokens, drawn(0))[0]
    assert torch.equal(below, tokens[0, 4])  # the object, not its label


@given(a=st.floats(0.1, 8.0), place=st.integers(0, 4))
def test_a_mixed_last_key_ties_with_the_label_and_a_random_one_does_not(
    a: float, place: int
) -> None:
    tokens = context(place)
    mixed = Amicl(a=a, last_key="mixed").scores(tokens, drawn(0))[0]
    assert math.isclose(mixed[-1], mixed[2 * place + 1], rel_tol=1e-12)
    one, two = (Amicl(a=a).scores(tokens, drawn(seed))[0] for seed in (1, 2))
    assert torch.equal(one[:-1], two[:-1])
    assert torch.equal(one[:-1], mixed[:-1])
    key = normal((1, 64), drawn(1), torch.float64)[0]
    assert math.isclose(one[-1], float(key @ tokens[0, 10]) * a / (a + 1), abs_tol=1e-12)


@given(a=st.floats(0.1, 8.0))
def test_pearson_prefers_an_object_with_nothing_before_it(a: float) -> None:
    """The first object's key is that object alone, so it correlates perfectly with the query."""
    memory = Amicl(a=a, similarity="pearson")
    first = memory.scores(context(0), drawn(0))[0]
    assert math.isclose(first[0], 1.0, rel_tol=1e-12)
    assert math.isclose(first[1], a / math.hypot(1, a), rel_tol=1e-12)
    later = memory.scores(context(3), drawn(0))[0]
    assert math.isclose(later[6], 1 / math.hypot(1, a), rel_tol=1e-12)
    assert math.isclose(later[7], a / math.hypot(1, a), rel_tol=1e-12)


def test_pearsons_ceiling_is_the_first_pair_alone() -> None:
    trials = Task(classes=50).draw(2_000, drawn(0))
    hit = right(Amicl(similarity="pearson").recall(trials.tokens_BTD, drawn(1)), trials)
    at_start = trials.class_BP[:, 0] == trials.query_B
    assert hit[~at_start].all()
    assert not hit[at_start].any()
    assert 0.10 < at_start.double().mean() < 0.15
    dot = right(Amicl().recall(trials.tokens_BTD, drawn(1)), trials)
    assert dot[at_start].all()


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 1_000),
    a=st.floats(0.0, 4.0),
    similarity=st.sampled_from(["dot", "pearson", "euclidean", "manhattan"]),
)
def test_scores_are_those_of_the_notebook_written_as_loops(
    seed: int, a: float, similarity: Any
) -> None:
    trials = Task(tokens=6, width=7, classes=9).draw(2, drawn(seed))
    scores = Amicl(a=a, similarity=similarity).scores(trials.tokens_BTD, drawn(seed))
    last = normal((2, 7), drawn(seed), torch.float64)
    for b, x in enumerate(trials.tokens_BTD.tolist()):
        mix = [[(a * p + n) / (a + 1) for p, n in zip(x[i - 1], x[i], strict=True)]
               for i in range(6)]  # fmt: skip
        q, keys = mix[-1], [*mix[:-1], last[b].tolist()]
        for i, k in enumerate(keys):
            pairs = list(zip(k, q, strict=True))
            if similarity == "euclidean":
                wanted = math.dist(k, q)
            elif similarity == "manhattan":
                wanted = sum(abs(m - n) for m, n in pairs)
            elif similarity == "dot":
                wanted = sum(m * n for m, n in pairs)
            else:
                if max(map(abs, q)) < 1e-9:
                    continue  # a = 0: the query is zero and correlates with nothing
                wanted = float(torch.corrcoef(torch.tensor([k, q], dtype=torch.float64))[0, 1])
            assert math.isclose(scores[b, i], wanted, rel_tol=1e-9, abs_tol=1e-12)


@pytest.mark.parametrize("similarity", ["euclidean", "manhattan"])
def test_distances_recall_the_farthest(similarity: Any) -> None:
    trials = Task().draw(20, drawn(3))
    memory = Amicl(similarity=similarity)
    scores = memory.scores(trials.tokens_BTD, drawn(4))
    recalled = memory.recall(trials.tokens_BTD, drawn(4))
    assert torch.equal(recalled, trials.tokens_BTD[torch.arange(20), scores.argmax(dim=1)])


def test_a_sharp_softmax_is_argmax_and_a_flat_one_the_mean() -> None:
    tokens = Task().draw(50, drawn(0)).tokens_BTD
    sharp = Amicl(separation="softmax", sharpness=1e9).recall(tokens, drawn(1))
    assert torch.equal(sharp, Amicl().recall(tokens, drawn(1)))
    flat = Amicl(separation="softmax", sharpness=0).recall(tokens, drawn(1))
    torch.testing.assert_close(flat, tokens.mean(dim=1))


def test_the_task_is_as_described() -> None:
    task = Task(tokens=20, width=200, classes=6)
    trials = task.draw(2_000, drawn(0))
    tokens, classes = trials.tokens_BTD, trials.class_BP
    assert tokens.shape == (2_000, 20, 200)
    assert classes.shape == (2_000, 9)
    assert not tokens[:, -1].any()
    assert set(classes.unique().tolist()) == {1, 2, 3, 4, 5}  # the first class is never used
    present = classes == trials.query_B[:, None]
    assert present.any(dim=1).all()
    # Drawn among the pairs, not among the classes: the mean count is that of a size-biased draw.
    assert present.double().sum(dim=1).mean() == pytest.approx(1 + 8 / 5, abs=0.05)
    objects, labels = tokens[:, 0:18:2], tokens[:, 1:18:2]
    same = classes[:, :, None] == classes[:, None, :]
    apart = (labels[:, :, None] - labels[:, None, :]).norm(dim=-1)[:200]
    assert not apart[same[:200]].any()
    assert apart[~same[:200]].min() > 0.9
    assert torch.equal(labels[present], trials.label_BD.repeat_interleave(present.sum(1), dim=0))
    near = (objects[present] - tokens[:, 18].repeat_interleave(present.sum(1), dim=0)).norm(dim=-1)
    # Two draws of eps/D noise in each of D entries, over sqrt(1 + eps^2).
    assert near.mean() == pytest.approx(0.1 * math.sqrt(2 / 200 / 1.01), rel=0.02)
    assert labels.square().sum(-1).mean() == pytest.approx(1, rel=0.01)
    assert objects.square().sum(-1).mean() == pytest.approx(1 / 1.01, rel=0.01)


@pytest.mark.parametrize(
    ("memory", "task", "published", "error"),
    [
        (Amicl(a=1), Task(), 0.325, 0.03),
        (Amicl(a=1.5), Task(), 0.994, 0.015),
        (Amicl(a=1.75), Task(), 1.0, 0.015),
        (Amicl(), Task(), 1.0, 0.0),
        (Amicl(a=0.75), Task(classes=50), 0.0, 0.015),
        (Amicl(a=1.25), Task(classes=50), 0.9, 0.03),
        (Amicl(similarity="pearson"), Task(classes=50), 0.87, 0.03),
        (Amicl(last_key="mixed"), Task(classes=50), 0.5, 0.04),
        (Amicl(), Task(width=20, classes=50), 0.945, 0.025),
        (Amicl(), Task(tokens=100, classes=50), 1.0, 0.005),
    ],
)
def test_accuracies_are_near_the_notebooks(
    memory: Amicl, task: Task, published: float, error: float
) -> None:
    assert accuracy(memory, task, 1_000, seed=0) == pytest.approx(published, abs=error)


def test_accuracy_is_that_of_its_seed_and_counts_every_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = Task(width=12)
    first = accuracy(Amicl(), task, 333, seed=5)
    assert first == accuracy(Amicl(), task, 333, seed=5)
    assert first != accuracy(Amicl(), task, 333, seed=6)
    assert round(first * 333) == pytest.approx(first * 333, abs=1e-9)
    monkeypatch.setattr("headway.memory.amicl.BUDGET", 20 * 20 * 100)  # chunks of 100 and 33
    assert accuracy(Amicl(), task, 333, seed=5) == pytest.approx(first, abs=0.08)
    assert accuracy(Amicl(), Task(), 120, seed=0) == 1.0
    assert accuracy(Amicl(), Task(), 200, seed=0, dtype=torch.float32) >= 0.99


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"tokens": 5}, "tokens: 5 is not accepted; accepted are even numbers from 4 on"),
        ({"tokens": 2}, "tokens: 2 is not accepted"),
        ({"width": 0}, "width: 0 is not accepted; accepted are 1 and more"),
        ({"classes": 1}, "classes: 1 is not accepted; accepted are 2 and more"),
        ({"noise": -0.1}, "noise: -0.1 is not accepted; accepted are 0 and more"),
    ],
)
def test_a_task_that_cannot_be_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(HeadwayError, match=told):
        Task(**wrong)
