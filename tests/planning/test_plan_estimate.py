"""Plans: as measured where something was measured, and consistent elsewhere."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headway_cli
from headway.bench.flops import PEAKS
from headway.planning.activations import moved
from headway.planning.counts import count_parameters, flops_a_token
from headway.planning.devices import DEVICES
from headway.planning.estimate import CLOSE, UPDATE, Cluster, Work, estimate
from headway.planning.measured import compared, main, table
from headway.planning.shapes import shape_named
from headway.planning.table import planned
from headway.report.tables import markdown_table
from headway_plan_settings import PlanSettings

ROOT = Path(__file__).parents[2]
SCALE = ROOT / "docs" / "scale.md"
H200 = Cluster(device=DEVICES["h200"], gpus=64)
B8 = shape_named("8b")
WORK = Work(context=2048, micro_batch_size=1, sharding="fsdp")


def test_within_a_tenth_of_what_was_measured() -> None:
    rows = compared(ROOT / "benchmarks" / "results")
    assert len(rows) == 11
    for row in rows:
        assert row.ratio == pytest.approx(1, abs=0.1), row.name
    for row in rows:
        if row.name.startswith("cache"):
            assert row.ratio == 1


def test_peaks_are_those_of_the_benches() -> None:
    for part, peak in PEAKS.items():
        assert DEVICES[part.split()[0].lower()].flops == peak


def test_every_parameter_is_somewhere_once() -> None:
    total = count_parameters(B8).total
    alone = estimate(B8, replace(H200, gpus=1), replace(WORK, sharding="none", weights=2))
    assert alone.memory.weights == 2 * total
    assert alone.memory.gradients == 2 * total
    assert alone.memory.moments == 4 * total
    shared = estimate(B8, H200, WORK)
    assert 64 * shared.memory.moments == pytest.approx(8 * total)
    assert 64 * shared.memory.gradients == pytest.approx(4 * total)
    within = estimate(B8, H200, replace(WORK, sharding="hsdp"))
    assert 8 * within.memory.moments == pytest.approx(8 * total)


def seconds(cluster: Cluster, work: Work) -> float:
    return estimate(B8, cluster, work).compute


def test_each_part_of_the_arithmetic_follows_its_own_rate() -> None:
    device, tokens = H200.device, WORK.context
    flops = flops_a_token(B8, WORK.context, count_parameters(B8))
    products = tokens * flops.products / (0.74 * device.flops)
    attention = tokens * flops.attention / (0.37 * 0.74 * device.flops)
    whole = seconds(H200, WORK)
    memory = whole - products - attention
    assert 0 < memory < attention + products
    narrow = replace(H200, device=replace(device, bandwidth=device.bandwidth / 2))
    assert seconds(narrow, WORK) - whole == pytest.approx(memory)
    assert seconds(replace(H200, attention=0.37 / 2), WORK) - whole == pytest.approx(attention)
    slower = seconds(replace(H200, efficiency=0.74 / 2), WORK)
    assert slower - whole == pytest.approx(products + attention)


def test_memory_passes_are_those_of_layers_weights_and_updates() -> None:
    device = replace(H200.device, bandwidth=1.0, flops=float("inf"))
    cluster, total = replace(H200, device=device), count_parameters(B8).total
    layers = WORK.context * 32 * moved(B8, 2, 4)
    casts, update = 12 * total, 4 * UPDATE * total
    assert seconds(cluster, WORK) == pytest.approx(layers + casts + update / 64)
    within, alone = replace(WORK, sharding="hsdp"), replace(WORK, sharding="none")
    assert seconds(cluster, within) == pytest.approx(layers + casts + update / 8)
    assert seconds(cluster, alone) == pytest.approx(layers + casts + update)
    twice = replace(alone, accumulation=2)
    assert seconds(cluster, twice) == pytest.approx(2 * (layers + casts) + update)
    layers = WORK.context * 32 * moved(B8, 2, 2)
    assert seconds(cluster, replace(alone, weights=2)) == pytest.approx(layers + update / 2)


def test_layers_computed_again_take_a_third_more_and_weights_do_not() -> None:
    again = replace(WORK, checkpointing=True)
    one, two = (seconds(H200, replace(WORK, micro_batch_size=size)) for size in (1, 2))
    assert seconds(H200, again) - one == pytest.approx((two - one) / 3)


def test_gradients_come_as_activations_go_unless_they_add_up() -> None:
    once = estimate(B8, H200, WORK).memory
    assert once.total == once.weights + once.moments + max(once.gradients, once.activations)
    more = estimate(B8, H200, replace(WORK, accumulation=2)).memory
    assert more.total == pytest.approx(once.total + min(once.gradients, once.activations))


def test_a_gather_goes_through_the_slower_wire() -> None:
    cluster = replace(H200, wire=1.0)
    size, link, network = 8e9, cluster.device.link, cluster.network
    assert cluster.gather_seconds(size, 1, 8) == 0
    assert cluster.gather_seconds(size, 8, 8) == size * 7 / 8 / link
    assert cluster.gather_seconds(size, 64, 8) == size * 7 / 8 / (8 * network)
    assert cluster.gather_seconds(size, 8, 1) == size * 7 / 8 / network
    assert cluster.gather_seconds(size, 4, 8) == size * 3 / 4 / link


@given(
    st.sampled_from(["none", "fsdp", "hsdp"]),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 4),
    st.integers(1, 4),
    st.booleans(),
)
@settings(max_examples=40)
def test_more_gpus_never_hold_or_take_more(
    sharding: str, parallel: int, micro: int, accumulation: int, again: bool
) -> None:
    work = Work(
        context=1024,
        micro_batch_size=micro,
        accumulation=accumulation,
        sharding=sharding,  # type: ignore[arg-type]
        tensor_parallel=parallel,
        checkpointing=again,
    )
    plans = [estimate(B8, replace(H200, gpus=gpus), work) for gpus in (16, 64, 512)]
    memory = [plan.memory.total for plan in plans]
    assert memory == sorted(memory, reverse=True)
    speeds = [plan.tokens_a_second for plan in plans]
    assert speeds == sorted(speeds)
    for plan in plans:
        assert plan.step >= plan.compute
        bare = plan.tokens / plan.compute
        assert plan.tokens_a_second <= bare * (1 + 1e-12)
    slow = estimate(B8, replace(H200, network=1e9), work)
    assert slow.step >= plans[1].step
    kept = [estimate(B8, H200, replace(work, checkpointing=c)).memory.total for c in (False, True)]
    assert kept[1] <= kept[0]


def test_auto_takes_the_quickest_that_fits() -> None:
    asked = PlanSettings(shapes=("1b", "8b", "70b"), gpus=(8, 64), context=4096, batch_size=256)
    plans = {(row.shape, row.gpus): row.plan for row in planned(asked)}
    assert plans["1b", 8].work.sharding == "none"
    assert plans["8b", 64].work.sharding != "none"
    assert not plans["70b", 8].fits
    assert plans["70b", 64].fits
    for (name, gpus), plan in plans.items():
        config, cluster = shape_named(name), replace(H200, gpus=gpus)
        for sharding in ("none", "fsdp", "hsdp"):
            for again in (False, True):
                other = replace(plan.work, sharding=sharding, checkpointing=again)
                rival = estimate(config, cluster, other)
                assert not (rival.fits and CLOSE * rival.tokens_a_second > plan.tokens_a_second)
        assert plan.tokens >= 256 * 4096
        assert plan.fits or gpus == 8


@pytest.mark.parametrize(("sequences", "made"), [(24, 24), (120, 120), (5, 8)])
def test_a_step_has_the_sequences_that_are_asked_for(sequences: int, made: int) -> None:
    """Or one a GPU, where they are fewer."""
    (row,) = planned(PlanSettings(shapes=("1b",), gpus=(8,), context=1024, batch_size=sequences))
    work = row.plan.work
    assert 8 * work.micro_batch_size * work.accumulation == made
    assert row.plan.tokens == made * 1024


def test_the_efficiency_that_is_asked_for_is_planned_with() -> None:
    asked = PlanSettings(shapes=("1b",), gpus=(1,))
    (one,), (other,) = planned(asked), planned(replace(asked, efficiency=0.9))
    again = estimate(shape_named("1b"), replace(H200, gpus=1), one.plan.work)
    assert one.plan.compute == again.compute
    assert other.plan.compute < one.plan.compute


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("1b", "--gpus", "12"), "gpus: 12 are no whole nodes of 8"),
        (("1b", "--gpus", "0"), "gpus: 0 is too small"),
        (("1b", "--tensor-parallel", "3"), "tensor_parallel: 3 does not divide the GPUs"),
        (("1b", "--gpus=16", "--gpus-a-node=16", "--tensor-parallel=16"), "key-value heads, 8"),
        (("1b", "--efficiency", "1.5"), "efficiency: 1.5"),
        (("1b", "--context", "0"), "context: 0"),
        (("1b", "--micro-batch-size", "0"), "micro_batch_size: 0"),
        (("1b", "--mechanisms", "kv_shft"), "mechanisms: 'kv_shft' is unknown"),
        (("1b", "--mechanisms", "attention_residual"), "attention_residual reads other layers"),
        (("2b",), "shapes: '2b' is unknown"),
        ((), "shapes: none is given; accepted are 124m, 350m"),
        (("1b", "--gpus"), "gpus: none is given"),
        (("1b", "--gpus=3", "--batch-size=4"), "4 sequences cannot be shared out evenly to 3 GPUs"),
        (("1b", "--tensor-parallel=2", "--batch-size=6"), "evenly to 4 groups of 2 GPUs"),
        (("1b", "--micro-batch-size", "5"), "5 does not divide the 32 sequence(s) that each of 8"),
        (("1b", "--gpus=512", "--micro-batch-size=2"), "micro_batch_size: 2 does not divide the 1"),
    ],
)  # fmt: skip
def test_refusals(words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert headway_cli.main(["plan", *words]) == 2
    assert told in capsys.readouterr().err


def test_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "124m", "1b", "--gpus", "1", "8", "--weights", "bfloat16"]
    assert headway_cli.main([*words, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["model"], row["gpus"]) for row in rows] == [
        (name, gpus) for name in ("124m", "1b") for gpus in (1, 8)
    ]
    for row in rows:
        assert row["step"] >= row["compute"]
        assert row["peak"] < 141e9
    assert headway_cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("model")
    assert " alone " in lines[1]


def test_the_page_shows_what_the_commands_print(capsys: pytest.CaptureFixture[str]) -> None:
    page = SCALE.read_text(encoding="utf-8")
    shown = re.findall(r"^`headway (plan [^`]*--format markdown)`\n\n((?:\|.*\n)+)", page, re.M)
    assert len(shown) >= 3
    for command, expected in shown:
        assert headway_cli.main(shlex.split(command)) == 0
        assert capsys.readouterr().out == expected, command
    assert markdown_table(table(compared(ROOT / "benchmarks" / "results"))) in page


def test_a_folder_is_planned_within_its_positions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    B8.save_pretrained(tmp_path / "long")
    short = shape_named("124m")
    short.max_position_embeddings = 512
    short.save_pretrained(tmp_path / "short")
    places = [str(tmp_path / name) for name in ("short", "long")]
    rows = planned(PlanSettings(shapes=(*places, "124m")))
    longer = min(4096, B8.max_position_embeddings)
    assert [row.plan.work.context for row in rows] == [512, longer, 4096]
    (asked,) = planned(PlanSettings(shapes=(places[0],), context=2048))
    assert asked.plan.work.context == 2048
    assert asked.cache == 4 * rows[0].cache
    assert headway_cli.main(["plan", *places[:1], "124m"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1].startswith(f"{places[0]}, 512 tokens ")
    assert told[2].startswith("124m ")


def test_a_folder_without_results_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "nothere")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"results: '{tmp_path}/nothere/memory-h200.json' cannot be read (No ")
    assert "accepted is a folder of the benches' results" in line
