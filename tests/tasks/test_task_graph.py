"""The graph: every node once, and what follows is uniform over the last one's neighbourhood."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from chances import distributed, happens, independent, no_more_than, seeded, table_guess, uniform

from headway import HeadwayError
from headway.tasks import Graph, accuracy, loss

TASK = Graph()


def test_the_graph() -> None:
    rows = TASK.transitions()
    reached = rows > 0
    assert torch.equal(reached, reached.T)
    assert reached.diagonal().all()
    torch.testing.assert_close(rows.sum(1), torch.ones(8).double())
    assert {(a, b) for a, b in reached.triu(1).nonzero().tolist()} == set(TASK.edges)
    assert TASK.degrees() == [1, 2, 3, 4]


def test_rows_are_permutations() -> None:
    sample = TASK.sample(4_000, seeded(1))
    assert (sample.inputs.sort(1).values == torch.arange(8)).all()
    for place in (0, 3, 7):
        uniform(sample.inputs[:, place], 8)


def test_what_follows_is_uniform_over_the_neighbourhood() -> None:
    sample = TASK.sample(40_000, seeded(2))
    rows = TASK.transitions()
    for node in range(8):
        follows = sample.targets[sample.inputs[:, -1] == node]
        reached = rows[node].nonzero()[:, 0]
        assert torch.isin(follows, reached).all()
        uniform(torch.searchsorted(reached, follows), len(reached))
        for n in TASK.degrees():
            part = sample.slices[f"neighbours_{n}"][sample.inputs[:, -1] == node]
            assert (part == (len(reached) - 1 == n)).all()


def test_a_model_that_knows_the_graph_is_at_the_bounds() -> None:
    sample = TASK.sample(20_000, seeded(3))
    logits = TASK.transitions()[sample.inputs[:, -1]].log().clamp(min=-50)
    torch.testing.assert_close(
        loss(logits, sample), torch.tensor(TASK.entropy).double(), rtol=0.01, atol=0
    )
    right = accuracy(logits, sample)["all"]
    assert abs(float(right) - TASK.best) < 0.02
    assert math.isclose(TASK.entropy, float(TASK.transitions().gt(0).sum(1).double().log().mean()))
    guess = TASK.transitions().mean(0).argmax()
    happens(sample.targets == guess, TASK.chance)


def test_the_order_of_the_other_nodes_tells_nothing() -> None:
    sample = TASK.sample(30_000, seeded(6))
    before, last = sample.inputs[:, :-1], sample.inputs[:, -1]
    stays = sample.targets == last
    happens(stays, float(TASK.transitions().diagonal().mean()))
    place = (before == sample.targets[:, None]).long().argmax(1)
    uniform(place[~stays], 7)
    for node, at in product(range(8), range(7)):
        rows = last == node
        independent(before[rows, at], sample.targets[rows], checks=56)


def test_tables_of_the_training_set_need_the_last_node() -> None:
    train, test = TASK.sample(20_000, seeded(7)), TASK.sample(10_000, seeded(8))
    guess = table_guess(train.inputs[:, :-1], train.targets, test.inputs[:, :-1])
    # A node that stands elsewhere is not the last one, which is all that it tells.
    rows = TASK.transitions()
    no_more_than(guess == test.targets, float(((rows.sum(0) - rows) / 7).max(1).values.mean()))
    known = table_guess(train.inputs, train.targets, test.inputs)
    happens(known == test.targets, TASK.best)


def test_the_map_error() -> None:
    sample = TASK.sample(50, seeded(4))
    right = TASK.transitions()[sample.inputs[:, -1]].gather(1, sample.inputs)
    assert TASK.map_error(right, sample) == 0
    elsewhere = (right == 0).double()
    wrong = elsewhere / elsewhere.sum(1, keepdim=True)
    torch.testing.assert_close(TASK.map_error(wrong, sample), torch.tensor(2.0).double())


def test_another_graph() -> None:
    task = Graph(nodes=3, edges=((2, 1),))
    rows = [[1, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]]
    assert task.transitions().tolist() == rows
    sample = task.sample(3_000, seeded(5))
    distributed(sample.targets, torch.tensor(rows).sum(0))


@pytest.mark.parametrize(
    "edges", [((0, 8),), ((0, 1), (1, 0)), ((3, 3),), ((-1, 2),), ((0, 1, 2),)]
)
def test_refused_edges(edges: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(HeadwayError, match=r"graph.edges: .* different pairs of two nodes below 8"):
        Graph(edges=edges)
