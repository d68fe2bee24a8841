"""Training: gradient checkpointing, losses, labels and token frequencies."""

import copy

import pytest
import torch
from small_models import COMPOSED, REPLACED, small, tokens
from transformers import Trainer, TrainingArguments

from headway import (
    AttentionResidual,
    HeadwayError,
    KVShift,
    LayerShortcut,
    OutputGate,
    ResidualStream,
    ScalableSoftmax,
    ScalarMix,
    SelectiveAttention,
    ShortConv,
    SinkLogit,
    SmearedKey,
)
from headway.mechanisms.frequency import check_counts

RECIPES = {
    "plain": [],
    "composed": COMPOSED,
    "replaced": REPLACED,
    "attention residual": [KVShift(), AttentionResidual(total="count")],
    "streams and mix": [
        ResidualStream(source="first", scale="head"),
        ResidualStream(stream="key"),
        ScalarMix(),
    ],
    "query stream": [
        ResidualStream(stream="query", scale="layer"),
        SelectiveAttention(token="mlp", key=True, per_head=True),
    ],
    "convolution and gate": [ShortConv(), OutputGate()],
    "smeared key": [SmearedKey(), ScalableSoftmax(bias=True), SinkLogit()],
    "token shortcut": [
        LayerShortcut(taps=(0, 1), reach="token", mode="add", width=16),
        ScalarMix(),
    ],
}
PACKED = torch.cat([torch.arange(9), torch.arange(8)]).expand(2, 17)
CHECKPOINTING = {"default": {}, "not reentrant": {"use_reentrant": False}}


def loss_and_gradients(model):
    ids = tokens(2, 17)
    loss = model(ids, labels=ids, position_ids=PACKED).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("options", CHECKPOINTING)
