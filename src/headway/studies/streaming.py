"""What `headway stream` does: read one long text in several ways, and keep what came out."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headway.corpora import read_documents
from headway.errors import HeadwayError
from headway.evaluation.loading import load_for_evaluation
from headway.files import write_atomically, writing_to
from headway.studies.provenance import header
from headway.waiver.cache import PROFILED, positions_to_keep
from headway.waiver.profile import profile_sinks
from headway.waiver.stream import RECOMPUTE, WAIVERS, Reading, affordable_stride, read_stream
from headway_settings import StreamSettings

RESULTS = "results.json"
BINS = 42
"""Points of the curve along the text."""
TARGET = 1.05
"""Most that kept tokens and a window may cost, as a ratio of perplexities to 'recompute'."""
CHARACTERS = 64
"""Characters read for each token asked for, which is more than any tokenizer puts into one."""


def stream(settings: StreamSettings, command: str) -> dict[str, Any]:
    """Read a text, and write `results.json` into the folder `settings.out`.

    Returns:
        Plain data: where it came from, the model, what was kept, and `ways`, each with perplexity
        over the tokens behind the first `sees` ones, its ratio to 'recompute', tokens a second,
        bytes of the cache and the curve along the text. A number that is not finite is None.

    Raises:
        HeadwayError: a setting, a text or a model that is not accepted.
    """
    _check(settings)
    documents = read_documents(settings.text, CHARACTERS * settings.tokens + 1_000_000)
    model, tokenizer = load_for_evaluation(
        settings.model, dtype=settings.dtype, device=settings.device
    )
    ids = _tokens(settings, tokenizer, documents).to(model.device)
    keep = _positions(settings, model, ids)
    started = time.perf_counter()

    def say(line: str) -> None:
        print(f"[{time.perf_counter() - started:5.0f} s] reading: {line}", file=sys.stderr)

    held = settings.window + len(keep)
    stride = settings.stride or affordable_stride(model, len(ids), held)
    readings = list(read_stream(model, ids, settings.window, keep, stride, settings.seed, say))
    about = header(settings, command, model.device, {})
    del about["arms"]
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    results = {
        **about,
        "model": {
            "name": settings.model,
            "parameters": model.num_parameters(),
            "context": context,
            "dtype": str(model.dtype).removeprefix("torch."),
        },
        "tokens": len(ids),
        "first_token": tokenizer.decode(ids[:1]),
        "kept": list(keep),
        "stride": stride,
        "ways": _ways(readings, held),
        "target": TARGET,
    }
    _write(settings.out, results)
    return results


def _check(settings: StreamSettings) -> None:
    least = {"window": 2, "tokens": 2, "stride": 1}
    for name, bound in least.items():
        value = getattr(settings, name)
        if value is not None and value < bound:
            raise HeadwayError(f"{name}: value is {value}; accepted are {bound} and more")
    if settings.keep != "auto":
        positions_to_keep(settings.keep, settings.window)
    if settings.out.exists() and not settings.out.is_dir():
        raise HeadwayError(f"out: {str(settings.out)!r} is a file; accepted is a folder")


def _tokens(settings: StreamSettings, tokenizer: Any, documents: list[str]) -> Tensor:
    """The first tokens of the text, `(N,)`, begun as the tokenizer begins a text."""
    found = tokenizer("\n\n".join(documents), verbose=False).input_ids
    if len(found) < settings.tokens:
        read = f"the text {settings.text!r}" if settings.text else "the text of Python's sources"
        raise HeadwayError(
            f"tokens: {settings.tokens} are asked for, and {read} gives {len(found)}; accepted are "
            "at most as many, or a longer text"
        )
    return torch.tensor(found[: settings.tokens])


def _positions(settings: StreamSettings, model: Any, ids: Tensor) -> tuple[int, ...]:
    if settings.keep != "auto":
        return positions_to_keep(settings.keep, settings.window)
    if len(ids) < PROFILED:
        raise HeadwayError(
            f"tokens: 'auto' looks for waivers in {PROFILED} tokens; accepted are as many and more"
        )
    return positions_to_keep(profile_sinks(model, ids[None, :PROFILED]), settings.window)


def _ways(readings: list[Reading], held: int) -> list[dict[str, Any]]:
    upper = next(r.nats for r in readings if r.way == RECOMPUTE)
    assert upper is not None
    ways = []
    for reading in readings:
        nats, ratio, perplexity, speed = reading.nats, None, None, None
        curve: dict[str, list[Any]] = {"token": [], "perplexity": []}
        if nats is not None:
            perplexity = _exp(float(nats[held:].mean()))
            ratio = _exp(float((nats - upper)[held:].mean()))
            speed = len(nats) / reading.seconds
            end = 0
            for part in nats.tensor_split(min(BINS, len(nats))):
                end += len(part)
                curve["token"].append(end - len(part) // 2)
                curve["perplexity"].append(_exp(float(part.mean())))
        ways.append(
            {
                "way": reading.way,
                "kept": list(reading.kept),
                "sees": reading.sees,
                "perplexity": perplexity,
                "ratio": ratio,
                "tokens_per_second": speed,
                "cache_bytes": reading.bytes,
                "reason": reading.reason,
                "curve": curve,
            }
        )
    return ways


def _exp(nats: float) -> float | None:
    """JSON knows neither infinity nor nan."""
    return math.exp(nats) if math.isfinite(nats) and nats < 700 else None


def _write(folder: Path, results: dict[str, Any]) -> None:
    with writing_to(folder):
        write_atomically(folder / RESULTS, json.dumps(results, indent=1) + "\n")


def verdict(results: dict[str, Any]) -> str:
    """One sentence: what kept tokens and a window cost, against the target."""
    by_way = {way["way"]: way for way in results["ways"]}
    context = results["model"]["context"]
    length = f"{results['tokens']:,} tokens"
    if context:
        length += f" ({results['tokens'] / context:.1f} times the trained context)"
    kept = results["kept"]
    tokens = "1 kept token" if len(kept) == 1 else f"{len(kept)} kept tokens"
    who = f"{tokens} and the window" if kept else "the window, with nothing kept,"
    ratio = by_way[WAIVERS]["ratio"]
    if ratio is None:
        return f"Over {length}, {who} gave no finite perplexity."
    met = "met" if ratio <= results["target"] else "missed"
    target = f"at most {100 * (results['target'] - 1):.0f} % above it"
    sees = by_way[WAIVERS]["sees"]
    wide = ""
    if context and sees > context:
        wide = f" It sees {sees:,} tokens at once, and was trained on {context:,}: give a smaller "
        wide += "--window."
    return (
        f"Over {length}, {who} read with {ratio:.3f} times the perplexity of a recomputed window; "
        f"the target, {target}, is {met}.{wide}"
    )
