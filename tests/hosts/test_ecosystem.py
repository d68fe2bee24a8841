"""Trainer, peft and device maps take an attached model as they take any other."""

import pytest
import torch
from tiny import IDENTITY, LOUD, fitting, make_loud, tiny, tokens
from transformers import Trainer, TrainingArguments

import headway
from headway import HeadwayError, KVShift, OutputGate, SelectiveAttention

pytest.importorskip("accelerate")
Dataset = pytest.importorskip("datasets").Dataset
peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore:the logits change at once")
PAIR = [KVShift(init="identity"), SelectiveAttention(init="identity")]


def rows(count=16, length=12):
    ids = tokens(count, length).tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def trainer(model, folder, **options):
    arguments = {
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "seed": 1,
    } | options
    return Trainer(model, TrainingArguments(str(folder), **arguments), train_dataset=rows())


def state(model):
    return {n: t.clone() for n, t in model.state_dict().items()}


def moved(before, model):
    return {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}


OPTIONS = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 2},
    "checkpointing": {"gradient_checkpointing": True},
    "bf16": {"bf16": True},
    "checkpointing in bf16": {"gradient_checkpointing": True, "bf16": True},
}


@pytest.mark.parametrize("name", ["kv_shift", "everything", "replaced"])
@pytest.mark.parametrize("way", OPTIONS)
def test_trainer(way, name, tmp_path):
    model = make_loud(headway.attach(tiny("llama"), LOUD[name]))
    before = state(model)
    trainer(model, tmp_path, **OPTIONS[way]).train()
    new = {n for n, _ in headway.mechanism_parameters(model)}
    still = {n for n in new - moved(before, model) if ".0.headway.attention_read." not in n}
    assert not still
    assert len(moved(before, model)) > len(new)


def test_checkpointing_and_accumulation_train_alike(tmp_path):
    ends = []
    for options in (
        {"per_device_train_batch_size": 4},
        {"gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 4, "gradient_checkpointing": True},
    ):
        model = headway.attach(tiny("llama"), IDENTITY["everything"])
        model.model.set_token_counts(torch.arange(model.config.vocab_size))
        trainer(model, tmp_path, optim="sgd", **options).train()
        ends.append(state(model))
    for other in ends[1:]:
        for name, tensor in ends[0].items():
            torch.testing.assert_close(other[name], tensor, atol=1e-5, rtol=1e-4)


def test_trainer_resumes(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "gradient_checkpointing": True}
    whole = headway.attach(tiny("llama"), PAIR)
    trainer(whole, tmp_path / "whole", **options).train()
    again = headway.attach(tiny("llama"), PAIR)
    resumed = trainer(again, tmp_path / "again", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert resumed.state.global_step == 4
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    loaded = headway.from_pretrained(tmp_path / "whole" / "checkpoint-4")
    with torch.no_grad():
        ids = tokens(2, 9)
        assert torch.equal(loaded(ids).logits, whole.eval()(ids).logits)


def lora(model):
    return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))


@pytest.mark.parametrize("order", ["attach, then LoRA", "LoRA, then attach"])
def test_lora_beside_mechanisms(order, tmp_path):
    if order == "attach, then LoRA":
        model = lora(headway.attach(tiny("llama"), PAIR))
        for _, parameter in headway.mechanism_parameters(model):
            parameter.requires_grad_(True)
    else:
        model = headway.attach(lora(tiny("llama")), PAIR)
    assert isinstance(model, peft.PeftModel)
    assert headway.attached(model) == PAIR
    before = state(model)
    trainer(model, tmp_path).train()
    changed = moved(before, model)
    assert changed == {n for n in before if "lora_" in n or "headway" in n}

    model.eval()
    ids = tokens(2, 9)
    with torch.no_grad():
        expected = model(ids).logits
        model.save_pretrained(tmp_path / "lora")
        headway.save_mechanisms(model, tmp_path / "mechanisms")
        fresh = peft.PeftModel.from_pretrained(tiny("llama"), tmp_path / "lora")
        headway.load_mechanisms(fresh, tmp_path / "mechanisms")
        assert torch.equal(fresh.eval()(ids).logits, expected)

        written = model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
        plain = model.generate(input_ids=ids, max_new_tokens=4, do_sample=False, use_cache=False)
        assert torch.equal(written, plain)

        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(ids).logits, expected, atol=1e-5, rtol=1e-5)
        merged.save_pretrained(tmp_path / "merged")
        again = headway.from_pretrained(tmp_path / "merged")
        assert torch.equal(again(ids).logits, merged(ids).logits)


