"""The cost of a step: bytes counted by hand, times taken in turn."""

import time

import pytest
import torch

from headway.training.cost import PeakMemory, peak_bytes, step_times

CPU = torch.device("cpu")


def peak(work):
    memory = PeakMemory()
    with memory:
        kept = work()
    del kept
    return memory.peak


def test_what_is_alive_together_adds_up():
    def work():
        first = torch.zeros(100)  # 400 bytes
        second = torch.ones(50, dtype=torch.float64)  # 400 more
        third = first + 1  # 400 more
        return first, second, third

    assert peak(work) == 1200


def test_what_was_freed_counts_no_more():
    def work():
        first = torch.zeros(1000)  # 4000
        del first
        second = torch.zeros(500)  # 2000, alone
        third = second * 2  # 2000 more
        del second
        return third.sum()  # 2000 + 4

    assert peak(work) == 4000


def test_views_and_changes_in_place_are_no_memory():
    def work():
        first = torch.zeros(10, 10)
        second = first.view(100)[:50].unsqueeze(0)
        first.add_(1)
        return first.t(), second

    assert peak(work) == 400


def test_what_was_there_before_is_not_counted():
    weight, x = torch.ones(30, 20), torch.ones(5, 20)

    def work():
        y = torch.nn.functional.linear(x, weight)  # 5 x 30, reads a view of the weight
        weight.mul_(0.5)
        x.view(-1)
        return y

    assert peak(work) == 5 * 30 * 4


def test_the_backward_pass_is_followed():
    weight = torch.ones(1000, requires_grad=True)

    def work():
        loss = (weight * 3).exp().sum()
        loss.backward()

    # exp's result, kept for its gradient, which is as large; the loss and the loss's gradient.
    assert peak(work) == 4000 + 4000 + 4 + 4
    assert weight.grad is not None


def test_the_peak_of_a_step_stands_on_what_lies_there_before():
    assert peak_bytes(lambda: torch.zeros(250), 500, CPU) == 1500


def test_times_are_taken_in_turn_after_warming():
    calls = []

    def step(name, seconds):
        def run():
            calls.append(name)
            time.sleep(seconds)

        return run

    steps = {"slow": step("slow", 0.004), "quick": step("quick", 0.0)}
    times = step_times(steps, CPU, rounds=3, warm=2)
    assert calls == ["slow", "quick"] * 5
    assert list(times) == ["slow", "quick"]
    assert [len(t) for t in times.values()] == [3, 3]
    assert min(times["slow"]) >= 0.004
    assert all(t >= 0 for t in times["quick"])


@pytest.mark.parametrize("rounds", [1, 4])
def test_as_many_times_as_rounds(rounds):
    times = step_times({"only": lambda: None}, CPU, rounds, warm=0)
    assert len(times["only"]) == rounds
