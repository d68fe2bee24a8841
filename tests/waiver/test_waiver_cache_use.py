"""The bounded cache in use: generation, beams, sampling, memory, and what it leaves behind."""

import copy
import gc

import pytest
import torch
from bounded import float64_llama, streamed
from bounded_models import COMPOSED, EXACT, GROUPED, family, own, tokens
from transformers import DynamicCache

from headway import HeadwayCache, WaiverCache
from headway.waiver.cache import cache_bytes

LLAMA = float64_llama(3)


def test_generate_follows_the_stream():
    for made in (LLAMA, own(COMPOSED), own(position="alibi")):
        prompt = tokens(2, 9)
        cache = WaiverCache(made, window=4, keep=2)
        out = made.generate(prompt, past_key_values=cache, max_new_tokens=15, do_sample=False)
        by_hand = WaiverCache(made, window=4, keep=2)
        logits = streamed(made, out[:, :-1], by_hand, first=9)
        assert torch.equal(logits[:, 8:].argmax(-1), out[:, 9:])
        assert cache.get_seq_length() == out.shape[1] - 1
        # The same cache goes on where it stands, several tokens at once.
        more = torch.cat([out, tokens(2, 3, seed=5)], dim=1)
        on = made.generate(more, past_key_values=cache, max_new_tokens=6, do_sample=False)
        rest = made(more[:, out.shape[1] - 1 :], past_key_values=by_hand).logits[:, -1:]
        for t in range(more.shape[1], on.shape[1]):
            assert torch.equal(rest[:, -1].argmax(-1), on[:, t])
            rest = made(on[:, t : t + 1], past_key_values=by_hand).logits


def test_left_padded_generate_gives_each_row_its_own_text():
    made, prompt = own(COMPOSED), tokens(2, 9)
    mask = torch.ones_like(prompt)
    mask[1, :4] = 0
    options = {"max_new_tokens": 14, "do_sample": False, "pad_token_id": 0}
    cache = WaiverCache(made, window=4, keep=2)
    both = made.generate(prompt, attention_mask=mask, past_key_values=cache, **options)
    alone = made.generate(
        prompt[1:, 4:], past_key_values=WaiverCache(made, window=4, keep=2), **options
    )
    assert torch.equal(both[1:, 4:], alone)


@pytest.mark.parametrize("padded", [False, True])
def test_beams_are_followed(padded):
    made, prompt = own(COMPOSED), tokens(2, 7)
    mask = torch.ones_like(prompt)
    if padded:
        mask[0, :3] = 0
    options = {"num_beams": 3, "max_new_tokens": 10, "do_sample": False, "pad_token_id": 0}
    options |= {"return_dict_in_generate": True, "output_scores": True, "length_penalty": 0.0}
    cache = WaiverCache(made, window=4, keep=2)
    found = made.generate(prompt, attention_mask=mask, past_key_values=cache, **options)
    for row in range(2):
        text = found.sequences[row : row + 1, 3 if padded and row == 0 else 0 :]
        start = text.shape[1] - 10
        again = streamed(made, text[:, :-1], WaiverCache(made, window=4, keep=2), first=start)
        each = again[0, start - 1 :].log_softmax(-1).gather(-1, text[0, start:, None])
        assert abs(float(each.sum() - found.sequences_scores[row])) < 1e-4


def test_sampling_and_repeated_rows():
    made = own(COMPOSED)
    torch.manual_seed(0)
    cache = WaiverCache(made, window=4, keep=2)
    prompt = tokens(1, 9)
    out = made.generate(
        prompt, past_key_values=cache, max_new_tokens=9, do_sample=True, num_return_sequences=3
    )
    assert out.shape == (3, 18)
    single = WaiverCache(made, window=4, keep=2)
    streamed(made, prompt, single, first=9)
    single.batch_repeat_interleave(3)
    step = made(out[:, 9:10], past_key_values=single).logits
    expected = streamed(made, out[1:2, :10], WaiverCache(made, window=4, keep=2), first=9)[:, -1:]
    torch.testing.assert_close(step[1:2], expected, **EXACT)
    single.batch_select_indices(torch.tensor([2, 0]))
    step = made(out[[2, 0], 10:11], past_key_values=single).logits
    expected = streamed(made, out[2:3, :11], WaiverCache(made, window=4, keep=2), first=9)[:, -1:]
    torch.testing.assert_close(step[:1], expected, **EXACT)


def test_memory_stays_and_the_plain_cache_grows():
    made, ids = own(COMPOSED), tokens(1, 300)
    cache, plain = WaiverCache(made, window=8, keep=2), HeadwayCache(made.config)
    sizes = []
    made(ids[:, :99], past_key_values=cache)
    after_prompt = cache_bytes(cache)
    made(ids[:, 99:100], past_key_values=cache)
    for t in range(100, 300):
        made(ids[:, t : t + 1], past_key_values=cache)
        sizes.append(cache_bytes(cache))
    made(ids, past_key_values=plain)
    assert len(set(sizes)) == 1
    assert after_prompt <= sizes[-1]
    assert cache_bytes(plain) > 15 * sizes[-1]
    assert cache.layers[0].held() == 2 + 8 - 1


def test_half_precision_does_not_drift():
    made = float64_llama().bfloat16()
    made.model.rotary_emb.double()
    cache, ids = WaiverCache(made, window=4, keep=2), tokens(1, 400)
    streamed(made, ids[:, :40], cache)
    before = cache.layers[0].kept_keys.clone()
    streamed(made, ids[:, 40:], cache)
    assert torch.equal(cache.layers[0].kept_keys, before)


def test_the_hook_goes_with_the_cache():
    made = family("llama", **GROUPED)
    first, second = WaiverCache(made), WaiverCache(made)
    copied = copy.deepcopy(first)
    assert len(made.model._forward_pre_hooks) == 1
    ids = tokens(1, 6)
    streamed(made, ids, first)
    torch.testing.assert_close(streamed(made, ids, copied), streamed(made, ids, second))
    del first, second
    gc.collect()
    assert len(made.model._forward_pre_hooks) == 1
    del copied
    gc.collect()
    assert not made.model._forward_pre_hooks


def test_the_model_is_left_as_it_was():
    made = family("llama", **GROUPED)
    made.train()
    made.model.layers[1].eval()
    modes = [module.training for module in made.modules()]
    weights = {name: weight.clone() for name, weight in made.state_dict().items()}
    WaiverCache(made)
    assert [module.training for module in made.modules()] == modes
    assert all(torch.equal(weight, weights[name]) for name, weight in made.state_dict().items())


def test_other_caches_are_not_touched_while_one_lives():
    made, ids = family("llama", **GROUPED), tokens(1, 9)
    alone = made(ids, past_key_values=DynamicCache(config=made.config)).logits
    cache = WaiverCache(made, window=4)
    assert torch.equal(made(ids, past_key_values=DynamicCache(config=made.config)).logits, alone)
    assert cache.get_seq_length() == 0


def test_reset_begins_a_new_stream():
    made, ids = own(COMPOSED), tokens(1, 20)
    cache = WaiverCache(made, window=4, keep=2)
    first = streamed(made, ids, cache)
    cache.reset()
    assert cache.get_seq_length() == 0
    torch.testing.assert_close(streamed(made, ids, cache), first, **EXACT)
