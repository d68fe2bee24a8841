"""Sinks while training: readings of a known model, and a Trainer that is not disturbed by them."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from headway import HeadwayConfig, HeadwayError, HeadwayForCausalLM, SinkCallback, SinkLogit
from headway.waiver.monitor import SinkMonitor, SinkReading
from headway.waiver.profile import profile_sinks

VOCABULARY = 30


def decoder(**fields: Any) -> HeadwayForCausalLM:
    torch.manual_seed(0)
    config = HeadwayConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, **fields
    )
    return HeadwayForCausalLM(config)


def tokens(samples: int = 3, length: int = 12) -> Tensor:
    drawn = torch.Generator().manual_seed(1)
    return torch.randint(VOCABULARY, (samples, length), generator=drawn)


def silent(model: HeadwayForCausalLM) -> None:
    """Queries of zero: attention is uniform over what a token sees."""
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)


def test_uniform_attention_reads_as_its_closed_form() -> None:
    model, length = decoder(), 12
    silent(model)
    reading = SinkMonitor(tokens(length=length)).read(model)
    harmonic = sum(1 / t for t in range(1, length + 1))
    # Position 0 receives H_T / T = 0.2586 of each query's attention: below 0.3, above 0.25.
    assert math.isclose(harmonic / length, 0.2586, abs_tol=1e-4)
    assert reading.sink_rate == 0.0
    assert SinkMonitor(tokens(length=length), threshold=0.25).read(model).sink_rate == 1.0
    entropy = sum(math.log(t) for t in range(1, length + 1)) / length
    assert reading.entropy == pytest.approx(entropy, abs=1e-6)
    assert reading.mass == pytest.approx(1.0, abs=1e-6)
    assert reading.strongest == 0


def test_a_planted_first_value_reads_as_its_ratio() -> None:
    model, ids = decoder(position="none"), tokens()
    ids[:, 0], ids[:, 1:] = 0, 1
    torch.nn.init.zeros_(model.model.layers[0].self_attn.o_proj.weight)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
        torch.nn.init.eye_(layer.self_attn.v_proj.weight)
        torch.nn.init.eye_(layer.self_attn.k_proj.weight)
        layer.self_attn.k_proj.weight.data *= 3
        # Token 0 keeps half of what the norm passes on: channels above 8 are switched off.
        layer.input_layernorm.weight.data[8:] = 0
    embedding = model.model.embed_tokens.weight.data
    embedding[0], embedding[1] = 1.0, 0.0
    embedding[0, :8], embedding[1, :8] = 0.5, 1.0
    # After RMSNorm token 0 has 0.5 / sqrt((8 * 0.25 + 8) / 16), token 1 has 1 / sqrt(8 / 16).
    expected = (0.5 / math.sqrt(10 / 16)) / (1 / math.sqrt(8 / 16))
    torch.nn.init.zeros_(model.model.layers[1].self_attn.o_proj.weight)
    reading = SinkMonitor(ids).read(model)
    # Head 0 reads channels 0 to 7; head 1 reads those that are off, and has no norm at all.
    found = profile_sinks(model, ids)
    ratio = found.value_norm[:, 0, 0] / found.value_norm[:, 0].median(-1).values
    assert ratio.tolist() == pytest.approx([expected] * 2, rel=1e-5)
    assert reading.hidden_ratio == pytest.approx(math.sqrt(10 / 8), rel=1e-5)
    assert reading.largest == pytest.approx(1.0)


def test_a_learned_sink_takes_mass_from_the_rows() -> None:
    model = decoder(mechanisms=[SinkLogit()])
    silent(model)
    for layer in model.model.layers:
        (sink,) = layer.self_attn.mechanisms.members.values()
        torch.nn.init.zeros_(sink.logit)
    reading = SinkMonitor(tokens(length=12)).read(model)
    assert reading.mass == pytest.approx(sum(t / (t + 1) for t in range(1, 13)) / 12, abs=1e-6)


def test_massive_activations_are_counted_per_window() -> None:
    model, ids = decoder(position="none"), tokens(samples=4)
    ids[:, 0], ids[:, 1:] = 0, ids[:, 1:].clamp(min=1)
    model.model.embed_tokens.weight.data[0, 3] = -5000.0
    model.model.embed_tokens.weight.data[0, 5] = 900.0
    reading = SinkMonitor(ids, batch_size=3).read(model)
    assert reading.massive_count == 4.0  # two behind each of two layers, in every window
    assert reading.largest == pytest.approx(5000.0, rel=1e-2)
    assert reading.massive_ratio > 1000
    assert reading.hidden_ratio > 1000


def test_ratios_compare_position_0_with_the_median() -> None:
    model, ids = decoder(), tokens()
    profile = profile_sinks(model, ids)
    reading = SinkReading.of(profile)
    for name in ("value", "key"):
        norms = getattr(profile, f"{name}_norm")
        ratios = [h[0] / sorted(h)[(len(h) - 1) // 2] for layer in norms.tolist() for h in layer]
        assert getattr(reading, f"{name}_ratio") == pytest.approx(sum(ratios) / len(ratios))
    assert reading.sink_rate == float(profile.sink_rate[:, :, 0].mean())
    apart = SinkMonitor(ids, batch_size=1).read(model)
    assert asdict(apart) == pytest.approx(asdict(reading), rel=1e-5)


def trainer(model: torch.nn.Module, folder: Path, steps: int = 6) -> Trainer:
    pytest.importorskip("accelerate", reason="transformers' Trainer needs it")
    rows = [{"input_ids": row, "labels": row} for row in tokens(samples=24, length=8)]
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=4, logging_steps=2,
        learning_rate=1e-2, save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
        seed=3,
    )  # fmt: skip
    return Trainer(model=model, args=arguments, train_dataset=rows)


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    config.pad_token_id = config.eos_token_id = config.bos_token_id = 0
    return GPT2LMHeadModel(config)


@pytest.mark.parametrize("make", [decoder, gpt2], ids=["ours", "gpt2"])
def test_the_callback_logs_and_training_is_the_same_to_the_bit(make: Any, tmp_path: Path) -> None:
    plain = trainer(make(), tmp_path / "a")
    plain.train()
    watched = trainer(make(), tmp_path / "b")  # this seeds dropout anew
    watched.add_callback(SinkCallback(watched, tokens(), every=3))
    watched.train()
    for (name, a), b in zip(
        plain.model.named_parameters(), watched.model.parameters(), strict=True
    ):
        assert torch.equal(a, b), name
    read = [e for e in watched.state.log_history if "sinks/sink_rate" in e]
    assert [e["step"] for e in read] == [0, 3, 6]
    names = {f"sinks/{field.name}" for field in fields(SinkReading)}
    assert all(names <= e.keys() for e in read)
    assert all(math.isfinite(e[name]) for e in read for name in names)
    last = SinkMonitor(tokens()).read(watched.model)
    assert {n: read[-1][f"sinks/{n}"] for n in asdict(last)} == pytest.approx(asdict(last))

    def losses(history: list[dict[str, Any]]) -> list[tuple[int, float]]:
        return [(e["step"], e["loss"]) for e in history if "loss" in e]

    # At step 6 both are due; a reading must not swallow the Trainer's own line.
    assert losses(watched.state.log_history) == losses(plain.state.log_history)
    assert [step for step, _ in losses(plain.state.log_history)] == [2, 4, 6]


def test_the_last_step_is_read_once_where_it_is_not_due(tmp_path: Path) -> None:
    run = trainer(decoder(), tmp_path, steps=5)
    run.add_callback(SinkCallback(run, tokens(), every=2))
    run.train()
    read = [e["step"] for e in run.state.log_history if "sinks/entropy" in e]
    assert read == [0, 2, 4, 5]


def test_readings_leave_the_model_in_training_mode() -> None:
    model = decoder()
    model.train()
    model.model.layers[1].eval()
    before = {name: module.training for name, module in model.named_modules()}
    SinkMonitor(tokens()).read(model)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert all(p.grad is None for p in model.parameters())


def test_numbers_that_are_not_finite_are_told_by_place() -> None:
    model = decoder()
    model.model.layers[1].self_attn.k_proj.weight.data[9, 0] = torch.nan
    with pytest.raises(HeadwayError, match=r"layers\.1\.self_attn: keys .* head 1, position 0"):
        SinkMonitor(tokens()).read(model)


def test_a_wrong_interval_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadwayError, match="every: 0 is not accepted; accepted are 1 and more"):
        SinkCallback(trainer(decoder(), tmp_path), tokens(), every=0)