def test_mechanisms_as_modules_to_save(tmp_path):
    model = peft.get_peft_model(
        headway.attach(tiny("llama"), PAIR),
        peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["headway"]),
    )
    trainer(model, tmp_path).train()
    ids = tokens(2, 9)
    with torch.no_grad():
        expected = model.eval()(ids).logits
        model.save_pretrained(tmp_path / "adapter")
        base = headway.attach(tiny("llama"), PAIR)
        again = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        assert torch.equal(again(ids).logits, expected)
        headway.save_mechanisms(model, tmp_path / "alone")
        unloaded = model.merge_and_unload()
        torch.testing.assert_close(unloaded(ids).logits, expected, atol=1e-5, rtol=1e-5)
        assert headway.attached(unloaded) == PAIR


def test_an_adapter_of_transformers(tmp_path):
    model = headway.attach(tiny("llama"), PAIR)
    tiny("llama").save_pretrained(tmp_path / "beside")
    before = (tmp_path / "beside" / "config.json").read_bytes()
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    for folder in (tmp_path / "alone", tmp_path / "beside"):
        model.save_pretrained(folder)
        assert (folder / "adapter_config.json").is_file()
    assert not (tmp_path / "alone" / "config.json").exists()
    assert (tmp_path / "beside" / "config.json").read_bytes() == before


def test_lora_inside_mechanisms_is_not_saved(tmp_path):
    model = headway.attach(tiny("llama"), [OutputGate(init="identity")])
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))
    with pytest.raises(HeadwayError, match=r"merge_and_unload\(\).*exclude_modules") as caught:
        headway.save_mechanisms(tuned, tmp_path / "mechanisms")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "mechanisms").exists()
    headway.save_mechanisms(tuned.merge_and_unload(), tmp_path / "mechanisms")
    headway.load_mechanisms(tiny("llama"), tmp_path / "mechanisms")

    apart = {"target_modules": "all-linear", "exclude_modules": r".*headway.*"}
    other = headway.attach(tiny("llama"), [OutputGate(init="identity")])
    other = peft.get_peft_model(other, peft.LoraConfig(r=2, **apart))
    assert any("lora_" in name for name in other.state_dict())
    headway.save_mechanisms(other, tmp_path / "mechanisms")
    headway.load_mechanisms(tiny("llama"), tmp_path / "mechanisms")


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "bloom"])
def test_a_device_map(model_type, tmp_path):
    model = make_loud(headway.attach(tiny(model_type), fitting(model_type, LOUD["everything"])))
    model.save_pretrained(tmp_path)
    mapped = headway.from_pretrained(tmp_path, device_map="auto")
    ids = tokens(2, 9)
    with torch.no_grad():
        assert torch.equal(mapped(ids).logits, model(ids).logits)


def test_attaching_to_a_model_with_hooks():
    """accelerate's hooks hold on to a module's forward; the mechanisms must be heard anyway."""
    from accelerate import dispatch_model

    ids, expected = tokens(2, 9), make_loud(headway.attach(tiny("llama"), LOUD["everything"]))
    hooked = dispatch_model(tiny("llama"), {"": "cpu"}, main_device="cpu", force_hooks=True)
    make_loud(headway.attach(hooked, LOUD["everything"]))
    with torch.no_grad():
        assert torch.equal(hooked(ids).logits, expected(ids).logits)
        headway.detach(hooked)
        assert torch.equal(hooked(ids).logits, tiny("llama")(ids).logits)
