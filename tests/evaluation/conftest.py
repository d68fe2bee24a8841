"""Evaluation needs lm-eval; its own tasks, which take seconds to index, stay out of most tests."""

from functools import partial

import pytest

lm_eval_tasks = pytest.importorskip("lm_eval.tasks", reason="needs the package lm_eval")


@pytest.fixture
def own_tasks_only(monkeypatch):
    short = partial(lm_eval_tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval_tasks, "TaskManager", short)


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """lm-eval resamples for standard errors on all cores otherwise."""
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
