"""The induction study: what is held, what is shared, and how it is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from headway.mechanisms import KVShift
from headway.mechanisms.context import QKV, Context
from headway.mechanisms.kv_shift import KVShiftModule
from headway.ops.rotary import rotary
from headway.studies import estimates
from headway.studies.claim_page import write_claim_page
from headway.studies.claims import Run, findings
from headway.studies.criteria import Verdict
from headway.studies.kv_shift import induction as induction_study
from headway.studies.kv_shift.induction import (
    CLAIMS,
    INDUCTION,
    KEY,
    RACES,
    VALUE,
    WIDTHS,
)
from headway.studies.races.courses import Course, generator_of, task_batches
from headway.studies.races.token_races import TokenRace, decoder
from headway.studies.races.tuning import FIRST_TUNING_SEED, TEST, TUNING, Tuning
from headway.studies.running import run_study
from headway.tasks.base import accuracy
from headway.tasks.induction import Induction
from headway.training.ensemble import Ensemble
from headway.training.update_rules import AdamW
from headway_settings import StudySettings

TASK = Induction(length=8, candidates=4, vocab_size=6, first_id=0)
TINY = TokenRace(
    arms=induction_study._arms(TASK, 16, (8,)),
    task=TASK,
    scores=("all", "first"),
    batch=4,
    rows=32,
    course=Course(limit=4, every=2, together=2, target=0.9),
    tuning=Tuning(rates=(0.01, 0.1), seeds=1),
    warm_up=2,
    copies=10,
)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "RESAMPLES", 199)


def run_of(arm: str, seed: int = 0, rate: float = 0.01, stage: str = TEST) -> Run:
    return Run(arm, seed, {"stage": stage, "rate": rate})


def values(arm: str, seed: int = 0, race: TokenRace = TINY) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in race.model(run_of(arm, seed)).named_parameters()}


def taps(arm: str) -> dict[str, list[float]]:
    found = values(arm)
    return {end: p[0].tolist() for end in (KEY, VALUE) for n, p in found.items() if n.endswith(end)}


def test_arms_start_with_the_taps_that_they_say() -> None:
    drawn = taps("kv-shift")
    assert drawn[KEY] != [1, 0] != drawn[VALUE]
    assert sum(drawn[KEY]) == pytest.approx(1)
    assert taps("plain-1") == {KEY: [1, 0], VALUE: [1, 0]} == taps("kv-shift-identity")
    assert taps("key-shift") == {KEY: drawn[KEY], VALUE: [1, 0]}
    assert taps("value-shift") == {KEY: [1, 0], VALUE: drawn[VALUE]}


def test_arms_hold_what_they_say() -> None:
    held = {
        arm: {name.split(".")[-1] for name in TINY.arms[arm].fixed(TINY.model(run_of(arm)))}
        for arm in TINY.arms
    }
    assert held.pop("plain-1") == {"key", "value"}
    assert held.pop("key-shift") == {"value"}
    assert held.pop("value-shift") == {"key"}
    assert held.pop("key-offset") == {"key"}
    assert not any(held.values())


def test_a_layer_with_taps_held_at_the_identity_is_a_plain_one() -> None:
    inputs = torch.randint(6, (3, 8), generator=torch.Generator().manual_seed(0))
    held = TINY.model(run_of("plain-1"))
    plain = decoder(16, 1, TASK)
    bare = type(held)(plain)  # type: ignore[call-arg]
    state = {n: p for n, p in held.state_dict().items() if "kv_shift" not in n}
    assert not bare.load_state_dict(state, strict=False).missing_keys
    torch.testing.assert_close(held(inputs).logits, bare(inputs).logits)
    shifted = TINY.model(run_of("kv-shift"))(inputs).logits
    assert not torch.allclose(shifted, bare(inputs).logits)


def test_a_partial_key_offset_moves_the_half_of_a_key_that_rotates_slowest() -> None:
    model = TINY.model(run_of("key-offset"))
    (module,) = [m for m in model.modules() if isinstance(m, KVShiftModule)]
    config, positions = TINY.arms["key-offset"].config, torch.arange(5)[None]
    k = torch.randn(1, config.num_key_value_heads, 5, config.head_dim)
    found = module.prologue(QKV(k, k, k), Context(positions=positions))
    turned = rotary(positions, config.head_dim, config.rope_theta, torch.float64).cos[0, 0, 1]
    slow = turned > turned.median()
    assert slow.sum() == config.head_dim // 2
    assert torch.equal(found.k[..., ~slow], k[..., ~slow])
    assert torch.equal(found.k[:, :, 1:, slow], k[:, :, :-1, slow])
    assert not found.k[:, :, 0, slow].any()
    assert torch.equal(found.v, k)


def test_arms_of_a_seed_share_weights_and_data() -> None:
    plain = values("plain-2")
    for arm in ("kv-shift", "plain-4", "short-conv", "smeared-key"):
        shared = values(arm)
        common = plain.keys() & shared.keys()
        assert len(common) > 8
        assert all(torch.equal(plain[name], shared[name]) for name in common)
    name = "model.embed_tokens.weight"
    assert not torch.equal(plain[name], values("plain-2", 1)[name])
    batch = task_batches(TINY.task, TINY.batch, [0, 0, 1], "cpu")(0, 3)
    assert batch["inputs"].shape == (3, 3, 4, 8)
    assert torch.equal(batch["inputs"][:, 0], batch["inputs"][:, 1])
    assert not torch.equal(batch["inputs"][:, 0], batch["inputs"][:, 2])


def test_the_paper_size_has_the_published_shapes() -> None:
    race = RACES["paper"]
    assert {race.arms[f"plain-{n}"].config.num_hidden_layers for n in (2, 4)} == {2, 4}
    assert race.arms["kv-shift"].config.num_hidden_layers == 1
    assert race.arms["plain-2-w8"].config.hidden_size == 8
    assert race.arms["kv-shift-w8"].config.hidden_size == 8
    for arm in race.arms.values():
        assert arm.config.rope_theta == 100_000
        assert not arm.config.tie_word_embeddings
        assert arm.config.position == "rope"
    assert race.arms["kv-shift"].config.mechanism_list() == [KVShift()]
    assert INDUCTION.arms.keys() == race.arms.keys()
    assert RACES["small"].arms.keys() < INDUCTION.arms.keys()
    assert WIDTHS["paper"] > 64


def test_one_program_holds_the_arms_of_one_pass() -> None:
    runs = [run_of(arm, seed) for seed in (0, 1) for arm in TINY.arms]
    bundles = [
        {run.arm for run in bundle} for bundle in TINY.tuning.bundles(runs, 10, TINY._program)
    ]
    one = {"plain-1", "kv-shift", "key-shift", "value-shift", "kv-shift-identity"}
    assert one in bundles
    assert all(len(b) == 1 for b in bundles if b != one)


def test_tests_score_each_copy_as_the_task_does() -> None:
    seeds = [3, 3, 4]
    models = [TINY.model(run_of("plain-2", seed)) for seed in (0, 1, 2)]
    ensemble = Ensemble.of(models, lambda call, batch: torch.zeros(()), AdamW())
    scores = ("all", "first", "later")
    found = replace(TINY, scores=scores).tests(ensemble, seeds, "cpu")()
    for number, (seed, model) in enumerate(zip(seeds, models, strict=True)):
        sample = TASK.sample(TINY.rows, generator_of("tests", seed, "cpu"))
        wanted = accuracy(model(sample.inputs).logits, sample)
        for name in scores:
            assert found[name][number].item() == pytest.approx(wanted[name].item())


def test_copies_learn_at_their_rate_what_their_arm_has() -> None:
    """The first step of AdamW is as long as its rate wherever there is a gradient."""
    runs = [run_of(arm, 0, rate) for arm in ("plain-1", "key-shift", "kv-shift") for rate in
            (0.01, 0.02)]  # fmt: skip
    models = [TINY.model(run) for run in runs]
    ensemble = TINY.together(runs, models)
    batch = task_batches(TINY.task, TINY.batch, [0] * 6, "cpu")(0, 1)
    before = ensemble.rows.clone()
    ensemble.step({name: t[0] for name, t in batch.items()}, 1.0)
    moved = ensemble.layout.views(ensemble.rows - before)
    (key,), (value,) = ([n for n in moved if n.endswith(end)] for end in (KEY, VALUE))
    assert [bool(m.any()) for m in moved[key]] == [False, False, True, True, True, True]
    assert [bool(m.any()) for m in moved[value]] == [False, False, False, False, True, True]
    longest = ensemble.layout.views(ensemble.rows - before)["lm_head.weight"].abs().amax((1, 2))
    torch.testing.assert_close(longest, torch.tensor([0.01, 0.02] * 3), rtol=1e-3, atol=0)


def test_a_copy_in_company_is_trained_as_alone() -> None:
    race = replace(TINY, course=replace(TINY.course, target=2.0))
    settings = StudySettings(name=("induction",), device="cpu")
    runs = [run_of(arm, seed) for seed in (0, 1) for arm in ("plain-1", "kv-shift", "key-shift")]
    together = {run.key: measures for run, measures in race.perform(runs, settings)}
    for run in runs:
        ((_, alone),) = race.perform([run], settings)
        assert together[run.key]["parameters"] == alone["parameters"]
        steps, scores = zip(*together[run.key]["curve"], strict=True)
        assert steps == tuple(step for step, _ in alone["curve"]) == (2, 4)
        assert scores == pytest.approx([score for _, score in alone["curve"]], abs=0.02)
    count = {run.arm: together[run.key]["parameters"] for run in runs}
    assert count["kv-shift"] == count["key-shift"] + 2 == count["plain-1"] + 4
    assert together[runs[0].key] != together[runs[1].key]


def test_a_study_is_tuned_on_its_own_seeds_resumed_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RACES, "small", TINY)
    arms = ("plain-1", "kv-shift", "kv-shift-w8")
    asked = StudySettings(name=("induction",), out=tmp_path, device="cpu", seeds=2, arms=arms)
    run_study(INDUCTION, replace(asked, arms=("kv-shift",), seeds=1), "typed")
    results = run_study(INDUCTION, asked, "typed")
    for arm in arms:
        seeds = {stage: {r.run.seed for r in results.of([arm], stage=stage)} for stage in
                 (TUNING, TEST)}  # fmt: skip
        assert seeds == {TUNING: {FIRST_TUNING_SEED}, TEST: {0, 1}}
    told = {f.verdict for f in findings(CLAIMS, results)}
    assert told == {Verdict.NOT_TESTABLE, None}
    page = write_claim_page(tmp_path, INDUCTION, results).read_text(encoding="utf-8")
    assert "Accuracy by depth and mechanism" in page
    assert "Accuracy at the end over the width" in page
