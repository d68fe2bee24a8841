"""Every way to generate with a cache gives what the uncached forward pass implies."""

import pytest
import torch
from small_models import COMPOSED, LISTS, small, tokens

from headway import HeadwayCache, KVShift

GREEDY = {"max_new_tokens": 10, "do_sample": False}
LEFT = torch.ones(2, 9, dtype=torch.long)
LEFT[0, :3] = 0


@pytest.fixture(params=LISTS)
def model(request):
    return small(LISTS[request.param])


def full(output, prompt):
    """Sequences and the logits of each new token."""
    return output.sequences[:, prompt.shape[1] :], torch.stack(output.logits, dim=1)


def run(model, ids, **options):
    options = {"return_dict_in_generate": True, "output_logits": True} | GREEDY | options
    return model.generate(ids, **options)


def assert_same(model, ids, shared, cached, atol=1e-6):
    """`generate` with options `cached` gives what it gives without a cache."""
    new, logits = full(run(model, ids, **shared, **cached), ids)
    expected, expected_logits = full(run(model, ids, **shared, use_cache=False), ids)
    assert len(expected.unique()) > 3
    assert torch.equal(new, expected)
    torch.testing.assert_close(logits, expected_logits, atol=atol, rtol=0)


WAYS = {
    "default": lambda model: {},
    "static": lambda model: {"cache_implementation": "static"},
    "dynamic by name": lambda model: {"cache_implementation": "dynamic"},
    "cache by hand": lambda model: {"past_key_values": HeadwayCache(model.config)},
    "static by hand": lambda model: {"past_key_values": HeadwayCache(model.config, 24)},
    "prefill in chunks": lambda model: {"prefill_chunk_size": 4},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mask", [None, LEFT], ids=["whole", "left-padded"])
def test_greedy(model, way, mask):
    shared = {} if mask is None else {"attention_mask": mask}
    assert_same(model, tokens(2, 9), shared, WAYS[way](model))


@pytest.mark.parametrize("position", ["rope", "learned", "alibi", "none"])
def test_left_padding_is_the_prompt_alone(position):
    model = small(COMPOSED, position=position)
    ids = tokens(2, 9)
    together, logits = full(run(model, ids, attention_mask=LEFT), ids)
    alone, alone_logits = full(run(model, ids[:1, 3:]), ids[:1, 3:])
    assert torch.equal(together[:1], alone)
    torch.testing.assert_close(logits[:1], alone_logits, atol=1e-6, rtol=0)


def test_sampling_with_a_seed(model):
    ids = tokens(2, 9)

    def sample(**options):
        torch.manual_seed(3)
        options = {"do_sample": True, "temperature": 0.8, "max_new_tokens": 10} | options
        return model.generate(ids, **options)

    drawn = sample()
    assert torch.equal(drawn, sample(use_cache=False))
    assert not torch.equal(drawn, model.generate(ids, **GREEDY))


@pytest.mark.parametrize("mask", [None, LEFT], ids=["whole", "left-padded"])
@pytest.mark.parametrize("kind", [None, "static"])
def test_beams(model, mask, kind):
    ids = tokens(2, 9)
    options = {"num_beams": 4, "num_return_sequences": 3, "attention_mask": mask}
    cached = run(model, ids, cache_implementation=kind, **options)
    plain = run(model, ids, use_cache=False, **options)
    assert torch.equal(cached.sequences, plain.sequences)
    torch.testing.assert_close(cached.sequences_scores, plain.sequences_scores)
    origins = plain.beam_indices[:, :10]
    assert (origins[:, 1:] != origins[:, :-1]).any(), "no beam was reordered"


def forward_lengths(model, call):
    """The token counts of every forward pass of `model` inside `call`, and its result."""
    seen = []

    def note(module, args, kwargs):
        seen.append(kwargs["input_ids"].shape[1])

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        return call(), seen
    finally:
        hook.remove()


@pytest.mark.parametrize("assistant", ["twin", "stranger", "composed stranger"])
def test_assisted_decoding(model, assistant):
    ids = tokens(1, 9)
    helper = {
        "twin": lambda: small(model.config.mechanism_list()),
        "stranger": lambda: small([KVShift()], seed=7),
        "composed stranger": lambda: small(COMPOSED, seed=7),
    }[assistant]()
    assisted, lengths = forward_lengths(
        model, lambda: model.generate(ids, assistant_model=helper, **GREEDY)
    )
    assert torch.equal(assisted, model.generate(ids, use_cache=False, **GREEDY))
    if assistant == "twin":
        assert len(lengths) < 10, "no guess was accepted"
    else:
        assert sum(lengths) > 9 + 10, "no guess was rejected"


def test_prompt_lookup(model):
    ids = tokens(1, 5).repeat(1, 3)
    found, lengths = forward_lengths(
        model, lambda: model.generate(ids, prompt_lookup_num_tokens=3, **GREEDY)
    )
    assert torch.equal(found, model.generate(ids, use_cache=False, **GREEDY))
    assert lengths[0] > ids.shape[1] or max(lengths[1:]) > 1, "nothing was looked up"


@pytest.mark.parametrize("extra", [0, 4], ids=["own text", "more text"])
@pytest.mark.parametrize("static", [False, True], ids=["growing", "static"])
def test_continued_generation(model, extra, static):
    ids = tokens(2, 9)
    options = {"return_dict_in_generate": True, "do_sample": False}
    if static:
        options["past_key_values"] = HeadwayCache(model.config, 40)
    first = model.generate(ids, max_new_tokens=5, **options)
    prompt = torch.cat([first.sequences, tokens(2, extra, seed=2)], dim=1)
    assert first.past_key_values.get_seq_length() == 13
    second = model.generate(
        prompt, past_key_values=first.past_key_values, max_new_tokens=6, do_sample=False
    )
    plain = model.generate(prompt, use_cache=False, max_new_tokens=6, do_sample=False)
    assert torch.equal(second, plain)


def test_embeddings_instead_of_ids(model):
    ids = tokens(2, 9)
    new = model.generate(inputs_embeds=model.model.embed_tokens(ids), **GREEDY)
    assert torch.equal(new, model.generate(ids, use_cache=False, **GREEDY)[:, 9:])


def test_a_reset_cache_starts_anew(model):
    ids = tokens(2, 9)
    for cache in (HeadwayCache(model.config), HeadwayCache(model.config, 24)):
        with torch.no_grad():
            model(tokens(2, 11, seed=5), past_key_values=cache)
            cache.reset()
            again = model(ids, past_key_values=cache).logits
            torch.testing.assert_close(again, model(ids, use_cache=False).logits)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="offloading needs a GPU to come back to")
@pytest.mark.parametrize("mask", [None, LEFT], ids=["whole", "left-padded"])
def test_offloading(model, mask):
    model, ids = model.cuda(), tokens(2, 9).cuda()
    shared = {} if mask is None else {"attention_mask": mask.cuda()}
    # A GPU sums a row of another length in another order: 1.4e-6 was seen.
    assert_same(model, ids, shared, {"cache_implementation": "offloaded"}, atol=1e-5)
    # Beams that are nearly as good as each other are left alone by sums in the same order only.
    kept, offloaded = (
        run(model, ids, cache_implementation=kind, num_beams=4, **shared)
        for kind in (None, "offloaded")
    )
    assert torch.equal(offloaded.sequences, kept.sequences)
    torch.testing.assert_close(offloaded.sequences_scores, kept.sequences_scores)
