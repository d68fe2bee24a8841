"""What holds for every task: seeds, shapes, ranges, speed."""

from __future__ import annotations

import pytest
import torch
from chances import seeded

from headway import HeadwayError
from headway.tasks import IGNORED, IndirectObject, Passkey, Task, Words, accuracy, loss
from headway.tasks.__main__ import every_task, main, rate

TASKS = every_task()
EACH = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def answers_of(task: Task) -> int:
    """How many answers there are: what the last dimension of logits would be."""
    for name in ("vocab_size", "labels", "classes", "nodes"):
        if hasattr(task, name):
            return int(getattr(task, name))
    assert isinstance(task, Passkey | IndirectObject)
    assert isinstance(task.encode, Words)
    return task.encode.vocab_size


@EACH
def test_a_seed_is_a_sample(task: Task) -> None:
    one, same, other = (task.sample(6, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(one.inputs, same.inputs)
    assert torch.equal(one.targets, same.targets)
    assert all(torch.equal(one.slices[k], same.slices[k]) for k in one.slices)
    assert not torch.equal(one.inputs, other.inputs)


@EACH
def test_the_generator_moves_on_and_no_other_does(task: Task) -> None:
    generator = seeded(3)
    before = torch.get_rng_state()
    first, second = task.sample(6, generator), task.sample(6, generator)
    assert not torch.equal(first.inputs, second.inputs)
    assert torch.equal(torch.get_rng_state(), before)


@EACH
def test_shapes_and_ranges(task: Task) -> None:
    sample = task.sample(40, seeded(4))
    assert sample.targets.shape in (sample.inputs.shape[:1], sample.inputs.shape[:2])
    assert sample.targets.dtype == torch.long
    asked = sample.targets[sample.scored]
    assert len(asked) >= 40
    assert asked.min() >= 0
    assert asked.max() < answers_of(task)
    assert (sample.targets[~sample.scored] == IGNORED).all()
    if sample.inputs.dim() == 2:
        assert sample.inputs.dtype == torch.long
        assert sample.inputs.min() >= 0
        assert sample.inputs.max() < answers_of(task)
    else:
        assert sample.inputs.dtype == torch.float32
    for part in sample.slices.values():
        assert part.dtype == torch.bool
        assert part.shape == sample.targets.shape


@EACH
def test_right_logits_are_right(task: Task) -> None:
    sample = task.sample(4, seeded(5))
    logits = torch.nn.functional.one_hot(sample.targets.clamp(min=0), answers_of(task)) * 30.0
    assert loss(logits, sample) < 1e-3
    assert accuracy(logits, sample)["all"] == 1
    assert accuracy(logits.roll(1, -1), sample)["all"] == 0


@EACH
def test_single_precision_whatever_the_default(task: Task) -> None:
    if isinstance(task, Passkey | IndirectObject):
        return
    expected = task.sample(2, seeded(6)).inputs
    torch.set_default_dtype(torch.float64)
    try:
        assert task.sample(2, seeded(6)).inputs.dtype == expected.dtype
    finally:
        torch.set_default_dtype(torch.float32)


@EACH
def test_a_million_tokens_a_second_on_one_core(task: Task) -> None:
    """The best of short repetitions, no more than needed: a busy neighbour slows some, not all."""
    torch.set_num_threads(1)  # as in all tests; the processor time of several is added up
    assert any(rate(task, 0.02) > 1e6 for _ in range(50))


def test_the_table_names_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    main(seconds=0.01)
    torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [task.name for task in TASKS]
    assert all(line.endswith(" M") for line in lines[1:])


def test_names_are_those_of_their_files() -> None:
    for task in TASKS:
        assert type(task).__module__ == f"headway.tasks.{task.name}"


@EACH
def test_words_are_no_numbers(task: Task) -> None:
    number = {"graph": "nodes", "denoise": "noise", "ioi": "pad"}.get(task.name, "length")
    number = "width" if task.name == "classification" else number
    given = {"encode": Words()} if hasattr(task, "encode") else {}
    with pytest.raises(HeadwayError, match=rf"{task.name}\.{number}: 'many' is not accepted"):
        type(task)(**given, **{number: "many"})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@EACH
def test_samples_lie_on_the_device_of_the_generator(task: Task) -> None:
    def drawn() -> torch.Generator:
        return torch.Generator("cuda").manual_seed(1)

    one, same = task.sample(40, drawn()), task.sample(40, drawn())
    assert torch.equal(one.inputs, same.inputs)
    assert torch.equal(one.targets, same.targets)
    tensors = [one.inputs, one.targets, *one.slices.values()]
    assert {t.device.type for t in tensors} == {"cuda"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@EACH
def test_drawing_on_a_gpu_waits_for_nothing(task: Task) -> None:
    """Else a race of many seeds waits hundreds of times a step, and long where a GPU is shared."""
    if task.name in ("passkey", "ioi"):
        pytest.skip("its words are encoded on the CPU")
    generator = torch.Generator("cuda").manual_seed(1)
    task.sample(8, generator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        task.sample(8, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
