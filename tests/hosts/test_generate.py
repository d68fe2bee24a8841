"""Every mode of `generate` gives on an attached model what the uncached forward pass implies."""

import pytest
import torch
from tiny import LOUD, fitting, make_loud, tiny, tokens
from transformers import DynamicCache, PreTrainedTokenizerFast, TextStreamer, pipeline
from transformers.generation import StoppingCriteria

import headway
from headway.corpora.tokenizer import train_bpe

pytestmark = [
    pytest.mark.filterwarnings("ignore:the logits change at once"),
    pytest.mark.usefixtures("without_gradients"),
]
GREEDY = {"do_sample": False, "max_new_tokens": 8}
MODELS = [
    (t, n) for t in ("llama", "gpt2") for n in ("attention composed", "everything", "replaced")
]


@pytest.fixture
def without_gradients():
    with torch.no_grad():
        yield


def loud_host(model_type, name, seed=0):
    model = tiny(model_type, seed=seed)
    return make_loud(headway.attach(model, fitting(model_type, LOUD[name])), seed + 1)


@pytest.fixture(params=MODELS, ids=" ".join)
def model(request):
    return loud_host(*request.param)


def by_hand(model, ids, count=8):
    """Greedy text from whole, uncached forward passes."""
    for _ in range(count):
        best = model(ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, best], dim=1)
    return ids


def test_greedy(model):
    ids = tokens(2, 9)
    assert torch.equal(model.generate(ids, **GREEDY), by_hand(model, ids))


def test_scores_and_logits(model):
    ids = tokens(2, 9)
    out = model.generate(
        ids, return_dict_in_generate=True, output_scores=True, output_logits=True, **GREEDY
    )
    whole = model(out.sequences[:, :-1], use_cache=False).logits[:, 8:]
    torch.testing.assert_close(torch.stack(out.logits, dim=1), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.stack(out.scores, dim=1), whole, atol=1e-5, rtol=1e-5)
    again = model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
    chosen = out.sequences[:, 9:, None]
    expected = whole.log_softmax(-1).gather(-1, chosen)[..., 0]
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-5)


def test_hidden_states(model):
    ids = tokens(2, 9)
    whole = model(ids, use_cache=False, output_hidden_states=True)
    assert len(whole.hidden_states) == 4
    head = model.get_output_embeddings()
    torch.testing.assert_close(head(whole.hidden_states[-1]), whole.logits)


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_attention_weights(model_type):
    plain = tiny(model_type, attn_implementation="eager")
    ids = tokens(2, 9)
    expected = plain(ids, output_attentions=True).attentions
    headway.attach(plain, fitting(model_type, LOUD["attention composed"]))
    found = plain(ids, output_attentions=True).attentions
    assert len(found) == 3
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_sampling_with_a_seed(model):
    ids = tokens(2, 9)

    def sample(**options):
        torch.manual_seed(3)
        return model.generate(
            ids, do_sample=True, temperature=2.0, top_k=20, top_p=0.9, max_new_tokens=8, **options
        )

    assert torch.equal(sample(), sample(use_cache=False))
    assert not torch.equal(sample(), model.generate(ids, **GREEDY))


def test_several_samples_of_a_prompt(model):
    ids = tokens(1, 9)

    def sample(**options):
        torch.manual_seed(3)
        return model.generate(
            ids, do_sample=True, num_return_sequences=3, max_new_tokens=6, **options
        )

    assert torch.equal(sample(), sample(use_cache=False))


@pytest.mark.parametrize("extra", [{}, {"num_return_sequences": 4}, {"length_penalty": 0.2}])
def test_beams(model, extra):
    ids = tokens(2, 9)
    options = {"num_beams": 4, "output_scores": True, "return_dict_in_generate": True} | extra
    cached = model.generate(ids, **options, **GREEDY)
    plain = model.generate(ids, use_cache=False, **options, **GREEDY)
    assert torch.equal(cached.sequences, plain.sequences)
    torch.testing.assert_close(cached.sequences_scores, plain.sequences_scores)


