"""Classification: every statistic of the generator, its four test sets, and who can solve them."""

from __future__ import annotations

from math import comb

import pytest
import torch
from chances import distributed, happens, no_more_than, seeded, spread, uniform
from torch import Tensor

from headway import HeadwayError
from headway.tasks import Classification, Sample

TASK = Classification()


def items(sample: Sample, task: Classification = TASK) -> Tensor:
    """`(B, N + 1, D)`."""
    return sample.inputs[:, 0::2, task.slots :]


def shown_labels(sample: Sample, task: Classification = TASK) -> Tensor:
    """`(B, N)`: which label vector stands behind each item, exactly."""
    vectors = sample.inputs[:, 1::2, task.slots :]
    labels = task.means().labels
    number = torch.cdist(vectors.flatten(0, 1), labels).argmin(1).view(vectors.shape[:2])
    assert torch.equal(labels[number], vectors)
    return number


def nearest_class(sample: Sample, task: Classification = TASK) -> Tensor:
    """`(B, N + 1)`: the world's class whose mean is nearest to each item."""
    found = items(sample, task)
    distance = torch.cdist(found.flatten(0, 1), task.means().classes)
    return distance.argmin(1).view(found.shape[:2])


def nearest_label(sample: Sample, task: Classification = TASK) -> Tensor:
    """`(B,)`: label of the context's item that is nearest to the query: the in-context answer."""
    found = items(sample, task)
    nearest = torch.cdist(found[:, -1:], found[:, :-1]).argmin(2)
    return shown_labels(sample, task).gather(1, nearest)[:, 0]


def test_sizes_are_the_published_ones() -> None:
    sample = TASK.sample(5, seeded(0))
    assert sample.inputs.shape == (5, 17, 150)
    assert sample.inputs.dtype == torch.float32
    assert sample.targets.shape == (5,)
    assert TASK.means().classes.shape == (512, 85)
    assert TASK.means().labels.shape == (32, 85)


def test_positions_are_an_identity_at_a_random_slot() -> None:
    slots = TASK.sample(8_000, seeded(1)).inputs[..., :65]
    first = slots[:, 0].argmax(1)
    expected = torch.nn.functional.one_hot(first[:, None] + torch.arange(17), 65)
    assert torch.equal(slots, expected.float())
    uniform(first, 49)


def test_means_have_variance_one_over_width() -> None:
    means = TASK.means()
    spread(means.classes, 1 / 85)
    spread(means.labels, 1 / 85)
    other = Classification(world=1).means()
    assert not torch.equal(means.classes, other.classes)
    assert torch.equal(means.classes, Classification(world=0, pairs=4).means().classes)


@pytest.mark.parametrize("deviation", [0.1, 0.3])
def test_items_stand_around_their_mean(deviation: float) -> None:
    task = Classification(p_novel=0.0, deviation=deviation)
    sample = task.sample(500, seeded(2))
    mean = task.means().classes[nearest_class(sample, task)]
    spread(items(sample, task) * (1 + deviation**2) ** 0.5 - mean, deviation**2 / 85)


def test_kinds_of_sequences() -> None:
    slices = TASK.sample(8_000, seeded(3)).slices
    assert (slices["novel"].int() + slices["bursty"].int() + slices["plain"].int() == 1).all()
    happens(slices["novel"], 0.5)
    happens(slices["bursty"], 0.25)
    other = Classification(p_novel=0.2, p_bursty=0.9).sample(8_000, seeded(4)).slices
    happens(other["novel"], 0.2)
    happens(other["bursty"], 0.72)


