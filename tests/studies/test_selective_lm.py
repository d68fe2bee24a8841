"""The study `selective-lm`: arms, spikiness, what temperatures follow, and verdicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_language_models import asked, compared_run, make_tiny, raced

from headway.mechanisms.selective_attention import SelectiveAttention, Temperature
from headway.studies import selective_lm
from headway.studies.claims import Estimate, Results, Run, Verdict, findings
from headway.studies.lm_claims import LOWER
from headway.studies.lm_course import Course, Extent, Shape
from headway.studies.lm_sharpness import Spikiness, Temperatures, operator_norm
from headway.studies.running import run_study
from headway.studies.selective_lm import ARMS, CLAIMS, EXTENTS, SELECTIVE_LM
from headway.studies.tuning import TEST


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Extent:
    return make_tiny(monkeypatch, selective_lm)


@pytest.fixture
def course(tiny: Extent, text: Path, tmp_path: Path) -> Course:
    return Course(ARMS, tiny, asked(text, tmp_path))


def run_of(arm: str, seed: int = 0) -> Run:
    return Run(arm, seed, {"stage": TEST, "rate": 0.01})


def test_arms_are_all_of_targets_and_parts() -> None:
    [both] = ARMS["qv-both"].mechanisms
    assert both == SelectiveAttention()
    [key] = ARMS["k-position"].mechanisms
    assert key == SelectiveAttention(query=False, key=True, value=False, token="none")
    [value] = ARMS["v-token"].mechanisms
    assert value == SelectiveAttention(query=False, position=False)
    assert len({str(arm.mechanisms) + str(arm.fields) for arm in ARMS.values()}) == len(ARMS) == 17


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
    from headway.ops.attention import Visibility

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
    assert operator_norm(model) == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_the_study_runs_on_text(course: Course) -> None:
    results = run_study(
        SELECTIVE_LM,
        replace(course.settings, arms=("plain", "qv-both", "qv-both-norm")),
        "headway study selective-lm",
    )
    [kept] = results.of(["qv-both"], stage=TEST)
    assert set(kept.measures["temperatures"]) == {"query", "value"}
    assert kept.measures["spikiness_by_position"][0] == [1, 1.0]
    assert [place for place, _ in kept.measures["spikiness_by_position"]] == [1, 2, 4, 8, 16]
    [plain] = results.of(["plain"], stage=TEST)
    assert plain.measures["temperatures"] == {}
    assert findings(CLAIMS, results)[0].verdict == Verdict.NOT_TESTABLE


def made_up(gain: float) -> Results:
    """Results at the paper size in which all temperatures but those of keys gain as much, queries
    and values by token and position a little more."""
    found = []
    for arm, spec in ARMS.items():
        found += raced(arm, {2e-3: 2, 4e-3: 3, 1e-3: 3})
        ours = any(isinstance(m, SelectiveAttention) for m in spec.mechanisms)
        more = gain if arm.startswith("qv-both") else 0.0
        loss = 3 + (gain if ours and not arm.startswith("k-") else 0) + more
        for seed in range(3):
            found.append(
                compared_run(
                    arm, 2e-3, seed, loss=loss + (1e-4 * (seed - 1) if ours else 0),
                    parameters=1_000_000 + 4_000 * ours, operator_norm=1.0 if ours else 3.0,
                    spikiness=0.39 + 13 * (gain if ours else 0) + 1e-4 * seed * ours,
                )
            )  # fmt: skip
    return Results("paper", {}, tuple(found))


def test_verdicts_follow_from_results() -> None:
    found = findings(CLAIMS, made_up(-0.01))
    assert {str(f.verdict) for f in found} == {"reproduced"}
    worse = [str(f.verdict) for f in findings(CLAIMS, made_up(0.01))]
    assert worse[:3] == ["not reproduced"] * 3
    assert worse[3] == "reproduced"  # keys alone still do not help
    assert worse[10] == "not reproduced"
    assert EXTENTS["paper"].fields == {}


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        (Estimate(-1, -2, -0.5, 3, p=0.01), Verdict.REPRODUCED),
        (Estimate(-1, -2, 0.5, 3, p=0.01), Verdict.PARTLY),
        (Estimate(-1, -2, -0.5, 3, p=0.2), Verdict.PARTLY),
        (Estimate(1, -2, 4, 3, p=0.01), Verdict.NOT_REPRODUCED),
    ],
)
def test_a_loss_is_lower_with_its_interval_and_its_p_value(
    ours: Estimate, verdict: Verdict
) -> None:
    assert LOWER.judge(ours) == verdict