def test_beams_that_sample(model):
    ids = tokens(2, 9)

    def sample(**options):
        torch.manual_seed(5)
        return model.generate(ids, do_sample=True, num_beams=3, max_new_tokens=6, **options)

    assert torch.equal(sample(), sample(use_cache=False))


def test_modes_that_transformers_moved_out_stay_what_they_are():
    """Group beams and contrastive search are code of the hub now; nobody runs it unasked."""
    ids, plain = tokens(1, 9), tiny("llama")
    attached = headway.attach(tiny("llama"), LOUD["attention composed"])
    for options in ({"num_beams": 4, "num_beam_groups": 2}, {"penalty_alpha": 0.6, "top_k": 4}):
        said = []
        for model in (plain, attached):
            with pytest.raises((ValueError, OSError)) as caught:
                model.generate(ids, max_new_tokens=4, **options)
            said.append(str(caught.value).splitlines()[0])
        assert said[0] == said[1]


def contrastive(model, input_ids, logits_processor, stopping_criteria, generation_config, **inputs):
    """Contrastive search (arXiv 2202.06417): candidates that differ from what was said."""
    cache, count = model_cache(model), 4
    step = model(input_ids, past_key_values=cache, output_hidden_states=True)
    said = step.hidden_states[-1]
    for _ in range(generation_config.max_new_tokens):
        chances = step.logits[:, -1].softmax(-1)
        top, candidates = chances.topk(count)
        cache.batch_repeat_interleave(count)
        tried = model(candidates.reshape(-1, 1), past_key_values=cache, output_hidden_states=True)
        new = tried.hidden_states[-1].unflatten(0, (-1, count))
        near = torch.cosine_similarity(new, said[:, None], dim=-1).amax(-1)
        best = (0.4 * top - 0.6 * near).argmax(-1)
        rows = torch.arange(len(best)) * count + best
        cache.batch_select_indices(rows)
        input_ids = torch.cat([input_ids, candidates.gather(1, best[:, None])], dim=1)
        said = torch.cat([said, tried.hidden_states[-1][rows]], dim=1)
        step.logits = tried.logits[rows]
    return input_ids


def model_cache(model):
    return headway.HeadwayCache(model.config)


def contrastive_by_hand(model, ids, count=8):
    """The same without a cache."""
    for _ in range(count):
        whole = model(ids, use_cache=False, output_hidden_states=True)
        top, candidates = whole.logits[:, -1].softmax(-1).topk(4)
        longer = torch.cat([ids.repeat_interleave(4, dim=0), candidates.reshape(-1, 1)], dim=1)
        tried = model(longer, use_cache=False, output_hidden_states=True).hidden_states[-1]
        tried = tried.unflatten(0, (-1, 4))
        near = torch.cosine_similarity(tried[:, :, -1:], tried[:, :, :-1], dim=-1).amax(-1)
        best = (0.4 * top - 0.6 * near).argmax(-1)
        ids = torch.cat([ids, candidates.gather(1, best[:, None])], dim=1)
    return ids


def test_contrastive_search_by_custom_generate(model):
    ids = tokens(2, 9)
    found = model.generate(ids, custom_generate=contrastive, **GREEDY)
    assert torch.equal(found, contrastive_by_hand(model, ids))


@pytest.mark.parametrize("kind", ["twin", "stranger", "plain"])
def test_a_draft_model(model, kind):
    ids = tokens(1, 9)
    model_type = model.config.model_type
    draft = {
        "twin": lambda: loud_host(model_type, "everything"),
        "stranger": lambda: loud_host(model_type, "replaced", seed=7),
        "plain": lambda: tiny(model_type, seed=7),
    }[kind]()
    expected = by_hand(model, ids)
    assert torch.equal(model.generate(ids, assistant_model=draft, **GREEDY), expected)


def test_an_attached_draft_for_a_plain_model():
    ids, model = tokens(1, 9), tiny("llama")
    draft = loud_host("llama", "everything")
    assert torch.equal(model.generate(ids, assistant_model=draft, **GREEDY), by_hand(model, ids))


