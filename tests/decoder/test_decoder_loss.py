"""The loss of a training step is the one of all logits, which then need not be there."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from small_models import COMPOSED, small, tokens
from torch import nn
from transformers import Trainer, TrainingArguments

from headway.ops import choice, loss

PATHS = ["reference"]
if hasattr(F, "linear_cross_entropy"):
    PATHS.append("torch")


@pytest.fixture(params=PATHS)
def _path(request, monkeypatch):
    monkeypatch.setenv(choice.CHOICE, "reference")
    if request.param != "reference":
        monkeypatch.setattr("headway.ops.loss.loss_path", lambda device, dtype: request.param)
        monkeypatch.setattr(loss, "CHUNK_BYTES", 5 * 61 * 8)


def masked(ids, drawn=0):
    labels = ids.clone()
    labels[torch.rand(ids.shape, generator=torch.Generator().manual_seed(drawn)) < 0.4] = -100
    return labels


@pytest.mark.usefixtures("_path")
@pytest.mark.parametrize("items", [None, 7, torch.tensor(7)])
def test_training_loss_is_that_of_the_logits(items):
    model, ids = small(COMPOSED).train(), tokens(3, 11)
    labels = masked(ids)
    other = copy.deepcopy(model)
    told = {} if items is None else {"num_items_in_batch": items}
    out = model(ids, labels=labels, **told)
    logits = other(ids, labels=labels, skip_logits=False, **told).logits[:, :-1].flatten(0, 1)
    flat = labels[:, 1:].flatten()
    expected = F.cross_entropy(logits, flat, reduction="sum") / (items or (flat != -100).sum())
    torch.testing.assert_close(out.loss, expected)
    out.loss.backward()
    expected.backward()
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=name)


@given(drawn=st.integers(0, 999), rows=st.integers(1, 3), length=st.integers(2, 9))
def test_training_and_evaluation_agree(drawn, rows, length):
    model, ids = small([]), tokens(rows, length, seed=drawn)
    labels = masked(ids, drawn)
    labels[0, 1] = ids[0, 1]
    evaluated = model(ids, labels=labels).loss.double()
    torch.testing.assert_close(model.train()(ids, labels=labels).loss, evaluated, rtol=1e-6, atol=0)


def test_logits_are_there_where_someone_reads_them():
    model, ids = small([]), tokens(2, 9)
    assert model(ids, labels=ids).logits.shape == (2, 9, 61)
    assert model.train()(ids).logits.shape == (2, 9, 61)
    assert model(ids, labels=ids).logits is None
    assert model(ids, labels=ids, skip_logits=False).logits.shape == (2, 9, 61)
    assert model.eval()(ids, labels=ids, skip_logits=True).logits is None
    loss_alone = model.train()(ids, labels=ids, return_dict=False)
    assert loss_alone[0].dim() == 0


def test_labels_that_are_shifted_already():
    model, ids = small([]).train(), tokens(2, 9)
    shifted = F.pad(ids[:, 1:], (0, 1), value=-100)
    whole = model(ids, labels=ids).loss
    assert torch.equal(model(ids, shift_labels=shifted).loss, whole)
    assert torch.equal(model(ids, labels=ids, shift_labels=shifted).loss, whole)
    evaluated = model.eval()(ids, shift_labels=shifted).loss.double()
    torch.testing.assert_close(evaluated, whole, rtol=1e-6, atol=0)


class Doubled(nn.Linear):
    """A head that does more than multiply, as an adapter's."""

    def forward(self, x):
        return 2 * super().forward(x)


def changed_class(model):
    model.lm_head.__class__ = Doubled


def changed_by_hook(model):
    model.lm_head.register_forward_hook(lambda module, args, out: 2 * out)


def changed_forward(model):
    before = model.lm_head.forward
    model.lm_head.forward = lambda x: 2 * before(x)


@pytest.mark.parametrize("change", [changed_class, changed_by_hook, changed_forward])
def test_a_head_that_was_changed_is_called(change):
    model, ids = small([]), tokens(2, 9)
    change(model)
    expected = model(ids, labels=ids).loss.double()
    out = model.train()(ids, labels=ids)
    assert out.logits is None
    torch.testing.assert_close(out.loss.double(), expected, rtol=1e-6, atol=0)


def test_another_loss_function_is_called():
    model, ids = small([]).train(), tokens(2, 9)
    model.loss_function = lambda logits, labels, vocab_size: logits.square().mean()
    expected = model(ids).logits.square().mean()
    assert torch.equal(model(ids, labels=ids).loss, expected)


def test_trainer_accumulates_as_over_one_batch(tmp_path):
    """Two batches of one, with labels of unequal number, step as one batch of two."""
    pytest.importorskip("accelerate")
    ids = tokens(2, 12)
    labels = ids.clone()
    labels[0, :9] = -100
    data = [{"input_ids": i, "labels": y} for i, y in zip(ids, labels, strict=True)]
    ended = []
    for batch, pieces in ((2, 1), (1, 2)):
        model = small([]).float()
        arguments = TrainingArguments(
            str(tmp_path), max_steps=1, per_device_train_batch_size=batch, report_to=[],
            gradient_accumulation_steps=pieces, use_cpu=True, save_strategy="no",
            optim="sgd", learning_rate=1.0, max_grad_norm=0.0,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=data).train()
        ended.append(model.state_dict())
    started = small([]).float().state_dict()
    for name, one in ended[0].items():
        torch.testing.assert_close(ended[1][name], one, rtol=1e-4, atol=1e-6, msg=name)
    assert not torch.equal(ended[0]["model.norm.weight"], started["model.norm.weight"])


def test_trainer_evaluates_with_logits(tmp_path):
    pytest.importorskip("accelerate")
    data = [{"input_ids": row, "labels": row} for row in tokens(4, 12)]
    arguments = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    told = Trainer(small([]).float(), arguments, eval_dataset=data).predict(data)
    assert told.predictions.shape == (4, 12, 61)
    assert told.metrics["test_loss"] > 0
