"""The benches of our decoder run at small size and measure what they name."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import headway_cli
from headway.bench import decode, peers, train
from headway.bench.decoders import (
    SMALL_DECODER,
    THREE,
    UPDATES,
    arms,
    causal_lm_loss,
    decoder,
    tokens,
    training_step,
)
from headway.bench.flops import flops_a_token, relative_flops
from headway.bench.llama import llama

TINY = replace(
    SMALL_DECODER,
    hidden_size=32,
    intermediate_size=64,
    num_attention_heads=4,
    num_key_value_heads=4,
    vocab_size=64,
    length=16,
    rounds=2,
    new_tokens=4,
)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    for module in ("train", "memory", "decode", "peers"):
        monkeypatch.setattr(f"headway.bench.{module}.SMALL_DECODER", TINY)


def told(capsys, *words):
    assert headway_cli.main(["bench", *words, "--small", "--json"]) == 0
    return {line["name"]: line for line in json.loads(capsys.readouterr().out)["lines"]}


def test_train(capsys):
    lines = told(capsys, "train")
    for name, target in train.TARGETS.items():
        line = lines[f"step over plain: {name}"]
        assert line["at_most"] == target
        assert line["ratio"]["rounds"] == TINY.rounds
    assert lines["tokens a second over transformers' Llama: plain"]["at_least"] == 1.5
    assert lines["peak memory over transformers' Llama: plain"]["at_most"] == 0.8
    assert lines["peak memory over all logits kept: plain"]["value"] == pytest.approx(1, abs=0.02)
    assert lines["loss beside Llama's, same weights"]["value"] == pytest.approx(1, abs=1e-5)
    assert lines["operations over plain: shortcut of 4 taps, context"]["value"] > 1


def test_one_part(capsys):
    assert list(told(capsys, "train", "--only", "wide")) == ["tokens a second: wide plain"]


def test_a_part_of_another_bench_is_refused(capsys):
    assert headway_cli.main(["bench", "train", "--only", "attach"]) == 2
    assert "accepted are mechanisms, llama, wide" in capsys.readouterr().err


def test_memory_and_decode(capsys):
    (share,) = [x for n, x in told(capsys, "memory").items() if "over plain" in n]
    assert share["value"] > 1
    lines = told(capsys, "decode")
    for batch in decode.BATCHES:
        # A key and a value of the last token beside those of the whole context, in each layer.
        share = lines[f"cache bytes over plain, batch of {batch}"]["value"]
        assert share == pytest.approx(1 + 1 / TINY.length)


def test_a_peer_that_is_absent_says_so(capsys, monkeypatch):
    def missing(shape, device):
        raise ImportError("No module named 'someone'")

    monkeypatch.setitem(peers.PEERS, "someone's", (missing, causal_lm_loss))
    lines = told(capsys, "peers")
    assert "absent: someone's (No module named 'someone')" in lines
    assert not [name for name in lines if "over someone's" in name]
    ours = lines["tokens a second over transformers' Llama: ours, all mechanisms"]
    assert ours["at_least"] == 1.0


def test_the_same_weights_are_the_same_model():
    theirs, ids = llama(TINY, "cpu"), tokens(TINY, "cpu")
    ours = train._with_weights_of(theirs, TINY, "cpu")
    assert train._same_loss(ours, theirs, ids) == pytest.approx(1, abs=1e-6)
    with torch.no_grad():
        ours.model.embed_tokens.weight.mul_(3)
    with pytest.raises(ArithmeticError, match="same weights are"):
        train._same_loss(ours, theirs, ids)


def test_all_logits_give_the_same_loss_and_gradients():
    model, ids = decoder(TINY, "cpu", THREE), tokens(TINY, "cpu")
    found = []
    for loss_of in (train.all_logits_loss, causal_lm_loss):
        model.zero_grad()
        loss = loss_of(model, ids)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("tied", [True, False])
def test_operations_of_a_step(tied):
    """Beside torch's own count, which knows matrix products and attention, of a batch's step."""
    model, ids = decoder(TINY, "cpu"), tokens(TINY, "cpu")
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    norms = sum(p.numel() for n, p in model.named_parameters() if "norm" in n)
    model.config._attn_implementation = "eager"
    with FlopCounterMode(display=False) as counter:
        train.all_logits_loss(model, torch.cat([ids, ids[:, :1]], 1)).backward()
    # The last token goes in but has no loss, and norms have no matrix product.
    length = TINY.length + 1
    a_token = flops_a_token(model, length) - 6 * norms
    head = 6 * model.lm_head.weight.numel()
    assert counter.get_total_flops() == TINY.batch * (length * a_token - head)
    halved = flops_a_token(model, length) - flops_a_token(model, length, causal=True)
    assert halved == 6 * TINY.num_hidden_layers * TINY.hidden_size * length


def test_the_shortcut_is_the_only_arm_with_many_operations():
    listed = arms(TINY.num_hidden_layers)
    assert relative_flops(TINY, listed["the three"]) == pytest.approx(1, abs=0.01)
    assert relative_flops(TINY, listed["shortcut of 4 taps, context"]) > 1.1
    assert arms(10)["shortcut of 4 taps, context"][0].taps == (2, 4, 6, 8), "the paper's"


def test_decoding_writes_the_same_again():
    writer = decode.Writer(decoder(TINY, "cpu", THREE), TINY, 2, 4)
    first, written = writer.token.clone(), []
    for _ in range(2):
        writer.token.copy_(first)
        for number in range(len(writer.cache.layers)):
            for row in writer.cache.state(number).rows.values():
                row.zero_()
        writer.write()
        written.append(writer.token.clone())
        assert int(writer.cache.layers[0].cumulative_length) == TINY.length
    assert torch.equal(*written)


def test_a_round_updates_as_often_as_it_says():
    model, ids = decoder(TINY, "cpu"), tokens(TINY, "cpu")
    calls = []

    def noted(model, ids):
        calls.append(1)
        return causal_lm_loss(model, ids)

    before = model.lm_head.weight.detach().clone()
    training_step(model, ids, noted)()
    assert len(calls) == UPDATES
    assert not torch.equal(model.lm_head.weight, before)
    assert model.lm_head.weight.grad is None


def test_speed_beside_the_peak(monkeypatch):
    monkeypatch.setattr(train, "device_peak", lambda: 1e9)
    model, ids = decoder(TINY, "cpu"), tokens(TINY, "cpu")
    lines = {x.name: x for x in train._speed("plain", model, TINY, 2.0, at_least=0.5)}
    full = lines["share of peak operations, attention in full: plain"]
    seen = UPDATES * ids.numel()
    assert lines["tokens a second: plain"].value == seen / 2.0
    assert full.value == pytest.approx(flops_a_token(model, TINY.length) * seen / 2e9)
    assert full.at_least == 0.5
    half = lines["share of peak operations, causal half: plain"]
    assert half.value < full.value
    assert half.at_least is None
