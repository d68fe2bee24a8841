"""Attention over depth and position is gathered as one softmax has it, and a tap can be taken out
of a trained model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from small_language_models import TINY, asked
from torch import Tensor

from headway.decoder import HeadwayForCausalLM
from headway.mechanisms.layer_shortcut import LayerShortcut, ShortcutAttention
from headway.ops.visibility import Visibility
from headway.studies.claims import Run
from headway.studies.language_models.course import Arm, Course, Shape
from headway.studies.races.tuning import TEST
from headway.studies.shortcuts.maps import (
    ROWS,
    DepthMap,
    distance_bins,
    look,
    rank_correlation,
    shortcut_of,
    without_tap,
)

ARMS = {
    "two": Arm(about="two taps", mechanisms=(LayerShortcut(taps=(1, 2), width=8),)),
    "three": Arm(about="three taps", mechanisms=(LayerShortcut(taps=(0, 1, 2), width=8),)),
    "shared": Arm(
        about="one perceptron", mechanisms=(LayerShortcut(taps=(1, 2), features="shared_mlp"),)
    ),
    "none": Arm(about="no perceptron", mechanisms=(LayerShortcut(taps=(1, 2), features="none"),)),
    "token": Arm(
        about="same token", mechanisms=(LayerShortcut(taps=(1, 2), reach="token", mode="add"),)
    ),
    "plain": Arm(about="nothing"),
}
EXTENT = replace(TINY, shapes=(Shape(layers=3, width=16, heads=2, kv_heads=2),))


def seen(length: int) -> Visibility:
    return Visibility(torch.arange(length)[None].expand(2, -1), 0, length, True)


def pairs(length: int, taps: int, seed: int, strength: float) -> list[tuple[Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(seed)
    query = torch.randn(2, 3, length, 4, generator=drawn)
    return [(query, strength * torch.randn(2, 3, length, 4, generator=drawn)) for _ in range(taps)]


def gathered(length: int, of: list[tuple[Tensor, Tensor]]) -> DepthMap:
    found = DepthMap(tuple(range(5, 5 + len(of))))
    for slot, (q, k) in enumerate(of, 5):
        found(slot, q, k, seen(length), 0.5)
    found(0, *of[0], seen(length), 0.5)  # an attention of another layer
    return found


@settings(max_examples=15, deadline=None)
@given(
    length=st.sampled_from([1, 2, 7, ROWS, ROWS + 3]),
    taps=st.integers(1, 3),
    seed=st.integers(0, 99),
    strength=st.floats(0, 3),
)
def test_a_map_is_one_softmax_over_taps_and_positions(
    length: int, taps: int, seed: int, strength: float
) -> None:
    of = pairs(length, taps, seed, strength)
    found = gathered(length, of)
    raw = torch.cat([0.5 * q @ k.transpose(-1, -2) for q, k in of], dim=-1)
    later = torch.ones(length, length, dtype=torch.bool).triu(1).repeat(1, taps)
    weights = raw.masked_fill(later, -math.inf).softmax(-1).unflatten(-1, (taps, length)).double()
    names = distance_bins(length)
    for row, column in ((0, 0), (length - 1, 0), (length - 1, length // 2)):
        back = row - column
        ends = [(int(a), int(b or a)) for a, _, b in (name.partition("-") for name in names)]
        [place] = [i for i, (low, high) in enumerate(ends) if low <= back <= high]
        at = [c for c in range(row + 1) if ends[place][0] <= row - c <= ends[place][1]]
        wanted = weights[:, :, row, :, at].sum(-1).permute(2, 0, 1)
        near = torch.stack([found.near[slot][:, :, row, place] for slot in found.slots])
        torch.testing.assert_close(found.shares[..., row] * near, wanted)
    assert found.map.shape == (taps, len(names))
    assert float(found.map.sum()) == pytest.approx(1)
    torch.testing.assert_close(found.map.sum(1), weights.sum(-1).mean((0, 1, 2)))
    itself = torch.diagonal(weights, dim1=2, dim2=4).sum(2).mean()
    assert found.told()["elsewhere"] == pytest.approx(1 - float(itself), abs=1e-4)


def test_even_attention_spreads_over_all_taps_and_follows_nothing() -> None:
    told = gathered(9, pairs(9, 3, seed=0, strength=0.0)).told()
    assert told["effective"] == pytest.approx(3)
    assert told["adaptive"] == pytest.approx(0, abs=1e-5)
    assert told["mass"] == pytest.approx([1 / 3] * 3, abs=1e-4)


def test_depth_that_the_token_decides_is_told_in_nats() -> None:
    """Half of the queries see the one tap alone, half the other: log 2 of a tap follows."""
    query = torch.zeros(1, 1, 8, 2)
    query[..., ::2, 0] = query[..., 1::2, 1] = 1.0
    keys = [torch.zeros_like(query), torch.zeros_like(query)]
    keys[0][..., 0] = keys[1][..., 1] = 100.0
    found = DepthMap((0, 1))
    for slot, key in enumerate(keys):
        found(slot, query, key, seen(8), 1.0)
    told = found.told()
    assert told["adaptive"] == pytest.approx(math.log(2), abs=1e-4)
    assert told["effective"] == pytest.approx(2, abs=1e-4)


def test_distances_are_told_apart_by_powers_of_two() -> None:
    assert distance_bins(1) == ["0"]
    assert distance_bins(2) == ["0", "1"]
    assert distance_bins(9) == ["0", "1", "2-3", "4-7", "8-15"]


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=9, unique=True), st.randoms())
def test_rank_correlation_is_spearmans(values: list[float], draw: object) -> None:
    other = sorted(values, key=lambda x: math.sin(1e3 * x))
    found = rank_correlation(values, other)
    assert found == pytest.approx(spearmanr(values, other).statistic, abs=1e-9)


@pytest.fixture
def course(text: Path, tmp_path: Path) -> Course:
    return Course(ARMS, EXTENT, asked(text, tmp_path))


def run_of(arm: str) -> Run:
    return Run(arm, 0, {"stage": TEST, "rate": 0.01})


def loud(course: Course, arm: str) -> HeadwayForCausalLM:
    """A model whose attention is not even."""
    model = course.drawn(run_of(arm))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6 if parameter.dim() > 1 else 1)
    return model.eval()


@pytest.mark.parametrize(
    ("arm", "tap"),
    [("two", 1), ("two", 2), ("shared", 1), ("none", 2), *(("three", tap) for tap in range(3))],
)
def test_a_model_without_a_tap_attends_to_what_is_left(course: Course, arm: str, tap: int) -> None:
    model = loud(course, arm)
    less = without_tap(course, model, tap)
    before, after = shortcut_of(model), shortcut_of(less)
    assert before is not None
    assert after is not None
    assert after.taps == tuple(t for t in before.taps if t != tap)
    ids = course.held(run_of(arm))[:2, :-1]
    gone = before.slots[before.taps.index(tap)]
    attended: list[int] = []
    plain_forward = ShortcutAttention.forward

    def alone(self, x, tapped, attend, scale, norm=None):  # type: ignore[no-untyped-def]
        """Nothing of the tap is left in the sum."""

        def one(q, k, v, slot):  # type: ignore[no-untyped-def]
            attended.append(slot)
            out, lse = attend(q, k, v, slot)
            return out, torch.full_like(lse, -math.inf) if slot == gone else lse

        return plain_forward(self, x, tapped, one, scale, norm)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        found = less(ids).logits
        whole = model(ids).logits
        patch.setattr(ShortcutAttention, "forward", alone)
        wanted = model(ids).logits
    assert attended == list(before.slots)
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(found, whole, atol=1e-3)


def test_a_look_measures_what_the_loss_is_more_without_each_tap(course: Course) -> None:
    model = loud(course, "two")
    found = look(course, model, run_of("two"))
    assert found["taps"] == [1, 2]
    assert sum(found["mass"]) == pytest.approx(1, abs=1e-4)
    whole = course.loss(model, run_of("two"))
    worth = [course.loss(without_tap(course, model, t), run_of("two")) - whole for t in (1, 2)]
    assert found["removed"] == pytest.approx(worth, abs=2e-4)
    assert min(abs(x) for x in worth) > 1e-3
    assert found["rank_correlation"] in (-1, 1)
    assert found["train_tokens"] == len(course.corpus.train)
    for arm in ("token", "plain"):
        assert "map" not in look(course, loud(course, arm), run_of(arm))
