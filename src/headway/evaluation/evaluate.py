"""What `headway eval` does: load a model, ask tasks and text, and write what came out."""

from __future__ import annotations

import json
import math
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from headway.errors import HeadwayError
from headway.files import write_atomically, writing_to
from headway.hosts.loading import device_of
from headway_settings import EvalSettings, __version__

RESULT = "eval.json"


def evaluate(settings: EvalSettings, command: str) -> dict[str, Any]:
    """Evaluate one model; with `settings.out`, write the result there as `eval.json`.

    What lm-eval prints goes to standard error.

    Returns:
        Plain data: the command, the model and its settings, versions, `tasks` (a list with the
        fields of `headway.evaluation.tasks.Score`) and `text` (the fields of `TextScore`, or
        None). A number that is not finite is None.

    Raises:
        HeadwayError: a setting that is not accepted, or a model, a task or a text that is not
            there. Names of tasks and the text are looked up before the model is loaded.
        ModuleNotFoundError: lm_eval or accelerate is not installed.
    """
    _check(settings)
    with redirect_stdout(sys.stderr):
        result = _evaluate(settings, command)
    if settings.out is not None:
        _write(settings.out, result)
    return result


def _evaluate(settings: EvalSettings, command: str) -> dict[str, Any]:
    from headway.evaluation.lm_eval_model import HeadwayLM
    from headway.evaluation.local_text import read_text, score_text
    from headway.evaluation.tasks import find_tasks, run_tasks

    source, text = settings.offline_text, None
    documents = [] if source is None else read_text(source, settings.limit)
    scores, found = [], None
    if settings.tasks:
        found = find_tasks(settings.tasks, settings.include_path)
    lm = HeadwayLM(
        settings.model,
        mechanisms=None if settings.mechanisms is None else str(settings.mechanisms),
        device=settings.device,
        dtype=settings.dtype,
        batch_size=settings.batch_size,
    )
    if source is not None:
        text = score_text(lm, documents, source)
    if found is not None:
        scores = run_tasks(lm, *found, limit=settings.limit, num_fewshot=settings.num_fewshot)
    return {
        "command": command,
        **_about(settings, lm),
        "tasks": [_plain(asdict(score)) for score in scores],
        "text": None if text is None else _plain(asdict(text)),
    }


def _check(settings: EvalSettings) -> None:
    if not settings.tasks and settings.offline_text is None:
        raise HeadwayError(
            "tasks: the list is empty; accepted are names of tasks, or a text with --offline-text"
        )
    device_of(settings.device)
    least = {"limit": 1, "batch_size": 1, "num_fewshot": 0}
    for field, bound in least.items():
        value = getattr(settings, field)
        if value is not None and value < bound:
            raise HeadwayError(f"{field}: value is {value}; accepted are {bound} and more")
    if settings.out is not None and settings.out.exists() and not settings.out.is_dir():
        raise HeadwayError(f"out: {str(settings.out)!r} is a file; accepted is a folder")


def _about(settings: EvalSettings, lm: Any) -> dict[str, Any]:
    from headway.hosts import attached

    config = lm.model.config
    own = config.model_type == "headway"
    mechanisms = config.mechanism_list() if own else attached(lm.model)
    return {
        "model": settings.model,
        "mechanisms": [mechanism.to_dict() for mechanism in mechanisms],
        "parameters": lm.model.num_parameters(),
        "context": lm.max_length,
        "device": str(lm.device),
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "batch_size": settings.batch_size,
        "limit": settings.limit,
        "num_fewshot": settings.num_fewshot,
        "versions": {
            "headway": __version__,
            **{name: version(name) for name in ("lm_eval", "torch", "transformers")},
        },
    }


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON knows neither infinity nor nan."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in fields.items()
    }


def _write(folder: Path, result: dict[str, Any]) -> None:
    with writing_to(folder):
        write_atomically(folder / RESULT, json.dumps(result, indent=2) + "\n")