@pytest.mark.parametrize("recipe", RECIPES)
def test_gradient_checkpointing(recipe, options):
    model = small(RECIPES[recipe]).train()
    frugal = copy.deepcopy(model)
    given = CHECKPOINTING[options]
    frugal.gradient_checkpointing_enable(
        **({"gradient_checkpointing_kwargs": given} if given else {})
    )
    runs = []
    frugal.model.layers[1].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    loss, gradients = loss_and_gradients(model)
    again, frugal_gradients = loss_and_gradients(frugal)
    assert len(runs) == 2, "the layer was not computed a second time"
    torch.testing.assert_close(again, loss, rtol=1e-12, atol=1e-12)
    for name, gradient in gradients.items():
        assert gradient is not None, name
        # the first sublayer reads the embedding alone, whatever its query says
        assert (gradient.abs().max() > 0) != (name == "model.layers.0.attention_read.query"), name
        torch.testing.assert_close(frugal_gradients[name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_reentrant_checkpoints_are_refused():
    model = small([])
    with pytest.raises(HeadwayError, match=r"use_reentrant=True.*'use_reentrant': False"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.gradient_checkpointing_enable()
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def test_training_keeps_no_cache():
    model = small(COMPOSED)
    ids = tokens(2, 9)
    assert model.train()(ids).past_key_values is None
    assert model.eval()(ids).past_key_values.get_seq_length() == 9
    assert model(ids, use_cache=False).past_key_values is None


def test_loss_is_the_mean_over_the_labels_that_count():
    model = small(COMPOSED)
    ids = tokens(2, 9)
    labels = ids.clone()
    labels[:, :5] = -100
    out = model(ids, labels=labels)
    expected = torch.nn.functional.cross_entropy(
        out.logits[:, 4:-1].flatten(0, 1), ids[:, 5:].flatten()
    )
    torch.testing.assert_close(out.loss.double(), expected, rtol=1e-5, atol=0)
    halved = model(ids, labels=labels, num_items_in_batch=16).loss
    torch.testing.assert_close(halved.double(), expected * 8 / 16, rtol=1e-5, atol=0)


def test_last_logits_only():
    model = small(COMPOSED)
    ids = tokens(2, 9)
    whole = model(ids).logits
    for kept, columns in ((2, [-2, -1]), (torch.tensor([1, 5]), [1, 5])):
        # In float64: a product of fewer rows may add up in another order.
        logits = model(ids, logits_to_keep=kept).logits
        torch.testing.assert_close(logits, whole[:, columns], rtol=0, atol=1e-12)
    assert isinstance(model(ids, return_dict=False), tuple)


def test_hidden_states_are_the_embedding_and_every_layer():
    model = small(COMPOSED)
    ids = tokens(2, 9)
    out = model(ids, output_hidden_states=True)
    assert len(out.hidden_states) == 4
    assert torch.equal(out.hidden_states[0], model.model.embed_tokens(ids))
    logits = model.lm_head(model.model.norm(out.hidden_states[-1]))
    assert torch.equal(logits, out.logits)


def test_token_counts():
    model = small([SelectiveAttention(token="frequency")])
    counts = torch.arange(61) ** 2
    before = model(tokens(2, 9)).logits
    model.model.set_token_counts(counts)
    stored, share = model.model.token_log_frequency, counts / counts.sum()
    assert (stored.diff() > 0).all()
    torch.testing.assert_close((share * stored).sum().item(), 0.0, atol=1e-6, rtol=0)
    torch.testing.assert_close((share * stored**2).sum().item(), 1.0, atol=1e-6, rtol=0)
    assert (model(tokens(2, 9)).logits - before).abs().max() > 1e-3
    with pytest.raises(HeadwayError, match=r"inputs_embeds.*input_ids"):
        model(inputs_embeds=model.model.embed_tokens(tokens(2, 9)))


def test_training_without_token_counts_is_refused():
    model, ids = small([SelectiveAttention(token="frequency")]).train(), tokens(2, 9)
    for _ in range(2):
        with pytest.raises(HeadwayError, match=r"token_log_frequency: .*set_token_counts") as told:
            model(ids, labels=ids)
        assert "\n" not in str(told.value)
    with torch.no_grad():
        model(ids, labels=ids)
    model.eval()(ids, labels=ids)
    trained = small([SelectiveAttention(token="frequency")]).train()
    trained.model.set_token_counts(torch.arange(61))
    trained(ids, labels=ids).loss.backward()
    found = [p.grad for n, p in trained.named_parameters() if n.endswith("query.weight")]
    assert all(grad.abs() > 0 for grad in found)
    assert found
    model.load_state_dict(trained.state_dict())
    model.train()(ids, labels=ids).loss.backward()


def test_the_token_counts_are_looked_at_once(monkeypatch):
    looked = []
    seen = torch.Tensor.any
    monkeypatch.setattr(torch.Tensor, "any", lambda self: looked.append(self) or seen(self))
    table = torch.arange(5.0)
    for _ in range(3):
        check_counts(table)
    assert len(looked) == 1
    check_counts(table.clone())
    assert len(looked) == 2
    check_counts(torch.zeros(5, device="meta"))
    assert len(looked) == 2


def test_token_counts_without_a_reader_are_not_stored():
    model = small(COMPOSED)
    model.model.set_token_counts(torch.arange(61))
    assert model.model.token_log_frequency is None
    assert not [name for name in model.state_dict() if "frequency" in name]


COUNTS = {
    "one token only": torch.eye(61)[5],
    "uniform": torch.full((61,), 3),
    "an empty text": torch.zeros(61),
    "another vocabulary": torch.arange(60),
    "one number": torch.tensor(7.0),
    "negative": torch.arange(61) - 5,
}


@pytest.mark.parametrize("name", COUNTS)
def test_token_counts_without_meaning(name):
    model = small([SelectiveAttention(token="frequency")])
    before = model.model.token_log_frequency.clone()
    with pytest.raises(HeadwayError, match="counts: "):
        model.model.set_token_counts(COUNTS[name])
    assert torch.equal(model.model.token_log_frequency, before)


def test_a_small_model_learns():
    model = small(COMPOSED).float().train()
    ids = tokens(8, 12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}, {"bf16": True}])
def test_trainer(options, tmp_path):
    pytest.importorskip("accelerate")
    data = [{"input_ids": row, "labels": row} for row in tokens(8, 12)]
    model = small(COMPOSED).float().train()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, report_to=[], use_cpu=True, save_strategy="no", **options
    )
    trainer = Trainer(model, arguments, train_dataset=data)
    trainer.train()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert any("kv_shift" in n for n in moved)
    assert any("q_proj" in n for n in moved)
    trainer.save_model(str(tmp_path / "saved"))
    again = type(model).from_pretrained(tmp_path / "saved").state_dict()
    assert all(torch.equal(again[n], t) for n, t in model.state_dict().items())