def test_bursty_sequences_show_four_pairs_twice() -> None:
    task = Classification(p_novel=0.0, p_bursty=1.0)
    sample = task.sample(4_000, seeded(5))
    classes, labels = nearest_class(sample), shown_labels(sample)
    assert torch.equal(labels, classes[:, :-1] % 32)
    assert torch.equal(sample.targets, classes[:, -1] % 32)
    assert sample.slices["shown"].all()
    times = torch.nn.functional.one_hot(labels, 32).sum(1)
    assert (times.sort(1).values == torch.tensor([0] * 28 + [2] * 4)).all()
    # Which class of a label is shown, which label is asked, and where its two copies stand.
    uniform(classes[:, -1], 512)
    uniform(classes[:, 0] // 32, 16)
    copies = (classes[:, :-1] == classes[:, -1:]).nonzero()[:, 1].view(-1, 2)
    pair = copies[:, 1] * (copies[:, 1] - 1) // 2 + copies[:, 0]
    uniform(pair, comb(8, 2))


def test_novel_sequences_are_bursty_and_new() -> None:
    sample = TASK.test_sets()["in_context"].sample(4_000, seeded(6))
    labels, found = shown_labels(sample), items(sample)
    times = torch.nn.functional.one_hot(labels, 32).sum(1)
    assert (times.sort(1).values == torch.tensor([0] * 28 + [2] * 4)).all()
    assert torch.equal(nearest_label(sample), sample.targets)
    # Two items of one class differ by noise alone, items and the world's means by far more.
    nearest = torch.cdist(found[:, -1:], found[:, :-1]).min(2).values
    assert nearest.max() < 0.4
    assert torch.cdist(found[:, -1], TASK.means().classes).min() > 0.6


def test_a_call_draws_128_new_means() -> None:
    def queries(task: Classification, seed: int) -> Tensor:
        return items(task.test_sets()["in_context"].sample(1_500, seeded(seed)))[:, -1]

    def groups(found: Tensor) -> int:
        near = torch.cdist(found, found) < 0.4
        return len(near.unique(dim=0))

    one, other = queries(TASK, 7), queries(TASK, 8)
    assert groups(one) == 128
    assert groups(torch.cat([one, other])) == 256
    thrice = queries(Classification(novel_every=500), 9)
    apart = [groups(part) for part in thrice.split(500)]
    assert max(apart) <= 128
    assert groups(thrice) == sum(apart) > 256


def test_plain_sequences_are_drawn_from_the_prior() -> None:
    task = Classification(p_novel=0.0, p_bursty=0.0)
    sample = task.sample(4_000, seeded(10))
    classes = nearest_class(sample)
    uniform(classes, 512)
    assert torch.equal(shown_labels(sample), classes[:, :-1] % 32)
    assert torch.equal(sample.targets, classes[:, -1] % 32)
    absent = (classes[:, :-1] != classes[:, -1:]).all(1)
    happens(absent, (511 / 512) ** 8)
    happens(sample.slices["shown"], 1 - (31 / 32) ** 8)


@pytest.mark.parametrize(("distinct_labels", "p_bursty"), [(True, 0.0), (False, 1.0)])
def test_zipf_acts_on_classes(distinct_labels: bool, p_bursty: float) -> None:
    task = Classification(
        p_novel=0.0, p_bursty=p_bursty, zipf=1.0, classes=64, distinct_labels=distinct_labels
    )
    sample = task.sample(6_000, seeded(11))
    distributed(nearest_class(sample, task)[:, 0], 1 / torch.arange(1, 65))
    distributed(nearest_class(sample, task)[:, -1], 1 / torch.arange(1, 65))


def test_zipf_does_not_act_where_labels_differ() -> None:
    task = Classification(p_novel=0.0, p_bursty=1.0, zipf=1.0, classes=64)
    uniform(nearest_class(task.sample(4_000, seeded(12)), task)[:, -1], 64)


def test_rotated_labels() -> None:
    sample = TASK.test_sets()["in_context_rotated"].sample(2_000, seeded(13))
    classes = nearest_class(sample)
    assert sample.slices["bursty"].all()
    assert torch.equal(shown_labels(sample), (classes[:, :-1] + 1) % 32)
    assert torch.equal(sample.targets, (classes[:, -1] + 1) % 32)
    assert torch.equal(nearest_label(sample), sample.targets)
    assert not (classes[:, -1] % 32 == sample.targets).any()


def test_novel_classes_keep_their_labels() -> None:
    rotated = Classification(p_novel=1.0, rotate_labels=True).sample(50, seeded(19))
    plain = Classification(p_novel=1.0).sample(50, seeded(19))
    assert torch.equal(rotated.inputs, plain.inputs)
    assert torch.equal(rotated.targets, plain.targets)


def test_in_weights_set_needs_the_weights() -> None:
    sample = TASK.test_sets()["in_weights"].sample(4_000, seeded(14))
    assert sample.slices["plain"].all()
    assert torch.equal(nearest_class(sample)[:, -1] % 32, sample.targets)
    # One in 64 rows shows the query's class; elsewhere a neighbour's label is a guess.
    happens(nearest_label(sample) == sample.targets, 1 - (511 / 512) ** 8 * (31 / 32))


def test_in_context_set_needs_the_context() -> None:
    sample = TASK.test_sets()["in_context"].sample(4_000, seeded(15))
    happens(nearest_class(sample)[:, -1] % 32 == sample.targets, TASK.chance)
    # Without the query, a label of the context is right in one of four rows.
    happens(shown_labels(sample)[:, 0] == sample.targets, 1 / 4)


def test_where_the_sequence_stands_tells_nothing() -> None:
    train, test = TASK.sample(8_000, seeded(16)), TASK.sample(8_000, seeded(17))

    def slot(sample: Sample) -> Tensor:
        return sample.inputs[:, 0, :65].argmax(1)

    table = torch.zeros(65, 32)
    table.index_put_((slot(train), train.targets), torch.ones(8_000), accumulate=True)
    no_more_than(table.argmax(1)[slot(test)] == test.targets, TASK.chance)


def test_burstiness_zero_means_half_the_pairs_and_none_bursty() -> None:
    task = Classification(burstiness=0)
    sample = task.sample(3_000, seeded(18))
    assert not sample.slices["bursty"].any()
    novel = shown_labels(sample)[sample.slices["novel"]]
    times = torch.nn.functional.one_hot(novel, 32).sum(1)
    assert (times.sort(1).values == torch.tensor([0] * 30 + [4] * 2)).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slots", 16),
        ("classes", 500),
        ("novel_classes", 100),
        ("burstiness", 3),
        ("burstiness", 8),
        ("novel_every", 0),
        ("p_novel", 1.5),
        ("deviation", -0.1),
        ("width", 1.5),
    ],
)
def test_refused_numbers(field: str, value: float) -> None:
    with pytest.raises(HeadwayError, match=f"classification.{field}: {value}"):
        Classification(**{field: value})


def test_too_few_labels() -> None:
    with pytest.raises(HeadwayError, match=r"classification.labels: 2"):
        Classification(labels=2)
