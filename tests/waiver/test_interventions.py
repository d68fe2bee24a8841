"""Identities I1 to I4 through the battery's own edits, and how positions can be edited."""

import inspect

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    BloomConfig,
    BloomModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    OPTConfig,
    OPTModel,
    RobertaConfig,
    RobertaModel,
)

from headway import HeadwayConfig, HeadwayForCausalLM, KVShift, SinkLogit
from headway.decoder.observer import Observer
from headway.waiver.anatomy import hidden_of, sites_of
from headway.waiver.effects import change_of_output
from headway.waiver.encodings import Encodings, constant, encodings_of, swapped
from headway.waiver.interventions import (
    contexts,
    equal_positions,
    isolations,
    repeats,
    scene_of,
    self_only,
    swaps,
    tokens,
    transplants,
)
from headway.waiver.passes import NATURAL, Edit, Passes
from headway.waiver.watch import run, watching

T = 24
IN_LOGITS = ("rope", "alibi", "none")
EVERY = (*IN_LOGITS, "learned")
EXACT = 1e-10


def build(position, mechanisms=()):
    torch.manual_seed(0)
    config = HeadwayConfig(
        vocab_size=31,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        position=position,
        mechanisms=list(mechanisms),
    )
    return HeadwayForCausalLM(config).double().eval()


def text(samples=1, length=T):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 31, (samples, length), generator=generator)


def states(model, ids, edit=NATURAL):
    """`(L, T, C)`: hidden states of one row behind every layer."""
    found = []
    hooks = [
        site.layer.register_forward_hook(lambda _m, _i, out: found.append(hidden_of(out)[0]))
        for site in sites_of(model, ids)
    ]
    encodings = encodings_of(model, ids)
    observer = Observer(None, edit.rule, encodings.for_observer(edit.positions), edit.values)
    with watching(model, observer):
        run(model, ids if edit.ids is None else edit.ids)
    for hook in hooks:
        hook.remove()
    return torch.stack(found)


def scene(model, ids, origin=0):
    return scene_of(ids, origin, True, encodings_of(model, ids), targets=(5, 10, 18))


def spread(hidden):
    return float((hidden - hidden[:, :1]).abs().max())


@pytest.mark.parametrize("position", EVERY)
def test_i1_a_repeated_token_has_one_state(position):
    model, ids = build(position), text()
    edits = repeats(scene(model, ids))
    natural = spread(states(model, ids, edits[0]))
    assert (natural < EXACT) is (position in IN_LOGITS)
    if position != "none":
        assert edits[-1].name.endswith("all positions equal")
        assert spread(states(model, ids, edits[-1])) < EXACT


@pytest.mark.parametrize("mechanism", [SinkLogit(), KVShift()], ids=["learned sink", "shift"])
def test_i2_the_guard_sees_what_breaks_the_repeat(mechanism):
    model, ids = build("rope", [mechanism]), text()
    assert spread(states(model, ids, repeats(scene(model, ids))[-1])) > 1e-2


@pytest.mark.parametrize("position", EVERY)
def test_i3_an_isolated_token_is_a_first_one(position):
    model, ids = build(position), text()
    edit = isolations(scene(model, ids))[0]
    (t,) = edit.touched
    isolated = states(model, ids, edit)[:, t]
    alone = states(model, ids[:, t : t + 1].expand(-1, 2))[:, 0]
    gap = float((isolated - alone).abs().max())
    assert (gap < EXACT) is (position in IN_LOGITS)
    if position == "learned":
        # With the first one's encoding as well it is one there too.
        at_first = Edit("T4", "", rule=edit.rule, positions=swapped(0, t))
        assert float((states(model, ids, at_first)[:, t] - alone).abs().max()) < EXACT


@pytest.mark.parametrize("position", EVERY)
def test_i4_a_shift_of_all_positions(position):
    model, ids = build(position), text()
    shifted = states(model, ids, Edit("T2", "", positions=lambda p: p + 7))
    gap = float((shifted - states(model, ids)).abs().max())
    assert (gap < EXACT) is (position in IN_LOGITS)


