"""The bounded cache computes what its definition says, in every kind of model that it takes."""

import copy

import pytest
import torch
from bounded import (
    family_reference,
    float64_llama,
    llama_reference,
    own_reference,
    seen_by,
    streamed,
)
from bounded_models import CLOSE, COMPOSED, EXACT, GROUPED, REPLACED, family, own, tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from headway import KVShift, ResidualStream, ScalableSoftmax, ShortConv, WaiverCache, attach
from headway.hosts import model as host_model
from headway.mechanisms.base import Learned
from headway.waiver import held as held_module
from headway.waiver.held import Held
from headway.waiver.rotation import Rotation

FAMILIES = {
    "llama": GROUPED,
    "mistral": GROUPED | {"sliding_window": 8},
    "qwen3": GROUPED | {"head_dim": 12},
    "smollm3": GROUPED | {"no_rope_layers": [1, 0, 1]},
    "gemma2": GROUPED | {"sliding_window": 8, "head_dim": 8, "attn_logit_softcapping": 4.0},
    "gemma3_text": GROUPED
    | {
        "sliding_window": 8,
        "head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "phi3": GROUPED | {"partial_rotary_factor": 0.5},
    "gpt_neox": {},
    "cohere": GROUPED,
    "glm": GROUPED | {"head_dim": 8},
}
TURNS = {"cohere": True, "glm": True}
"""Families whose pairs are neighbouring channels."""


@pytest.mark.parametrize("keep", [0, 2, (0, 5), (3, 4, 11)])
@pytest.mark.parametrize("window", [2, 5, 30])
def test_a_llama_streams_as_the_definition_says(window, keep):
    made, ids = float64_llama(), tokens(1, 22)
    if isinstance(keep, tuple) and len(keep) > window:
        keep = keep[:window]
    cache = WaiverCache(made, window=window, keep=keep)
    expected = llama_reference(made, ids[0], window, range(keep) if type(keep) is int else keep)
    torch.testing.assert_close(streamed(made, ids, cache)[0], expected, **EXACT)


@settings(max_examples=12)
@given(
    window=st.integers(2, 9),
    keep=st.sets(st.integers(0, 15), max_size=2),
    first=st.integers(1, 9),
    limit=st.integers(30, 60),
)
def test_any_window_and_first_chunk_and_bounded_positions(window, keep, first, limit):
    # The whole first chunk sees no more than its window, so that it is no prompt of its own kind.
    made, ids = LLAMA, tokens(1, 40)
    cache = WaiverCache(made, window=window, keep=tuple(keep))
    told = []
    watching = made.model.register_forward_pre_hook(
        lambda _m, _a, kw: told.append(int(kw["position_ids"].max())), with_kwargs=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_module, "LIMIT", limit)
        got = streamed(made, ids, cache, first=min(first, window))
    watching.remove()
    torch.testing.assert_close(got[0], llama_reference(made, ids[0], window, keep), **EXACT)
    assert max(told) < max(limit, 4 * (window + len(keep)))


LLAMA = float64_llama(3)


@pytest.mark.parametrize("position", ["rope", "alibi", "none"])
@pytest.mark.parametrize("mechanisms", [[], COMPOSED, REPLACED], ids=["plain", "many", "replaced"])
def test_our_decoder_with_mechanisms(position, mechanisms, monkeypatch):
    made, ids = own(mechanisms, position=position), tokens(2, 20)
    cache = WaiverCache(made, window=5, keep=(0, 3))
    expected = own_reference(made, ids, 5, (0, 3), monkeypatch)
    torch.testing.assert_close(streamed(made, ids, cache, first=4), expected, **EXACT)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_families_of_transformers(model_type):
    made, ids = family(model_type, **FAMILIES[model_type]), tokens(2, 20)
    cache = WaiverCache(made, window=5, keep=(0, 3))
    rotations = [layer.rotation for layer in cache.layers]
    assert all(r is None or r.interleaved == TURNS.get(model_type, False) for r in rotations)
    expected = family_reference(made, ids, 5, (0, 3), rotations)
    # transformers counts angles in float32.
    torch.testing.assert_close(streamed(made, ids, cache), expected, rtol=0, atol=2e-4)
    assert not torch.allclose(expected, made(ids, use_cache=False).logits, atol=1e-2)


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox", "phi3"])
def test_attached_mechanisms(model_type, monkeypatch):
    made, ids = family(model_type, **FAMILIES[model_type]), tokens(2, 20)
    mechanisms = [
        ResidualStream(scale="head", init="identity"),
        KVShift(init="identity"),
        ShortConv(init="identity"),
        ScalableSoftmax(init="identity", bias=True),
    ]
    attach(made, mechanisms)
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, Learned):
                for parameter in module.parameters(recurse=False):
                    parameter.add_(torch.randn_like(parameter) * 0.5)
    cache = WaiverCache(made, window=5, keep=(0, 3))
    got = streamed(made, ids, cache)
    # What a mechanism reads of positions counts inside the cache.
    places = torch.tensor([[len(seen_by(t, 5, (0, 3))) - 1 for t in range(20)]])
    monkeypatch.setattr(host_model, "find_positions", lambda *_: places.expand(2, -1))
    expected = family_reference(made, ids, 5, (0, 3), [layer.rotation for layer in cache.layers])
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)


