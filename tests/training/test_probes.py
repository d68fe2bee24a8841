"""What is measured beside the loss, against plain computations."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from training_models import induction_model, random_windows, tiny

from headway import (
    KVShift,
    LayerShortcut,
    ResidualStream,
    SelectiveAttention,
    SinkLogit,
)
from headway.training.probes import (
    PrefixMatching,
    Validation,
    learned_numbers,
    repeat_probe,
    validate,
)


def test_validation_is_the_plain_cross_entropy():
    model, windows = tiny(KVShift()), random_windows(10, 24)
    with torch.no_grad():
        logits = model(windows[:, :-1]).logits.transpose(1, 2)
    expected = F.cross_entropy(logits, windows[:, 1:], reduction="none").double()
    found = validate(model, windows, 4, "float32")  # 10 rows in chunks of 4, 4 and 2
    assert found.loss == pytest.approx(expected.mean().item(), rel=1e-6)
    torch.testing.assert_close(found.by_position, expected.mean(0), rtol=1e-5, atol=1e-6)


def test_validation_does_not_depend_on_the_batch_and_leaves_no_gradient():
    model, windows = tiny(), random_windows(7, 16)
    losses = [validate(model, windows, size, "float32").loss for size in (1, 3, 7, 100)]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)
    assert all(p.grad is None for p in model.parameters())


def test_early_is_around_token_50_and_late_the_last_tenth():
    positions = torch.arange(128, dtype=torch.float64)
    found = Validation(0.0, positions)
    assert found.early == sum(range(40, 60)) / 20
    assert found.late == sum(range(115, 128)) / 13


@pytest.mark.parametrize(("length", "known"), [(16, False), (66, False), (67, True)])
def test_early_and_late_need_a_context_beyond_them(length, known):
    found = Validation(0.0, torch.ones(length, dtype=torch.float64))
    assert (found.early is not None) == known
    assert (found.late is not None) == known


def plain_prefix_scores(q, k, period, scale, alibi):
    """Attention of every query after `period` to the column after its token's last one."""
    heads, length = q.shape[1], q.shape[2]
    k = k.repeat_interleave(heads // k.shape[1], dim=1)
    raw = torch.einsum("bhid,bhjd->bhij", q, k) * scale
    i, j = torch.arange(length)[:, None], torch.arange(length)[None, :]
    if alibi:
        slopes = torch.tensor([2.0 ** (-8 * (h + 1) / heads) for h in range(heads)])
        raw = raw - slopes[:, None, None] * (i - j)
    weights = raw.masked_fill(j > i, float("-inf")).softmax(-1)
    looked = [weights[:, :, row, row - period + 1] for row in range(period, length)]
    return torch.stack(looked).mean(dim=(0, 1))


@pytest.mark.parametrize("position", ["rope", "alibi", "none", "learned"])
@pytest.mark.parametrize("groups", [4, 2, 1])
def test_prefix_matching_is_the_attention_weight_computed_plainly(position, groups):
    model = tiny(
        position=position, num_attention_heads=4, num_key_value_heads=groups, initializer_range=0.6
    ).eval()
    period = 70  # more than one tile of 64 queries, and a rest
    half = random_windows(3, period - 1)
    matching, seen = PrefixMatching(period), {}

    def both(slot, q, k, visible, scale):
        matching(slot, q, k, visible, scale)
        seen[slot] = plain_prefix_scores(q, k, period, scale, position == "alibi")

    with torch.no_grad():
        model(torch.cat([half, half], dim=1), use_cache=False, probe=both)
    assert sorted(matching.scores) == [0, 1]
    for layer, expected in seen.items():
        assert len(matching.scores[layer]) == 4
        assert matching.scores[layer] == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-6)
        assert expected.std() > 1e-4  # the heads differ, so that an order of heads is tested


def test_a_hand_built_induction_head_is_right_everywhere():
    found = repeat_probe(induction_model(512), context=12, sequences=4, dtype="float32")
    assert found.accuracy == 1.0
    ((score,),) = found.prefix_scores
    assert score == pytest.approx(1.0, abs=1e-4)


def test_a_model_without_weights_is_right_nowhere():
    model = tiny()
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
    found = repeat_probe(model, context=20, sequences=3, dtype="float32")
    assert found.accuracy == 0.0  # it always says token 0, which is never drawn
    # Equal scores give every key the same weight, 1 / (i + 1) at column i.
    uniform = sum(1 / (i + 1) for i in range(10, 20)) / 10
    for layer in found.prefix_scores:
        assert layer == pytest.approx([uniform] * 2, rel=1e-5)


def test_the_probe_is_the_same_every_time_and_draws_nothing():
    model = tiny(KVShift())
    before = torch.get_rng_state()
    first = repeat_probe(model, 16, 4, "float32")
    assert repeat_probe(model, 16, 4, "float32") == first
    assert torch.equal(torch.get_rng_state(), before)


def test_every_attention_has_a_prefix_score_a_head():
    plain = repeat_probe(tiny(), 16, 2, "float32").prefix_scores
    assert [len(layer) for layer in plain] == [2, 2]
    added = repeat_probe(tiny(LayerShortcut(mode="add", width=8)), 16, 2, "float32")
    assert [len(layer) for layer in added.prefix_scores] == [2, 2, 2]
    assert all(0 <= s <= 1 for layer in added.prefix_scores for s in layer)


def test_learned_numbers_have_readable_names_and_plain_values():
    mechanisms = ResidualStream(scale="head"), KVShift(), SelectiveAttention(), SinkLogit()
    model = tiny(*mechanisms)
    found = learned_numbers(model)
    for layer in (0, 1):
        for target in ("key", "value"):
            taps = found[f"layers.{layer}.kv_shift.{target} taps"]
            assert [len(row) for row in taps] == [2, 2]
            assert [sum(row) for row in taps] == pytest.approx([1.0, 1.0])
        (slope,) = found[f"layers.{layer}.selective_attention.query position slope"]
        assert slope == pytest.approx(0.0113, rel=1e-4)
    assert found["layers.1.residual_stream.value own, source"] == [[1.0, 1.0], [1.0, 1.0]]
    assert not any("layers.0.residual_stream" in name for name in found)
    assert any("sink_logit" in name for name in found)
    assert not any("members" in name or name.startswith("model.") for name in found)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_plain_model_has_no_learned_numbers():
    assert learned_numbers(tiny()) == {}


def test_validation_by_position_shows_where_the_context_helps():
    """The induction model is lost in the first half of a repeated text and sure in the second."""
    model = induction_model(64)
    half = torch.randperm(63, generator=torch.Generator().manual_seed(0))[:20] + 1
    window = torch.cat([half, half, half[:1]])[None]
    found = validate(model, window, 1, "float32").by_position
    assert found.shape == (40,)
    # Sure as e^2 against e^1 for the current token and e^0 for the 62 others.
    expected = math.log(math.exp(2) + math.e + 62) - 2
    assert found[20:].tolist() == pytest.approx([expected] * 20, abs=1e-3)
    assert found[1:19].min() > expected + 1