def test_prompt_lookup(model):
    ids = tokens(1, 5).repeat(1, 3)
    found = model.generate(ids, prompt_lookup_num_tokens=3, **GREEDY)
    assert torch.equal(found, by_hand(model, ids))


class Written(TextStreamer):
    """Keeps the ids that it is given."""

    def __init__(self):
        self.ids = []

    def put(self, value):
        self.ids.append(value.flatten())

    def end(self):
        self.ids = torch.cat(self.ids)


def test_a_streamer(model):
    ids, streamer = tokens(1, 9), Written()
    out = model.generate(ids, streamer=streamer, **GREEDY)
    assert torch.equal(streamer.ids, out[0])
    assert torch.equal(out, by_hand(model, ids))


class AfterThree(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), input_ids.shape[1] >= 12)


def test_stopping_and_processors(model):
    ids = tokens(2, 9)
    out = model.generate(ids, stopping_criteria=[AfterThree()], **GREEDY)
    assert torch.equal(out, by_hand(model, ids, 3))
    again = model.generate(ids, no_repeat_ngram_size=2, repetition_penalty=1.3, **GREEDY)
    plain = model.generate(
        ids, no_repeat_ngram_size=2, repetition_penalty=1.3, use_cache=False, **GREEDY
    )
    assert torch.equal(again, plain)


@pytest.mark.parametrize("kind", ["own", "theirs", "static"])
def test_continued_from_a_cache(model, kind):
    ids = tokens(2, 9)
    cache = {
        "own": lambda: headway.HeadwayCache(model.config),
        "theirs": DynamicCache,
        "static": lambda: headway.HeadwayCache(model.config, max_cache_len=40),
    }[kind]()
    first = model.generate(ids, past_key_values=cache, **GREEDY)
    assert cache.get_seq_length() == 16
    prompt = torch.cat([first, tokens(2, 4, seed=2)], dim=1)
    second = model.generate(prompt, past_key_values=cache, **GREEDY)
    assert torch.equal(second, by_hand(model, prompt))


def test_prefill_in_chunks(model):
    ids = tokens(2, 11)
    assert torch.equal(model.generate(ids, prefill_chunk_size=4, **GREEDY), by_hand(model, ids))


def test_embeddings_instead_of_ids(model):
    if getattr(model, "_list", None) == "everything" or any(
        m.needs_frequency for m in headway.attached(model)
    ):
        with pytest.raises(headway.HeadwayError, match="reads token frequencies"):
            model.generate(inputs_embeds=model.get_input_embeddings()(tokens(2, 9)), **GREEDY)
        return
    ids = tokens(2, 9)
    new = model.generate(inputs_embeds=model.get_input_embeddings()(ids), **GREEDY)
    assert torch.equal(new, by_hand(model, ids)[:, 9:])


def test_a_static_cache_in_a_compiled_step(model):
    """What `generate` does on a GPU, by a compiler that runs anywhere."""
    torch._dynamo.reset()
    ids = tokens(2, 9)
    model.forward = torch.compile(model.forward, backend="eager", fullgraph=True)
    found = model.generate(ids, cache_implementation="static", disable_compile=True, **GREEDY)
    del model.forward
    assert torch.equal(found, by_hand(model, ids))


def test_a_second_call_uses_the_static_cache_again(model):
    for seed in (0, 1):
        ids = tokens(2, 9, seed=seed)
        found = model.generate(ids, cache_implementation="static", disable_compile=True, **GREEDY)
        assert torch.equal(found, by_hand(model, ids))


def test_pipelines(model):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_bpe(["one two three four five"] * 9, 256 + 9), eos_token="<|x|>"
    )
    model.resize_token_embeddings(len(tokenizer))
    write = pipeline("text-generation", model=model, tokenizer=tokenizer)
    ids = tokenizer("three two", return_tensors="pt").input_ids
    said = write("three two", return_full_text=False, **GREEDY)[0]["generated_text"]
    assert said == tokenizer.decode(by_hand(model, ids)[0, ids.shape[1] :])
