"""A host whose mechanisms read token frequencies learns only with counts of the text."""

import pytest
import torch
from tiny import VOCABULARY, tiny, tokens

import headway
from headway import HeadwayError, SelectiveAttention


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_training_without_counts_is_refused(model_type, tmp_path):
    part = SelectiveAttention(init="identity", token="frequency")
    model, ids = headway.attach(tiny(model_type), [part]), tokens(2, 9)
    model.eval()(ids, labels=ids)
    with pytest.raises(HeadwayError, match=r"token_log_frequency: .*set_token_counts"):
        model.train()(ids, labels=ids)
    model.base_model.set_token_counts(torch.arange(VOCABULARY))
    model(ids, labels=ids).loss.backward()
    found = [p.grad for n, p in model.named_parameters() if n.endswith("query.weight")]
    assert found
    assert all(grad.abs() > 0 for grad in found)
    model.save_pretrained(tmp_path)
    headway.from_pretrained(tmp_path).train()(ids, labels=ids).loss.backward()