@pytest.mark.parametrize("position", ["rope", "alibi"])
def test_i4_a_first_token_does_not_notice_its_own_encoding(position):
    model, ids = build(position), text()
    for edit in (*swaps(scene(model, ids)), *equal_positions(scene(model, ids))):
        gap = (states(model, ids, edit) - states(model, ids)).abs()
        assert float(gap[:, 0].max()) < EXACT
        assert float(gap[:, 1:].max()) > 1e-2


@pytest.mark.parametrize("position", EVERY)
def test_a_block_that_nobody_sees_changes_nothing(position):
    model, ids = build(position), text()
    hidden, seen = contexts(scene(model, ids))
    block = hidden.shift
    kept = states(model, ids)[:, : T - block]
    assert float((states(model, ids, hidden)[:, block:] - kept).abs().max()) < EXACT
    with_context = (states(model, ids, seen)[:, block:] - kept).abs()
    assert float(with_context[:, 0].min()) > 1e-6
    # In the first layer nobody but the first token sees it.
    assert float(with_context[0, 1:].max()) < EXACT


def test_the_hidden_sink_is_seen_by_itself_alone():
    model, ids = build("rope"), text()
    edit = isolations(scene(model, ids))[-1]
    query, key = torch.arange(T)[:, None], torch.arange(T)
    seen = edit.rule(query, key)
    t = edit.touched[0]
    assert seen[:, 0].nonzero().flatten().tolist() == [0]
    assert seen[t].nonzero().flatten().tolist() == [t]
    others = [i for i in range(T) if i not in (0, t)]
    assert bool(seen[others, 1:].all())


def test_tokens_are_replaced_exchanged_and_dropped():
    model, ids = build("rope"), text(6)
    made = {edit.name: edit for edit in tokens(scene(model, ids), newline=30)}
    for name, edit in made.items():
        kept = edit.kept(ids, edit.ids)
        if "dropped" in name:
            assert torch.equal(edit.ids, ids[:, 1:])
            assert kept[:, 1:].all()
            assert not kept[:, 0].any()
            continue
        changed = edit.ids != ids
        assert bool(
            (changed.any(0).nonzero().flatten()[:, None] == torch.tensor(edit.touched)).any(1).all()
        )
        assert not bool(kept[:, list(edit.touched)].any())
    exchanged = made["tokens 0 and 18 exchanged"].ids
    assert torch.equal(exchanged[:, [0, 18]], ids[:, [18, 0]])
    assert (made["token 0 replaced by a new line"].ids[:, 0] == 30).all()


def test_a_replaced_token_is_another_one():
    model = build("rope")
    ids = text(6)
    ids[:, 0] = 0
    ids[:, 1:].clamp_(min=1)
    for edit in tokens(scene(model, ids), newline=None):
        if "replaced by a random" in edit.name and "control" not in edit.name:
            assert bool((edit.ids[:, 0] != 0).all())


