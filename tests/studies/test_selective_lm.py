"""The study `selective-lm`: arms, spikiness, what temperatures follow, and verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_language_models import compared_run, raced
from small_selective import make_tiny_selective, tiny_course

from headway.mechanisms.selective_attention import SelectiveAttention, Temperature
from headway.studies.claims import Results, Run, findings
from headway.studies.criteria import Estimate, Verdict
from headway.studies.language_models.claims import LOWER
from headway.studies.language_models.course import Course, Extent, Shape
from headway.studies.language_models.fine import FineCourse
from headway.studies.language_models.rates import SHARE
from headway.studies.language_models.sharpness import Spikiness, Temperatures, operator_norms
from headway.studies.races.tuning import TEST
from headway.studies.running import run_study
from headway.studies.selective.arms import (
    ARMS,
    EXTENTS,
    FINE,
    PARTS,
    SCRATCH,
    SHARED,
    TARGETS,
    TUNED,
)
from headway.studies.selective.selective_lm import CLAIMS, PERPLEXITIES, SELECTIVE_LM, look


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Extent:
    return make_tiny_selective(monkeypatch)


@pytest.fixture
def course(tiny: Extent, text: Path, tmp_path: Path) -> FineCourse:
    return tiny_course(tiny, text, tmp_path)


def run_of(arm: str, seed: int = 0) -> Run:
    return Run(arm, seed, {"stage": TEST, "rate": 0.01})


def test_arms_are_all_of_targets_and_parts() -> None:
    [both] = ARMS["qv-both"].mechanisms
    assert both == SelectiveAttention()
    [key] = ARMS["k-position"].mechanisms
    assert key == SelectiveAttention(query=False, key=True, value=False, token="none")
    [value] = ARMS["v-token"].mechanisms
    assert value == SelectiveAttention(query=False, position=False)
    assert len({str(replace(arm, about="")) for arm in ARMS.values()}) == len(ARMS) == 57
    for name, arm in TUNED.items():
        base = ARMS[arm.continues or ""]
        assert (base.mechanisms, base.fields) == ((), arm.fields)
        assert arm.mechanisms == ARMS[name.removeprefix(FINE)].mechanisms
    for start in ("", FINE):
        for target in TARGETS:
            for part in PARTS:
                plain, normed = (ARMS[f"{start}{target}-{part}{n}"] for n in ("", "-norm"))
                assert plain.mechanisms == normed.mechanisms
                assert dict(normed.fields) == {"qk_norm": True} != dict(plain.fields)


def test_controls_have_as_many_parameters_or_no_features(course: FineCourse) -> None:
    counts = {
        arm: course.drawn(run_of(arm)).num_parameters()
        for arm in ("plain", "plain-wide", "qv-both", "head-constant")
    }
    small = EXTENTS["paper"].shapes[0]
    unit = 3 * small.width * small.layers
    added = (2 + 2 * small.width) * small.layers
    assert 0 < added <= unit  # one unit wider is as much, at the size that is compared
    assert counts["plain-wide"] - counts["plain"] == 3 * 16 * 2
    assert counts["head-constant"] - counts["plain"] == 2 * 2
    [control] = ARMS["head-constant"].mechanisms
    assert isinstance(control, SelectiveAttention)
    assert (control.token, control.position, control.targets) == ("constant", False, ("query",))


def test_what_is_fine_tuned_goes_on_from_a_model_of_the_other_half(course: FineCourse) -> None:
    base = course.base("plain", 3)
    plain, tempered, other = (
        course.drawn(run_of(f"{FINE}{arm}", 3)).state_dict()
        for arm in ("plain", "qv-both", "plain-norm")
    )
    fresh = course.drawn(run_of("plain", 3)).state_dict()
    assert all(torch.equal(plain[name], weight) for name, weight in base.weights.items())
    assert all(torch.equal(tempered[name], weight) for name, weight in base.weights.items())
    assert len(tempered) > len(base.weights)
    assert not torch.equal(fresh["lm_head.weight"], plain["lm_head.weight"])
    assert not torch.equal(other["lm_head.weight"], plain["lm_head.weight"])
    half = len(course.corpus.train) // 2
    first, second = (
        {tuple(row) for step in range(40) for row in course.data(run).batch(step).tolist()}
        for run in (Run("plain", 3, {"stage": "base"}), run_of(f"{FINE}plain", 3))
    )
    assert not first & second
    assert all(row in windows(course.corpus.train[:half]) for row in list(first)[:5])
    assert all(row in windows(course.corpus.train[half:]) for row in list(second)[:5])


def windows(tokens: np.ndarray[Any, Any]) -> set[tuple[int, ...]]:
    """All windows of 17 tokens."""
    return set(map(tuple, np.lib.stride_tricks.sliding_window_view(tokens, 17).tolist()))


def test_steps_are_those_of_the_base_of_what_continues_it_and_their_shares(
    course: FineCourse,
) -> None:
    half = Run(f"{FINE}plain", 0, {"stage": TEST, "rate": 0.01, SHARE: 0.5})
    assert course.steps_of(Run("plain", 0, {"stage": "base"})) == 6
    assert course.steps_of(run_of(f"{FINE}plain")) == 10
    assert course.steps_of(half) == 5
    assert course.steps_of(run_of("plain")) == course.extent.steps == 12
    assert course.steps_of(replace(half, arm="plain")) == 6
    model, measures = course.trained(half)
    assert measures["tokens"] == 5 * 4 * 16
    assert measures["base_loss"] == course.base("plain", 0).loss
    assert measures["loss"] < measures["base_loss"] + 0.1
    assert "base_loss" not in course.trained(run_of("plain"))[1]
    assert model.training is False


def test_spikiness_is_one_where_attention_is_even_and_small_where_it_is_not(
    course: Course,
) -> None:
    model, probe = course.drawn(run_of("plain")), Spikiness()
    ids = course.held(run_of("plain"))[:3, :-1]
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.zero_()
        model(ids, probe=probe)
        torch.testing.assert_close(probe.means(), torch.ones(16, dtype=torch.float64))
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.normal_(std=200)
        sharp = Spikiness()
        model(ids, probe=sharp)
    assert sharp.means()[0] == pytest.approx(1)
    assert sharp.means()[8:].max() < 0.4


def test_spikiness_is_what_whole_matrices_give() -> None:
    from headway.ops.visibility import Visibility

    drawn = torch.Generator().manual_seed(3)
    q, k = (torch.randn(2, 2, 70, 4, generator=drawn) for _ in range(2))
    probe = Spikiness()
    positions = torch.arange(70).expand(2, 70)
    probe(0, q, k, Visibility(positions, 0, 70, True), 0.5)
    hidden = torch.ones(70, 70).triu(1).bool()
    weights = (0.5 * q @ k.transpose(2, 3)).masked_fill(hidden, -torch.inf).softmax(-1)
    rows = weights.sum(-1) / (torch.arange(1, 71) * weights.square().sum(-1))
    torch.testing.assert_close(probe.means(), rows.mean((0, 1)).double(), rtol=1e-4, atol=1e-5)


def test_temperatures_follow_what_they_are_made_to_follow(course: Course) -> None:
    model = course.drawn(run_of("qv-position"))
    ids = course.held(run_of("plain"))[:2, :-1]
    found = Temperatures()
    with torch.no_grad(), found.of(model):
        model(ids)
    slope = next(m for m in model.modules() if isinstance(m, Temperature)).slope()
    expected = 1 + slope.double().item() * torch.arange(1, 17).double().log()
    assert set(found.tau) == {"query", "value"}
    assert len(found.tau["query"]) == 2
    torch.testing.assert_close(found.tau["query"][0][1], expected, rtol=1e-5, atol=1e-6)
    by_position = found.told("query", torch.arange(16.0).expand(2, 16))
    assert by_position["with_frequency"] > 0.9
    assert by_position["by_frequency"] == sorted(by_position["by_frequency"])
    assert abs(by_position["with_norm"]) <= 1
    model(ids)
    assert len(found.tau["query"]) == 2  # nothing is gathered afterwards


def test_the_norm_of_a_projection_is_that_of_the_whole_layer(course: Course) -> None:
    model, ids = course.drawn(run_of("q-token")), course.held(run_of("plain"))[:1, :-1]
    found = Temperatures()
    with torch.no_grad(), found.of(model):
        model(ids)
        hidden = model.model.embed_tokens(ids)
        normed = model.model.layers[0].input_layernorm(hidden)
        q = model.model.layers[0].self_attn.q_proj(normed)
    torch.testing.assert_close(found.norm["query"][0], q.double().norm(dim=-1), rtol=1e-5, atol=0)


def test_the_operator_norm_is_the_mean_over_heads(course: Course) -> None:
    shape = Shape(layers=2, width=16, heads=4, kv_heads=2)
    grouped = replace(course, extent=replace(course.extent, shapes=(shape,)))
    model = grouped.drawn(run_of("plain"))
    expected = []
    for layer in model.model.layers:
        q, k = layer.self_attn.q_proj.weight.detach(), layer.self_attn.k_proj.weight.detach()
        for head in range(4):
            group = head // 2
            both = q[4 * head : 4 * head + 4].T @ k[4 * group : 4 * group + 4]
            expected.append(torch.linalg.svdvals(both.double())[0].item())
    by_layer = [sum(expected[:4]) / 4, sum(expected[4:]) / 4]
    assert operator_norms(model).tolist() == pytest.approx(by_layer, rel=1e-5)


def test_the_tempered_norm_counts_what_queries_and_keys_are_scaled_by(course: Course) -> None:
    found = {}
    for arm in ("plain", "v-both", "q-position", "k-position"):
        run = run_of(arm)
        found[arm] = look(course, course.drawn(run), run)
    assert found["plain"]["tempered_norm"] == pytest.approx(found["plain"]["operator_norm"])
    assert found["v-both"]["tempered_norm"] == pytest.approx(found["v-both"]["operator_norm"])
    mean = 1 + 0.0113 * sum(math.log(n) for n in range(1, 17)) / 16
    for arm in ("q-position", "k-position"):
        ratio = found[arm]["tempered_norm"] / found[arm]["operator_norm"]
        assert ratio == pytest.approx(mean, rel=1e-3)


def test_the_study_runs_on_text(course: Course) -> None:
    results = run_study(
        SELECTIVE_LM,
        replace(course.settings, arms=("plain", "qv-both", "qv-both-norm", f"{FINE}qv-both")),
        "headway study selective-lm",
    )
    [kept] = results.of(["qv-both"], stage=TEST, share=None)
    assert [r.run.options["share"] for r in results.of(["qv-both"], stage=TEST)[:2]] == [0.5, 0.7]
    [tuned] = results.of([f"{FINE}qv-both"], stage=TEST, share=None)
    assert tuned.measures["tokens"] == 10 * 4 * 16
    assert set(kept.measures["temperatures"]) == {"query", "value"}
    assert kept.measures["spikiness_by_position"][0] == [1, 1.0]
    assert [place for place, _ in kept.measures["spikiness_by_position"]] == [1, 2, 4, 8, 16]
    [plain] = results.of(["plain"], stage=TEST)
    assert plain.measures["temperatures"] == {}
    assert findings(CLAIMS, results)[0].verdict == Verdict.NOT_TESTABLE


def temperatures(arm: str, gain: float, seed: int) -> dict[str, dict[str, float]]:
    """Temperatures that follow frequency and norms, but for QK-norm, as an arm gains."""
    followed = 40 * gain + 1e-3 * seed
    norm = -followed if arm.endswith("-norm") else followed
    return {
        target: {"with_norm": norm, "with_frequency": followed}
        for target in TARGETS[arm.removeprefix(FINE).split("-")[0]]
    }


def made_up(gain: float) -> Results:
    """Results at the paper size in which all temperatures but those of keys gain as much, queries
    and values by token and position much more; a run with fewer steps loses a little."""
    found = []
    for arm, spec in ARMS.items():
        found += raced(arm, {2e-3: 2, 4e-3: 3, 1e-3: 3})
        ours = any(isinstance(m, SelectiveAttention) for m in spec.mechanisms)
        ours = ours and "constant" not in arm
        more = 6 * gain if "qv-both" in arm else 0.0
        loss = 3 + (gain if ours and "k-" not in arm else 0) + more
        for seed in range(3):
            for share in (*SHARED.get(arm, ()), None):
                made = compared_run(
                    arm, 2e-3, seed,
                    loss=loss + (1e-4 * (seed - 1) if ours else 0) + 0.02 * (1 - (share or 1)),
                    parameters=1_000_000 + 4_000 * ours, operator_norm=1.0 if ours else 3.0,
                    tempered_norm=1.2 if ours else 3.0,
                    spikiness=0.39 + 13 * (gain if ours else 0) + 1e-4 * seed * ours,
                    temperatures=temperatures(arm, gain, seed) if ours else {},
                )  # fmt: skip
                shared = {**made.run.options} | ({SHARE: share} if share else {})
                found.append(replace(made, run=replace(made.run, options=shared)))
    return Results("paper", {}, tuple(found))


def test_verdicts_follow_from_results() -> None:
    found = findings(CLAIMS, made_up(-0.01))
    assert {str(f.verdict) for f in found} == {"reproduced"}
    worse = {f.claim.claim: str(f.verdict) for f in findings(CLAIMS, made_up(0.01))}
    still = {claim for claim, verdict in worse.items() if verdict == "reproduced"}
    assert len(still) == 7
    assert sum("keys alone do not lower" in claim for claim in still) == 2
    assert sum("W_q W_k^T" in claim for claim in still) == 2
    assert sum("temperature counted too" in claim for claim in still) == 2
    assert sum("parameters" in claim for claim in still) == 1
    assert EXTENTS["paper"].fields == {}
    assert set(SHARED) == {"qv-both", f"{FINE}qv-both"} < set(SCRATCH) | set(TUNED)


def compared_as(losses: Mapping[str, float], *words: str) -> list[tuple[str, str]]:
    """Figure and verdict of claims with these words, of three seeds an arm whose noise is not the
    same."""
    found = []
    for place, (arm, loss) in enumerate(losses.items()):
        found += raced(arm, {2e-3: 2.0})
        noise = (1e-5 * place * (seed - 1) for seed in range(3))
        found += [compared_run(arm, 2e-3, s, loss=loss + e) for s, e in enumerate(noise)]
    told = findings(CLAIMS, Results("paper", {}, tuple(found)))
    return [(f.our_text.split()[0], str(f.verdict)) for word in words for f in told
            if word in f.claim.claim and f.verdict is not None]  # fmt: skip


@pytest.mark.parametrize("start", ["", FINE])
def test_each_projection_is_compared_with_the_others_of_table_5(start: str) -> None:
    words = ("values together are better than queries", "values together are better than values",
             "Queries alone are better than keys", "Values alone are better than keys")  # fmt: skip
    losses = {"qv-both": 2.9, "q-both": 3.0, "v-both": 3.1, "k-both": 3.3}
    best = {f"{start}{arm}": loss for arm, loss in losses.items()}
    assert compared_as(best, *words) == [
        ("-0.1000", "reproduced"), ("-0.2000", "reproduced"), ("-0.3000", "reproduced"),
        ("-0.2000", "reproduced"),
    ]  # fmt: skip
    worst = dict(zip(best, reversed(best.values()), strict=True))
    assert {verdict for _, verdict in compared_as(worst, *words)} == {"not reproduced"}


def test_each_published_perplexity_is_a_difference_to_reach() -> None:
    claims = [claim for claim in CLAIMS if "second-hand" in claim.source]
    assert [(c.published_text, c.besides, c.arms) for c in claims] == [
        ("-0.006 (perplexity 26.681 to 26.514)", False, ("qv-both", "plain")),
        ("-0.053 (perplexity 36.503 to 34.618)", True, ("qv-both", "plain")),
        ("-0.123 (perplexity 12.416 to 10.982)", True, (f"{FINE}qv-both", f"{FINE}plain")),
    ]
    assert all(model in SELECTIVE_LM.published for model in PERPLEXITIES)
    words = "lower the loss (nats, less plain's)", "of GPT-2", "of Llama-3-8B"
    arms = "plain", "qv-both", f"{FINE}plain", f"{FINE}qv-both"
    small = compared_as(dict(zip(arms, (3.0, 2.99, 3.0, 2.99), strict=True)), *words)
    assert small == [("-0.0100", "reproduced"), ("-0.0100", "partly"), ("-0.0100", "partly")]
    large = compared_as(dict(zip(arms, (3.0, 2.97, 3.0, 2.93), strict=True)), *words)
    assert {verdict for _, verdict in large} == {"reproduced"}


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        (Estimate(-1, -2, -0.5, 3, p=0.01), Verdict.REPRODUCED),
        (Estimate(-1, -2, -0.5, 3, p=0.2), Verdict.PARTLY),
        (Estimate(-1, -2, -0.5, 3), Verdict.PARTLY),
        (Estimate(-0.006, -0.1, 0.09, 3, p=0.9), Verdict.NOT_TESTABLE),
        (Estimate(0.01, -0.005, 0.03, 3, p=0.3), Verdict.NOT_TESTABLE),
        (Estimate(-0.001, -0.004, 0.002, 3, p=0.6), Verdict.NOT_REPRODUCED),
        (Estimate(1, 0.5, 1.5, 3, p=0.01), Verdict.NOT_REPRODUCED),
    ],
)
def test_a_loss_is_lower_with_its_interval_and_its_p_value(
    ours: Estimate, verdict: Verdict
) -> None:
    assert LOWER.judge(ours) == verdict
