"""What a retrofit found: perplexities of both arms, and their paired difference."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from headway.errors import HeadwayError
from headway.files import write_atomically
from headway.report import words
from headway.report.statistics import (
    BETTER,
    CONFIDENCE,
    TOO_FEW,
    WORSE,
    PairedDifference,
    paired_difference,
    verdict,
)
from headway.studies.retrofit.model import saved_name

CONTROL, MECHANISM = "control", "mechanism"
"""The arms: fine-tuned without and with the mechanisms."""


def summarise(folder: Path) -> dict[str, Any]:
    """The summary of a retrofit's folder, as plain data.

    Losses are in nats per token on the validation split; a perplexity is `exp(loss)`, and an arm's
    numbers are means over its seeds. Differences are mechanism less control after training, by
    seed; a negative one is a lower loss.

    Raises:
        HeadwayError: the folder holds no retrofit.
    """
    try:
        run = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise HeadwayError(f"out: {folder} holds no results of headway retrofit") from error
    finishes = [r for r in map(json.loads, lines) if r["kind"] == "finish"]
    by_arm = {arm: [r for r in finishes if r["arm"] == arm] for arm in (CONTROL, MECHANISM)}
    losses = {arm: _by_seed(rows, "loss_after") for arm, rows in by_arm.items()}
    difference = paired_difference(losses[MECHANISM], losses[CONTROL])
    arms = {arm: _arm(rows) for arm, rows in by_arm.items()}
    found = verdict(difference, difference.p)
    return {
        "headline": _headline(run["settings"], arms, difference, found),
        "remarks": _remarks(run["settings"], arms, by_arm),
        "verdict": found,
        "difference": {
            "loss": asdict(difference),
            "perplexity": asdict(paired_difference(*map(_perplexities, _pair(losses)))),
        },
        "arms": arms,
        "mechanisms": run["arms"][MECHANISM],
        "saved": _saved(run["settings"], by_arm[MECHANISM]),
        **{key: run[key] for key in ("settings", "command", "versions", "device", "started")},
    }


def write_summary(folder: Path, summary: Mapping[str, Any]) -> Path:
    """Write `summary.json` into the folder; a reader never sees half of it."""
    return write_atomically(folder / "summary.json", json.dumps(summary, indent=1) + "\n")


def _arm(rows: list[dict[str, Any]]) -> dict[str, Any]:
    done = [r for r in rows if r["status"] == "done"]
    before, after = _by_seed(rows, "loss_before"), _by_seed(rows, "loss_after")
    return {
        "loss_before": _mean(before),
        "loss_after": _mean(after),
        "perplexity_before": _mean(_perplexities(before)),
        "perplexity_after": _mean(_perplexities(after)),
        "tokens_per_second": _mean(_by_seed(rows, "tokens_per_second")),
        **{k: rows[0][k] for k in ("parameters", "added_parameters", "trained_parameters")},
        "steps": max((r["step"] for r in done), default=0),
        "tokens": max((r["tokens"] for r in done), default=0),
        "seeds": {str(r["seed"]): {k: r[k] for k in ("loss_before", "loss_after")} for r in done},
        "diverged": [r["seed"] for r in rows if r["status"] == "diverged"],
    }


def _by_seed(rows: list[dict[str, Any]], field: str) -> dict[int, float]:
    """A number of the runs that ended well and have it."""
    return {r["seed"]: r[field] for r in rows if r["status"] == "done" and r[field] is not None}


def _perplexities(losses: Mapping[int, float]) -> dict[int, float]:
    return {seed: math.exp(loss) for seed, loss in losses.items()}


def _pair(losses: Mapping[str, dict[int, float]]) -> tuple[dict[int, float], dict[int, float]]:
    return losses[MECHANISM], losses[CONTROL]


def _mean(values: Mapping[int, float]) -> float | None:
    return fmean(values.values()) if values else None


def _saved(settings: Mapping[str, Any], rows: list[dict[str, Any]]) -> str | None:
    """The folder of the first seed's model or mechanisms, within the results."""
    ended = any(r["seed"] == 0 and r["status"] == "done" for r in rows)
    return saved_name(settings["train"]) if ended else None


def _headline(
    settings: Mapping[str, Any],
    arms: Mapping[str, dict[str, Any]],
    difference: PairedDifference,
    found: str,
) -> str:
    """The sentence that stands above everything else."""
    untrained = not settings["steps"]
    rival = (
        "the untouched model" if untrained or settings["train"] == "mechanism"
        else "the same fine-tuning without mechanisms"
    )  # fmt: skip
    stands = "starts" if untrained else "ends"
    name, seeds = settings["mechanisms"], len(difference.differences)
    if difference.mean is None:
        return f"Nothing can be said about {name}: no seed ended in both arms."
    shown = " and ".join(f"{arms[arm]['perplexity_after']:.3f} ({arm})" for arm in arms)
    if found == TOO_FEW:
        return (
            f"Nothing can be said about {name} beyond doubt: one pair of seeds has no interval; "
            f"the validation perplexities are {shown}."
        )
    size = (
        f"{words.signed(difference.mean)} nats per token, {100 * CONFIDENCE:.0f}% interval "
        f"{words.interval(difference.low, difference.high)}, {seeds} paired seeds"
    )
    said = {
        BETTER: f"{name} {stands} below {rival}",
        WORSE: f"{name} {stands} above {rival}",
    }.get(found, f"{name} is not separable from {rival}")
    return f"{said}: validation perplexity {shown} ({size})."


def _remarks(
    settings: Mapping[str, Any],
    arms: Mapping[str, dict[str, Any]],
    by_arm: Mapping[str, list[dict[str, Any]]],
) -> list[str]:
    """What the headline needs beside it."""
    control, mechanism = arms[CONTROL], arms[MECHANISM]
    told = []
    if not settings["steps"]:
        told.append("Nothing was trained: both arms are as they start.")
    elif settings["train"] == "mechanism":
        told.append(
            "Only the mechanism was trained, so the control has nothing to train and is the "
            "untouched model: the difference holds what any training on this text would bring."
        )
    elif control["perplexity_after"] is not None:
        told.append(
            f"Fine-tuning alone took the control from {control['perplexity_before']:.3f} to "
            f"{control['perplexity_after']:.3f}."
        )
    starts = control["perplexity_before"], mechanism["perplexity_before"]
    if None not in starts and abs(starts[1] / starts[0] - 1) > 1e-3:
        told.append(
            f"Attaching alone moved the perplexity from {starts[0]:.3f} to {starts[1]:.3f}, as "
            "the mechanisms did not start as the identity."
        )
    lost = sum(len(arm["diverged"]) for arm in arms.values())
    if lost:
        runs = sum(map(len, by_arm.values()))
        told.append(f"{lost} of {runs} runs diverged and are left out, with their pairs.")
    return told
