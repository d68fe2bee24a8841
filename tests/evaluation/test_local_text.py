"""Perplexity of a text is what the logits say, by the rules of lm-eval's wikitext."""

import math
import re

import pytest
import torch
from made import CONTEXT, ROLLING, SENTENCES, llama, tokenizer, write_lines, write_task

from headway import HeadwayError
from headway.evaluation.lm_eval_model import HeadwayLM
from headway.evaluation.local_text import read_text, score_text
from headway.evaluation.tasks import find_tasks, run_tasks

LONG = " ".join(SENTENCES * 3)


@pytest.fixture(scope="module")
def lm():
    return HeadwayLM(llama(), tokenizer=tokenizer(), batch_size=3)


@torch.no_grad()
def nats_by_hand(model, ids, first=0):
    """Minus the log-likelihood of ids[first:] after the token that begins a text."""
    inputs = torch.tensor([[0, *ids]])
    logits = model(inputs).logits[0, :-1].double().log_softmax(-1)
    return -sum(float(logits[i, ids[i]]) for i in range(first, len(ids)))


@pytest.mark.parametrize("text", SENTENCES)
def test_a_text_shorter_than_the_context(lm, text):
    ids = tokenizer()(text)["input_ids"]
    assert len(ids) < CONTEXT
    nats, score = nats_by_hand(lm.model, ids), score_text(lm, [text], "a sentence")
    assert (score.documents, score.words) == (1, len(text.split()))
    assert score.bytes == len(text.encode("utf-8"))
    assert score.nats == pytest.approx(nats, rel=1e-5)
    assert score.word_perplexity == pytest.approx(math.exp(nats / score.words), rel=1e-4)
    assert score.byte_perplexity == pytest.approx(math.exp(nats / score.bytes), rel=1e-4)
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / score.bytes, rel=1e-5)


def test_a_text_longer_than_the_context(lm):
    """Every token is predicted once; the last window sees as much before it as fits."""
    ids = tokenizer()(LONG)["input_ids"]
    assert 2 * CONTEXT < len(ids) < 12 * CONTEXT
    whole = len(ids) // CONTEXT
    nats = nats_by_hand(lm.model, ids[:CONTEXT])
    for start in range(CONTEXT, whole * CONTEXT, CONTEXT):
        nats += after_one_token(lm.model, ids[start - 1 : start + CONTEXT], CONTEXT)
    if rest := len(ids) - whole * CONTEXT:
        nats += after_one_token(lm.model, ids[-CONTEXT - 1 :], rest)
    assert score_text(lm, [LONG], "long").nats == pytest.approx(nats, rel=1e-5)


@torch.no_grad()
def after_one_token(model, ids, count):
    """Minus the log-likelihood of the last `count` ids, all but the last of which are read."""
    logits = model(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
    places = range(len(ids) - 1 - count, len(ids) - 1)
    return -sum(float(logits[i, ids[i + 1]]) for i in places)


def test_documents_are_summed_not_averaged(lm):
    apart = [score_text(lm, [text], "one") for text in (*SENTENCES, LONG)]
    together = score_text(lm, [*SENTENCES, LONG], "all")
    assert together.nats == pytest.approx(sum(one.nats for one in apart), rel=1e-5)
    assert together.words == sum(one.words for one in apart)
    assert together.bytes == sum(one.bytes for one in apart)
    assert together.documents == len(apart)


def test_the_numbers_are_those_of_a_task(lm, tmp_path, own_tasks_only):
    texts = [*SENTENCES, LONG, " leading and trailing space \n"]
    lines = write_lines(tmp_path / "texts.jsonl", [{"text": text} for text in texts])
    write_task(tmp_path / "tasks", "rolling", lines, **ROLLING)
    manager, names = find_tasks(["rolling"], tmp_path / "tasks")
    asked = run_tasks(lm, manager, names, limit=None, num_fewshot=None)
    score = score_text(lm, read_text(str(lines), None), "texts")
    told = {row.metric: row.value for row in asked}
    assert told == {name: pytest.approx(getattr(score, name), rel=1e-9) for name in told}
    assert len(told) == 3
    assert {row.examples for row in asked} == {len(texts)}
    assert {row.stderr for row in asked} == {None}
    assert score.words == sum(len(re.split(r"\s+", text)) for text in texts)


def test_a_text_without_spaces_has_no_finite_word_perplexity(lm):
    score = score_text(lm, ["x" * 2000], "xs")
    assert score.words == 1
    assert score.word_perplexity == math.inf
    assert math.isfinite(score.byte_perplexity)


def test_a_model_that_gives_no_numbers_is_refused():
    broken = llama()
    with torch.no_grad():
        broken.model.norm.weight.fill_(math.nan)
    lm = HeadwayLM(broken, tokenizer=tokenizer())
    with pytest.raises(HeadwayError, match="offline_text: the log-likelihood of 'x' is nan"):
        score_text(lm, SENTENCES, "x")


def test_a_limit_takes_the_first_documents(tmp_path):
    lines = write_lines(tmp_path / "texts.jsonl", [{"text": text} for text in SENTENCES])
    assert read_text(str(lines), 2) == SENTENCES[:2]
    assert read_text(str(lines), None) == SENTENCES
    with pytest.raises(HeadwayError, match=r"text: .*none.txt"):
        read_text(str(tmp_path / "none.txt"), None)