@pytest.mark.parametrize("position", ["rope", "learned"])
def test_a_transplant_changes_one_token_behind_one_layer(position):
    model, ids = build(position), text(2)
    natural, passes = states(model, ids), Passes(model, ids, 0.3, True)
    for edit in transplants(scene(model, ids), 1, 4):
        found = []
        hook = model.model.layers[2].register_forward_pre_hook(
            lambda _m, args, found=found: found.append(args[0].hidden[0])
        )
        before = passes.look(ids, edit).output.values
        hook.remove()
        gap = (found[0] - natural[1]).abs().amax(-1)
        assert gap.nonzero().flatten().tolist() == [18]
        if edit.readings[0].key == "transplant_moved":
            assert torch.equal(found[0][18], natural[1][0])
        if edit.readings[0].key == "transplant_control":
            torch.testing.assert_close(found[0][18].norm(), natural[1][0].norm())
        if edit.readings[0].key == "rescale_moved":
            torch.testing.assert_close(found[0][18].std(), natural[1][0].std())
            torch.testing.assert_close(found[0][18].mean(), natural[1][18].mean())
        after = passes.look(ids).output.values
        assert torch.equal(after[:, :18], before[:, :18])
        assert not torch.equal(after[:, 18:], before[:, 18:])
    assert transplants(scene(model, ids), 3, 4) == []


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 31}
MADE = {
    "Llama": (LlamaModel, LlamaConfig(**SIZES, intermediate_size=32), "relative", False, 0),
    "GPT-2": (
        GPT2Model,
        GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=31, bos_token_id=0, eos_token_id=0),
        "absolute",
        False,
        0,
    ),
    "OPT": (
        OPTModel,
        OPTConfig(**SIZES, ffn_dim=32, word_embed_proj_dim=32, max_position_embeddings=64),
        "absolute",
        False,
        0,
    ),
    "BERT": (BertModel, BertConfig(**SIZES, intermediate_size=32), "absolute", False, 0),
    "RoBERTa": (
        RobertaModel,
        RobertaConfig(**SIZES, intermediate_size=32, pad_token_id=1, max_position_embeddings=64),
        "absolute",
        False,
        2,
    ),
    "BLOOM": (
        BloomModel,
        BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=31),
        "relative",
        True,
        0,
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_encodings_are_found_by_trying(name):
    kind, config, expected, observed, base = MADE[name]
    torch.manual_seed(0)
    model = kind(config).eval()
    model.apply(louder)
    ids = text().clamp(min=2)
    found = encodings_of(model, ids)
    assert found == Encodings(expected, observed, base)
    # Editing by nothing changes nothing; equal positions do change something.
    passes = Passes(model, ids, 0.3, config.model_type not in ("bert", "roberta"))
    natural = passes.look(ids).output.values
    same = passes.look(ids, Edit("T2", "", positions=lambda p: p)).output.values
    torch.testing.assert_close(same, natural, rtol=0, atol=1e-5)
    other = passes.look(ids, Edit("T3", "", positions=constant(3))).output.values
    assert float((other - natural).abs().max()) > 1e-3
    if not observed:
        given = model(
            ids, position_ids=torch.full_like(ids, base + 3), attention_mask=ids.new_ones(ids.shape)
        )
        torch.testing.assert_close(given.last_hidden_state, other, rtol=0, atol=1e-5)


def louder(module):
    if isinstance(module, torch.nn.Linear | torch.nn.Embedding) or hasattr(module, "nf"):
        torch.nn.init.normal_(module.weight, std=0.3)


@pytest.mark.parametrize("position", EVERY)
def test_encodings_of_our_decoder(position):
    found = encodings_of(build(position), text())
    kinds = {"learned": "absolute", "none": "none"}
    assert found.kind == kinds.get(position, "relative")
    assert found.editable is (position != "none")


def test_a_model_without_position_ids_is_closed():
    class Plain(LlamaModel):
        def forward(self, input_ids=None, attention_mask=None, use_cache=None):
            return super().forward(input_ids, attention_mask, use_cache=use_cache)

    assert "position_ids" not in inspect.signature(Plain.forward).parameters
    found = encodings_of(Plain(MADE["Llama"][1]).eval(), text())
    assert found.kind == "closed"
    assert "takes no position_ids" in found.reason


def test_what_an_edit_damages():
    model, ids = build("rope"), text(3)
    passes = Passes(model, ids, 0.3, True)
    edit = Edit("T4", "", rule=self_only((7,)), touched=(7,))
    natural, edited = (passes.look(ids, e).output for e in (NATURAL, edit))
    found = change_of_output(natural, edited, ids, edit.kept(ids, ids))
    a, b = (x.values.log_softmax(-1) for x in (natural, edited))
    rest = [i for i in range(T) if i != 7]
    divergence = torch.nn.functional.kl_div(b, a, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(found.change, divergence[:, rest].mean(1), rtol=1e-5, atol=1e-7)
    for logs, loss in ((a, found.before), (b, found.after)):
        taken = -logs[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
        wanted = taken[:, [i - 1 for i in rest if i]].mean(1)
        torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-6)
    unchanged = change_of_output(natural, natural, ids, edit.kept(ids, ids))
    assert float(unchanged.change.abs().max()) == 0.0