def test_bloom_counts_distances_inside_the_cache():
    made, ids = family("bloom"), tokens(2, 16)
    cache = WaiverCache(made, window=4, keep=2)
    got = streamed(made, ids, cache)
    # A one-layer stream is the last tokens and the kept ones by themselves.
    for t in (9, 15):
        seen = seen_by(t, 4, (0, 1))
        shallow = copy.deepcopy(made)
        shallow.transformer.h = shallow.transformer.h[:1]
        alone = shallow(ids[:, seen], use_cache=False).logits[:, -1]
        short = WaiverCache(shallow, window=4, keep=2)
        torch.testing.assert_close(streamed(shallow, ids, short)[:, t], alone, **CLOSE)
    attach(made, [KVShift(init="identity")])
    again = streamed(made, ids, WaiverCache(made, window=4, keep=2))
    torch.testing.assert_close(again, got, **CLOSE)


def test_a_window_as_long_as_the_text_changes_nothing():
    for made in (LLAMA, own(COMPOSED), family("bloom")):
        ids = tokens(2, 18)
        cache = WaiverCache(made, window=18, keep=4)
        near = CLOSE if made.config.model_type == "bloom" else EXACT
        whole = made(ids, use_cache=False).logits
        torch.testing.assert_close(streamed(made, ids, cache, first=7), whole, **near)


def test_padded_rows_are_as_they_are_alone():
    # In float64 BLOOM's own masks overflow into NaN.
    for made in (LLAMA, own(COMPOSED), own(position="alibi"), family("bloom").float()):
        near = CLOSE if made.config.model_type == "bloom" else EXACT
        ids, pads = tokens(3, 24), [0, 4, 7]
        mask = torch.ones_like(ids)
        for row, pad in enumerate(pads):
            mask[row, :pad] = 0
        cache = WaiverCache(made, window=5, keep=(0, 2))
        got = [made(ids[:, :9], attention_mask=mask[:, :9], past_key_values=cache).logits]
        for t in range(9, 24):
            step = ids[:, t : t + 1]
            out = made(step, attention_mask=mask[:, : t + 1], past_key_values=cache)
            got.append(out.logits)
        for row, pad in enumerate(pads):
            alone = WaiverCache(made, window=5, keep=(0, 2))
            expected = streamed(made, ids[row : row + 1, pad:], alone, first=9 - pad)
            torch.testing.assert_close(torch.cat(got, 1)[row : row + 1, pad:], expected, **near)


def test_padded_rows_are_chosen_and_repeated():
    made, ids, pads = own(COMPOSED), tokens(3, 12), [6, 0, 3]
    mask = torch.ones_like(ids)
    for row, pad in enumerate(pads):
        mask[row, :pad] = 0
    cache = WaiverCache(made, window=5, keep=(0, 2))
    made(ids[:, :9], attention_mask=mask[:, :9], past_key_values=cache)
    cache.reorder_cache(torch.tensor([1, 2, 0]))
    cache.batch_select_indices(torch.tensor([1, 2]))
    cache.batch_repeat_interleave(2)
    rows = [2, 2, 0, 0]
    for t in (9, 10, 11):
        got = made(ids[rows, t : t + 1], past_key_values=cache).logits
        for place, row in enumerate(rows):
            alone = WaiverCache(made, window=5, keep=(0, 2))
            expected = streamed(
                made, ids[row : row + 1, pads[row] : t + 1], alone, first=9 - pads[row]
            )
            torch.testing.assert_close(got[place], expected[0, -1:], **EXACT)


@settings(max_examples=60)
@given(
    window=st.integers(2, 7),
    keep=st.sets(st.integers(0, 12), max_size=4),
    pads=st.lists(st.integers(0, 5), min_size=2, max_size=3),
    chunks=st.lists(st.integers(1, 6), min_size=1, max_size=12),
)
def test_the_bookkeeping_names_the_right_columns(window, keep, pads, chunks):
    held = Held(sorted(keep), window, torch.tensor(pads))
    columns = torch.zeros(len(pads), 0, dtype=torch.long)
    for tokens_fed in chunks:
        start = held.seen
        real = held.real(tokens_fed)
        new = torch.arange(start, start + tokens_fed).expand(len(pads), -1)
        step = held.step(tokens_fed)
        kept = columns.shape[1] - min(start, window - 1)
        at_hand = torch.cat([columns, new], dim=1)
        for row, pad in enumerate(pads):
            first = max(0, start - window + 1)
            expected = [p + pad for p in sorted(keep) if p + pad < first]
            expected += [c for c in range(first, start + tokens_fed) if c >= pad]
            assert at_hand[row][real[row]].tolist() == expected
            # Padding stands on the left, so that places from the right end need no holes.
            assert real[row].long().diff().ge(0).all()
        front = at_hand[:, :kept] if step.take is None else at_hand.gather(1, step.take)
        columns = torch.cat([front, at_hand[:, at_hand.shape[1] - step.recent :]], dim=1)


def test_turns_add_up_at_any_distance():
    rotation = Rotation(torch.tensor([1.0, 0.37, 0.011], dtype=torch.float64))
    keys = torch.randn(1, 2, 1, 8, dtype=torch.float64)

    def turned(x, by):
        return rotation.turn(x, rotation.waves(torch.tensor([[by]])))

    torch.testing.assert_close(turned(turned(keys, 7), 5), turned(keys, 12), **EXACT)
    far = 10**8
    torch.testing.assert_close(turned(turned(keys, far), -far), keys, rtol=0, atol=1e-7)
    assert torch.equal(turned(keys, 3)[..., 6:], keys[..., 6:])
