"""The model that fine-tuned arms go on from: trained once for each seed, whoever asks for it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors import safe_open
from small_comparisons import write_text
from small_selective import make_tiny_selective, tiny_course

from headway.decoder import HeadwayForCausalLM
from headway.errors import HeadwayError
from headway.studies.claims import Run
from headway.studies.language_models import course as lm_course
from headway.studies.language_models.course import Course, Extent
from headway.studies.language_models.fine import BASE, BASES, Base, FineCourse
from headway.studies.races.tuning import FIRST_TUNING_SEED, TEST
from headway.studies.running import run_study
from headway.studies.selective.arms import FINE
from headway.studies.selective.selective_lm import SELECTIVE_LM

Trained = Counter[tuple[str, int]]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Extent:
    return make_tiny_selective(monkeypatch)


@pytest.fixture
def course(tiny: Extent, text: Path, tmp_path: Path) -> FineCourse:
    return tiny_course(tiny, text, tmp_path)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    """How often a base was trained, each from other first weights: a stand-in for a GPU, which
    does not repeat itself."""
    counts: Trained = Counter()
    train, seed_weights = Course.trained, lm_course.seed_weights

    def counted(course: Course, run: Run) -> Any:
        if run.options["stage"] == BASE:
            counts[run.arm, run.seed] += 1
        return train(course, run)

    def unlike(model: HeadwayForCausalLM, seed: int) -> None:
        seed_weights(model, seed + 7 * counts.total())

    monkeypatch.setattr(Course, "trained", counted)
    monkeypatch.setattr(lm_course, "seed_weights", unlike)
    return counts


def kept(course: Course) -> list[Path]:
    """The files of bases that are there."""
    return sorted((course.folder.parent / BASES).glob("*.safetensors"))


def alike(one: Base, other: Base) -> bool:
    """Whether two bases are the same to the bit."""
    return (one.loss, one.weights.keys()) == (other.loss, other.weights.keys()) and all(
        torch.equal(weight, other.weights[name]) for name, weight in one.weights.items()
    )


HOME: dict[str, Any] = {}
JOBS = {"executor": "slurm", "executor_options": (("cluster", "debug"),)}


@pytest.mark.parametrize("where", [HOME, JOBS, JOBS | {"job": "run"}], ids=["home", "arm", "run"])
def test_a_study_trains_each_base_once(
    where: dict[str, Any], course: FineCourse, trained: Trained
) -> None:
    if where:
        pytest.importorskip("submitit")
    arms = (f"{FINE}plain", f"{FINE}qv-both")
    settings = replace(course.settings, arms=arms, page=False, **where)
    results = run_study(SELECTIVE_LM, settings, "command")
    assert trained == {("plain", 0): 1, ("plain", FIRST_TUNING_SEED): 1}
    compared = results.of(arms, stage=TEST)
    assert len(compared) == 4
    assert {r.measures["base_loss"] for r in compared} == {course.base("plain", 0).loss}
    assert settings.out is not None
    elsewhere = replace(settings, out=settings.out / "others", arms=(f"{FINE}q-both",))
    run_study(SELECTIVE_LM, elsewhere, "command")
    assert trained.total() == 2


def test_courses_go_on_from_the_same_bits(course: FineCourse, trained: Trained) -> None:
    others = replace(course)
    assert alike(course.base("plain", 3), others.base("plain", 3))
    assert trained == {("plain", 3): 1}
    run = Run(f"{FINE}plain", 3, {"stage": TEST, "rate": 0.01})
    first, second = (c.drawn(run).state_dict() for c in (course, others))
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    assert not alike(course.base("plain", 3), course.base("plain", 4))


def test_those_who_come_at_once_share_one(course: FineCourse, trained: Trained) -> None:
    assert course.corpus
    found: list[Base] = []
    threads = [
        threading.Thread(target=lambda: found.append(replace(course).base("plain", 0)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trained.total() == 1
    assert all(alike(found[0], other) for other in found)
    assert len(found) == 4


def of_settings(**changes: Any) -> Callable[[FineCourse], FineCourse]:
    return lambda course: replace(course, settings=replace(course.settings, **changes))


def of_extent(**changes: Any) -> Callable[[FineCourse], FineCourse]:
    return lambda course: replace(course, extent=replace(course.extent, **changes))


def of_continuation(**changes: Any) -> Callable[[FineCourse], FineCourse]:
    return lambda course: replace(course, continuation=replace(course.continuation, **changes))


@pytest.mark.parametrize(
    "other",
    [
        of_settings(steps=5),
        of_settings(batch_size=3),
        of_settings(dtype="bfloat16"),
        of_extent(held_tokens=256),
        of_extent(fields={"rope_theta": 100.0}),
        of_extent(context=8, fields={"max_position_embeddings": 16}),
        of_continuation(base_rate=0.003),
        of_continuation(base_steps=7),
    ],
    ids=["steps", "batch", "dtype", "held", "config", "context", "rate", "base-steps"],
)
def test_one_that_was_made_otherwise_is_not_taken(
    other: Callable[[FineCourse], FineCourse], course: FineCourse, trained: Trained
) -> None:
    base = course.base("plain", 0)
    assert not alike(base, other(course).base("plain", 0))
    assert trained.total() == len(kept(course)) == 2
    assert alike(base, replace(course).base("plain", 0))


def test_one_of_another_text_is_not_taken(
    course: FineCourse, trained: Trained, tmp_path: Path
) -> None:
    """Two corpora in one folder, each given as it is."""
    words = write_text(tmp_path / "words")
    (words / "more.txt").write_text("of another text, " * 400)
    courses = []
    for source in (course.settings.text, str(words)):
        folder = tmp_path / "given" / str(len(courses))
        made = of_settings(text=source, corpus=tmp_path / f"made-{len(courses)}")(course)
        made.corpus.save(folder)
        courses.append(of_settings(text=None, corpus=folder)(course))
    assert not alike(*(c.base("plain", 0) for c in courses))
    assert len(kept(courses[0])) == trained.total() == 2


@pytest.mark.parametrize(
    "other",
    [of_settings(compile=True), of_settings(device="auto"), of_continuation(steps=3)],
    ids=["compile", "device", "steps"],
)
def test_one_is_taken_whatever_the_machine_and_what_goes_on_from_it(
    other: Callable[[FineCourse], FineCourse], course: FineCourse, trained: Trained
) -> None:
    assert alike(course.base("plain", 0), other(course).base("plain", 0))
    assert trained.total() == 1


@pytest.mark.parametrize("left", [0, 100, -1])
def test_a_damaged_file_is_refused_until_it_is_deleted(
    left: int, course: FineCourse, trained: Trained
) -> None:
    course.base("plain", 0)
    [path] = kept(course)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(HeadwayError, match=r"plain-0-\w+\.safetensors cannot be read .*delete it"):
        replace(course).base("plain", 0)
    path.unlink()
    assert replace(course).base("plain", 0).loss > 0
    assert trained.total() == 2


def test_one_whose_time_was_over_leaves_nothing(course: FineCourse, trained: Trained) -> None:
    with pytest.raises(HeadwayError, match="seconds: 1e-09 were over at step 1 of 6 of plain"):
        of_settings(seconds=1e-9)(course).base("plain", 0)
    assert kept(course) == []
    assert alike(course.base("plain", 0), replace(course).base("plain", 0))
    assert trained.total() == 2


def killed(*_: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.parametrize("within", [(FineCourse, "_trained_base"), (Path, "replace")])
def test_a_killed_process_leaves_nothing_that_looks_finished(
    within: tuple[type, str],
    course: FineCourse,
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed in training, and before the written file has its name."""
    made = replace(course, continuation=replace(course.continuation, base_steps=5)).base("plain", 0)
    with monkeypatch.context() as patched:
        patched.setattr(FineCourse, "_trained_base", lambda *_: made)
        patched.setattr(*within, killed)
        child = multiprocessing.get_context("fork").Process(target=course.base, args=("plain", 0))
        child.start()
        child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert len(kept(course)) == 1
    assert not alike(made, course.base("plain", 0))
    assert trained.total() == len(kept(course)) == 2


def test_a_folder_that_cannot_be_written_is_told(course: FineCourse) -> None:
    assert course.corpus
    (course.folder.parent / BASES).write_text("in the way")
    with pytest.raises(HeadwayError, match=r"corpus: .*bases/plain-0-.* cannot be written"):
        course.base("plain", 0)


def test_the_file_says_what_it_is_made_of(course: FineCourse) -> None:
    base = course.base("plain", 0)
    [path] = kept(course)
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    assert float(about["loss"]) == base.loss
    assert course.corpus.description.train.sha256 in about["made_of"]
