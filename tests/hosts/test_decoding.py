"""With a cache, in chunks, in beams, padded or assisted: what the uncached forward pass implies."""

import pytest
import torch
from tiny import LOUD, SIZES, fitting, make_loud, tiny, tokens

import headway

pytestmark = pytest.mark.filterwarnings("ignore:the logits change at once")
GREEDY = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
LISTS = [n for n in LOUD if n not in ("scalable_softmax", "smeared_key", "output_gate")]


def loud_host(model_type, name, seed=0):
    """A tiny model with mechanisms whose numbers are far from the identity."""
    model = tiny(model_type, seed=seed)
    return make_loud(headway.attach(model, fitting(model_type, LOUD[name])), seed + 1)


def close(actual, expected):
    bound = 1e-10 if expected.dtype == torch.float64 else 1e-5
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(actual, expected, atol=bound * scale, rtol=0)


def in_chunks(model, ids, sizes, mask=None):
    """Logits of the whole, fed through one cache."""
    cache, out, end = None, [], 0
    for size in sizes:
        seen = None if mask is None else mask[:, : end + size]
        step = model(
            ids[:, end : end + size], attention_mask=seen, past_key_values=cache, use_cache=True
        )
        cache, end = step.past_key_values, end + size
        out.append(step.logits)
    return torch.cat(out, dim=1)


@pytest.mark.parametrize("model_type", SIZES)
@torch.no_grad()
def test_chunks_and_single_tokens(model_type):
    ids = tokens(2, 14)
    for name in LISTS:
        if not fitting(model_type, LOUD[name]):
            continue
        model = loud_host(model_type, name)
        if model_type != "gpt_oss":  # its experts have no double precision
            model = model.double()
        whole = model(ids, use_cache=False).logits
        for sizes in ([6] + [1] * 8, [3, 5, 2, 4]):
            close(in_chunks(model, ids, sizes), whole)


@pytest.mark.parametrize("model_type", SIZES)
@torch.no_grad()
def test_left_padding(model_type):
    ids, mask = tokens(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[0, :4] = 0
    for name in ("kv_shift", "everything", "replaced"):
        model = loud_host(model_type, name)
        alone = model.generate(ids[:1, 4:], max_new_tokens=4, **GREEDY)
        padded = model.generate(ids, attention_mask=mask, max_new_tokens=4, **GREEDY)
        assert torch.equal(padded.sequences[:1, 4:], alone.sequences)
        close(torch.stack(padded.logits)[:, :1], torch.stack(alone.logits))


@pytest.mark.parametrize("model_type", SIZES)
@torch.no_grad()
def test_beams(model_type):
    ids = tokens(2, 7)
    for name in ("everything", "replaced"):
        model = loud_host(model_type, name)
        options = {"num_beams": 4, "num_return_sequences": 2, "max_new_tokens": 6}
        options |= {"do_sample": False, "return_dict_in_generate": True, "output_scores": True}
        cached = model.generate(ids, **options)
        plain = model.generate(ids, use_cache=False, **options)
        assert torch.equal(cached.sequences, plain.sequences)
        close(cached.sequences_scores, plain.sequences_scores)


@pytest.mark.parametrize("model_type", SIZES)
@torch.no_grad()
def test_assisted_decoding(model_type):
    ids = tokens(1, 9)
    try:
        tiny(model_type).generate(ids, assistant_model=tiny(model_type), **GREEDY)
    except RuntimeError as error:
        pytest.skip(f"transformers' own {model_type} cannot be assisted here: {error}")
    for name in ("everything", "replaced"):
        model, helper = loud_host(model_type, name), loud_host(model_type, "kv_shift", seed=3)
        plain = model.generate(ids, use_cache=False, max_new_tokens=7, **GREEDY)
        for assistant in (helper, tiny(model_type), loud_host(model_type, name)):
            assisted = model.generate(ids, assistant_model=assistant, max_new_tokens=7, **GREEDY)
            assert torch.equal(assisted.sequences, plain.sequences)


@pytest.mark.parametrize("model_type", SIZES)
@torch.no_grad()
def test_a_static_cache(model_type):
    ids, mask = tokens(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    for name in ("everything", "replaced"):
        model = loud_host(model_type, name)
        plain = model.generate(
            ids, attention_mask=mask, use_cache=False, max_new_tokens=6, **GREEDY
        )
        fixed = model.generate(
            ids,
            attention_mask=mask,
            cache_implementation="static",
            disable_compile=True,
            max_new_tokens=6,
            **GREEDY,
        )
        assert torch.equal(fixed.sequences, plain.sequences)
        close(torch.stack(fixed.logits), torch.stack(plain.logits))
