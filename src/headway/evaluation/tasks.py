"""lm-eval's tasks by name: which there are, and the numbers of a model on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from headway.errors import HeadwayError


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number on one task."""

    task: str
    metric: str
    """As lm-eval names it; with ' (filter)' behind it where answers were filtered."""
    value: float
    stderr: float | None
    """Standard error, None where lm-eval gives none."""
    examples: int | None
    """How many were asked, None for a group."""


def find_tasks(names: Sequence[str], include_path: Path | None) -> tuple[Any, list[str]]:
    """lm-eval's TaskManager and the names of the tasks, groups and tags that `names` mean.

    Args:
        names: of tasks, groups or tags; `*` and `?` stand for any characters.
        include_path: folder with task files (YAML) of one's own; its names go first.

    Raises:
        HeadwayError: no such folder, or a name that nothing has.
    """
    from lm_eval.tasks import TaskManager

    if include_path is not None and not include_path.is_dir():
        raise HeadwayError(
            f"include_path: {str(include_path)!r} is no folder; accepted is one with task files"
        )
    own = None if include_path is None else str(include_path)
    manager = TaskManager(include_path=own)
    return manager, [task for name in names for task in _matching(name, manager.all_tasks)]


def run_tasks(
    lm: Any,
    manager: Any,
    names: Sequence[str],
    *,
    limit: int | None,
    num_fewshot: int | None,
) -> list[Score]:
    """The numbers of a model on tasks, in lm-eval's order.

    Args:
        lm: an lm-eval model.
        manager: of `find_tasks`, and `names` too.
        limit: at most as many examples a task.
        num_fewshot: solved examples before each question; None for what the task says.

    Raises:
        HeadwayError: a task whose data or packages are not there, or that runs unsafe code.
    """
    from datasets.exceptions import DatasetsError
    from lm_eval import simple_evaluate

    where = f"tasks: {', '.join(names)}"
    try:
        results = simple_evaluate(
            lm,
            tasks=list(names),
            task_manager=manager,
            limit=limit,
            num_fewshot=num_fewshot,
            batch_size=lm.batch_size,
            log_samples=False,
        )
    except (ConnectionError, FileNotFoundError, DatasetsError) as error:
        said = str(error).partition("\n")[0].rstrip(".")
        raise HeadwayError(
            f"{where} cannot be read ({said}); accepted are tasks whose data is on this machine "
            "or can be fetched"
        ) from error
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "headway":
            raise
        raise HeadwayError(f"{where} needs the package {error.name}, which is missing") from error
    except ValueError as error:
        if "marked as unsafe" not in str(error):
            raise
        raise HeadwayError(
            f"{where} runs code that the model writes; accepted are tasks that run none"
        ) from error
    return _scores(results)


def _matching(name: str, known: Sequence[str]) -> list[str]:
    found = [name] if name in known else [task for task in known if fnmatchcase(task, name)]
    if not found:
        close = ", ".join(get_close_matches(name, known))
        accepted = (
            f"close to it are {close}" if close else "accepted is what lm_eval ls tasks lists"
        )
        raise HeadwayError(f"tasks: {name!r} is not known; {accepted}")
    return found


def _scores(results: dict[str, Any]) -> list[Score]:
    """One row a metric, from the dictionary of `simple_evaluate`."""
    scores = []
    asked = results["n-samples"]
    for task, numbers in (results["results"] | results.get("groups", {})).items():
        for key, value in numbers.items():
            metric, comma, kind = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = numbers.get(f"{metric}_stderr,{kind}")
            scores.append(
                Score(
                    task=task,
                    metric=metric if kind == "none" else f"{metric} ({kind})",
                    value=float(value),
                    stderr=float(stderr) if isinstance(stderr, int | float) else None,
                    examples=asked[task]["effective"] if task in asked else None,
                )
            )
    return scores
