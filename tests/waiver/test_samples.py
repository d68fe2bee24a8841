"""Windows of a text: whole, different, as many as asked for, with the right tokens around them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headway import HeadwayError
from headway.waiver.samples import (
    BETWEEN,
    CHARACTERS_A_TOKEN,
    LEAST_CHARACTERS,
    check_length,
    enough_characters,
    sample_text,
    special_tokens,
)
from sink_models import CONTEXT, SENTENCES, model, tokenizer

TEXT = [*SENTENCES] * 6


def ids_of(documents):
    return tokenizer()(BETWEEN.join(documents), add_special_tokens=False).input_ids


@given(st.integers(2, 40), st.integers(0, 3), st.data())
@settings(max_examples=40)
def test_windows_are_different_pieces_of_the_text(tokens, seed, data):
    whole = ids_of(TEXT)
    samples = data.draw(st.integers(1, len(whole) // tokens))
    found = sample_text(tokenizer(), TEXT, tokens, samples, bos="no", seed=seed)
    assert found.input_ids.shape == (samples, tokens)
    assert found.windows == len(whole) // tokens
    pieces = [whole[i : i + tokens] for i in range(0, len(whole) - tokens + 1, tokens)]
    left = [list(piece) for piece in pieces]
    for row in found.input_ids.tolist():
        left.remove(row)  # a piece, and none twice
    again = sample_text(tokenizer(), TEXT, tokens, samples, bos="no", seed=seed)
    assert torch.equal(again.input_ids, found.input_ids)


def test_the_seed_draws():
    drawn = [sample_text(tokenizer(), TEXT, 8, 5, seed=seed).input_ids for seed in (0, 1)]
    assert not torch.equal(*drawn)


@pytest.mark.parametrize(
    ("bos", "around", "front", "back"),
    [
        ("auto", False, [], []),
        ("auto", True, ["[CLS]"], ["[SEP]"]),
        ("yes", False, ["<|endoftext|>"], []),
        ("yes", True, ["[CLS]"], ["[SEP]"]),
        ("no", True, [], []),
    ],
)
def test_special_tokens_stand_where_the_tokenizer_puts_them(bos, around, front, back):
    reader = tokenizer(around=around)
    found = sample_text(reader, TEXT, 12, 3, bos=bos)
    assert (found.before, found.after) == (tuple(front), tuple(back))
    assert found.bos_added == bool(front)
    assert found.input_ids.shape == (3, 12)
    for row in found.input_ids.tolist():
        names = reader.convert_ids_to_tokens(row)
        assert names[: len(front)] == front
        assert names[12 - len(back) :] == back
        middle = row[len(front) : 12 - len(back)]
        assert not set(middle) & set(reader.all_special_ids)


def test_yes_takes_cls_where_there_is_no_bos():
    reader = tokenizer(bos=None)
    reader.cls_token = None
    with pytest.raises(HeadwayError, match="neither bos_token nor cls_token"):
        special_tokens(reader, "yes")
    assert special_tokens(reader, "auto") == ([], [])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tokens": 1}, "tokens: value is 1; accepted are 2 and more"),
        ({"samples": 0}, "samples: value is 0; accepted are 1 and more"),
        ({"bos": "maybe"}, "bos: value is 'maybe'; accepted are auto, yes, no"),
        ({"documents": ["too short"]}, "samples: value is 3; the text holds . tokens"),
        ({"tokens": 2, "around": True}, "tokens: value is 2; accepted are 3 and more"),
    ],
)
def test_what_cannot_be_sampled_is_told(changes, told):
    asked = {"documents": TEXT, "tokens": 8, "samples": 3, "around": False} | changes
    reader = tokenizer(around=asked.pop("around"))
    with pytest.raises(HeadwayError, match=told):
        sample_text(reader, **asked)


def test_more_is_read_for_more_tokens():
    assert enough_characters(64, 100) == LEAST_CHARACTERS
    assert enough_characters(4096, 100) == CHARACTERS_A_TOKEN * 4096 * 100
    long = ["ab " * LEAST_CHARACTERS]
    read = sample_text(tokenizer(), long, 64, 1, bos="no").windows * 64
    most = len(tokenizer()("ab " * (LEAST_CHARACTERS // 3)).input_ids)
    assert most - 64 <= read <= most + 3


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gpt2", {}),
        ("opt", {"word_embed_proj_dim": 32, "ffn_dim": 48}),
        ("bert", {}),
        ("roberta", {"max_position_embeddings": CONTEXT + 2}),
        ("headway", {"position": "learned"}),
    ],
)
def test_a_learned_table_ends_where_it_is_said_to_end(kind, changes):
    sizes = {"n_positions": CONTEXT} if kind == "gpt2" else {}
    made = model(kind, **changes, **sizes)
    check_length(made, CONTEXT)
    made(input_ids=torch.full((1, CONTEXT), 5))
    with pytest.raises(
        HeadwayError, match=f"tokens: value is {CONTEXT + 1}; accepted .* {CONTEXT}"
    ):
        check_length(made, CONTEXT + 1)
    with pytest.raises((IndexError, RuntimeError, HeadwayError)):
        made(input_ids=torch.full((1, CONTEXT + 1), 5))


@pytest.mark.parametrize("kind", ["llama", "headway"])
def test_other_positions_have_no_end(kind):
    check_length(model(kind), 100 * CONTEXT)
