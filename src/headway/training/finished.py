"""What a finished run leaves: a pretrained folder with its card, and the results."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from headway.corpora.storage import new_folder
from headway.files import write_atomically
from headway.training import checkpoint
from headway.training.blueprint import Blueprint
from headway.training.metrics_file import read_metrics
from headway.training.model_card import model_card
from headway.training.run_folder import MODEL, RESULTS, RUN


def finish(blueprint: Blueprint, command: str) -> None:
    """Write the model of the last checkpoint as transformers does, its card, and the results.

    The model is built anew on the CPU and read from the checkpoint, so that it is whole however
    many processes trained it. The results come last: they say that the run is finished.

    Args:
        blueprint: of the model.
        command: that trained it.
    """
    out = blueprint.settings.out
    model: Any = blueprint.build("sdpa")
    checkpoint.load_weights(checkpoint.checkpoints(out)[-1], model, alone=True)
    lines = read_metrics(out)
    losses = [line["loss"] for line in lines if "loss" in line]
    measured = [line for line in lines if "validation/loss" in line]
    results = {
        **(measured[-1] if measured else {}),
        "step": blueprint.settings.steps,
        "tokens": blueprint.settings.steps
        * blueprint.settings.batch_size
        * blueprint.settings.context,
        "parameters": model.num_parameters(),
        "loss": losses[-1] if losses else None,
    }
    run = json.loads((out / RUN).read_text(encoding="utf-8"))
    # What a process left that was killed between here and the results.
    shutil.rmtree(out / MODEL, ignore_errors=True)
    with new_folder(out / MODEL) as unfinished:
        _save(model, unfinished)
        blueprint.tokenizer.save_pretrained(unfinished)
        card = model_card(blueprint, model, run, results, command)
        (unfinished / "README.md").write_text(card, encoding="utf-8")
        for file in unfinished.iterdir():
            file.chmod(0o644)  # safetensors leaves its files to their owner alone
    write_atomically(out / RESULTS, json.dumps(results, indent=1) + "\n")


def _save(model: Any, folder: Path) -> None:
    """As transformers does; a full disk is told as the operating system tells it."""
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:
        if "No space left" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error


def told_results(out: Path) -> str:
    """What a finished run says at its end."""
    results = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    loss = results.get("validation/loss")
    held = "" if loss is None else f", validation loss {loss:.4f}"
    return (
        f"finished: {results['step']:,} steps, {results['tokens']:,} tokens{held}\n"
        f"The model: {out / MODEL}"
    )
