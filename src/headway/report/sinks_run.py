"""What `headway sinks` does: load a model, read text, profile, ask why, and write what came out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from headway.corpora import read_documents
from headway.corpora.cache import same_tokens
from headway.corpora.tokens import TokenCorpus, is_corpus
from headway.errors import HeadwayError
from headway.files import write_atomically, writing_to
from headway.hosts.loading import device_of
from headway.report.sinks_data import head_table, plain, profile_data
from headway.report.sinks_page import SinkReport, write_page
from headway.waiver.anatomy import sites_of
from headway.waiver.battery import Battery, run_battery
from headway.waiver.loading import load_for_profile
from headway.waiver.profile import Collector, SinkProfile
from headway.waiver.samples import Samples, check_length, enough_characters, sample_text
from headway.waiver.verdict import decide
from headway.waiver.watch import stack_of
from headway_settings import SinksSettings, __version__

PAGE, DATA, HEADS = "report.html", "profile.json", "heads.csv"
MOST_CHARACTERS = 8_000_000
"""Text that is read at most, where fewer are enough."""
BATCH_TOKENS = 2_048
"""Tokens of a forward pass where the number of its samples is not given."""


def find_sinks(settings: SinksSettings, command: str) -> SinkReport:
    """Profile a model and write `report.html`, `profile.json` and `heads.csv`.

    Args:
        settings: what to do.
        command: as it was typed.

    Raises:
        HeadwayError: a setting that is not accepted, or a model or text that is not there or does
            not fit.
    """
    _check(settings)
    model, tokenizer = load_for_profile(settings.model, settings.dtype, settings.device)
    stack_of(model)
    check_length(model, settings.tokens)
    samples = _samples(settings, tokenizer)
    input_ids = samples.input_ids.to(model.device)
    profile = _profile(settings, model, input_ids, tokenizer, samples.bos_added)
    battery = verdict = None
    if settings.battery:
        battery = _battery(settings, model, input_ids, tokenizer, profile)
        verdict = decide(battery)
    facts = _facts(settings, command, model, samples)
    report = SinkReport(profile, battery, verdict, facts)
    _write(settings, report)
    return report


def as_json(report: SinkReport) -> dict[str, Any]:
    """What `profile.json` holds."""
    battery, verdict = report.battery, report.verdict
    return {
        "facts": dict(report.facts),
        "verdict": None if verdict is None else plain(verdict.to_dict()),
        "battery": None if battery is None else plain(battery.to_dict()),
        "profile": profile_data(report.profile),
    }


def _check(settings: SinksSettings) -> None:
    device_of(settings.device)
    if not 0 < settings.threshold < 1:
        raise HeadwayError(
            f"threshold: value is {settings.threshold}; accepted are numbers between 0 and 1"
        )
    if settings.batch_size is not None and settings.batch_size < 1:
        raise HeadwayError(f"batch_size: value is {settings.batch_size}; accepted are 1 and more")
    if settings.out.exists() and not settings.out.is_dir():
        raise HeadwayError(f"out: {str(settings.out)!r} is a file; accepted is a folder")


def _batch_size(settings: SinksSettings) -> int:
    return settings.batch_size or max(1, BATCH_TOKENS // settings.tokens)


def _samples(settings: SinksSettings, tokenizer: Any) -> Samples:
    enough = enough_characters(settings.tokens, settings.samples)
    # The embedded text begins with prose, the documentation; more is read only where it is needed.
    most = enough if settings.text is None else max(enough, MOST_CHARACTERS)
    return sample_text(
        tokenizer,
        _documents(settings.text, tokenizer, most),
        settings.tokens,
        settings.samples,
        bos=settings.bos,
        seed=settings.seed,
    )


def _documents(text: str | None, tokenizer: Any, most: int) -> list[str]:
    """Of a text; of a built corpus its test split, in tokens that are the model's."""
    if text is None or not is_corpus(Path(text)):
        return read_documents(text, most)
    corpus = TokenCorpus.load(text)
    encoder = Tokenizer.from_str(corpus.tokenizer_json)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not same_tokens(encoder, backend):
        raise HeadwayError(
            f"text: {text!r} is a built corpus of another tokenizer than the model's; accepted are "
            "one of the same tokenizer, and raw text"
        )
    tokens = corpus.test[:most]
    parts = np.split(tokens, np.flatnonzero(tokens == corpus.eot))
    documents = [part[part != corpus.eot].tolist() for part in parts]
    return encoder.decode_batch([document for document in documents if document])


def _profile(
    settings: SinksSettings,
    model: PreTrainedModel,
    input_ids: Tensor,
    tokenizer: Any,
    bos_added: bool,
) -> SinkProfile:
    start = time.perf_counter()
    sites = sites_of(model, input_ids)
    batches = input_ids.split(_batch_size(settings))
    with (
        _bar("profile") as progress,
        Collector(model, sites, settings.threshold) as collector,
    ):
        for done, ids in enumerate(batches, start=1):
            collector.run(ids)
            progress(done, len(batches))
    say(f"profiled {len(sites)} attentions in {_since(start)}")
    return collector.profile(input_ids, tokenizer, bos_added)


def _battery(
    settings: SinksSettings,
    model: PreTrainedModel,
    input_ids: Tensor,
    tokenizer: Any,
    profile: SinkProfile,
) -> Battery:
    start = time.perf_counter()
    with _bar("interventions") as progress:
        battery = run_battery(
            model,
            input_ids,
            profile=profile,
            tokenizer=tokenizer,
            batch_size=_batch_size(settings),
            seed=settings.seed,
            progress=progress,
        )
    say(f"made {len(battery.effects)} measurements of interventions in {_since(start)}")
    return battery


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, told what is done and how much there is; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _since(start: float) -> str:
    return f"{time.perf_counter() - start:.1f} s"


def say(text: str) -> None:
    """One line on standard error."""
    print(text, file=sys.stderr, flush=True)


def _facts(
    settings: SinksSettings, command: str, model: PreTrainedModel, samples: Samples
) -> dict[str, str]:
    before, after = (" ".join(part) or "none" for part in (samples.before, samples.after))
    windows = f"windows of {settings.tokens:,} tokens"
    size = f"{model.num_parameters():,} parameters"
    return {
        "command": command,
        "model": f"{settings.model} ({model.config.model_type}, {size})",
        "text": settings.text or "Python's own documentation",
        "samples": f"{settings.samples:,} of {samples.windows:,} {windows}",
        "special tokens": f"in front: {before}; behind: {after}",
        "seed": str(settings.seed),
        "device": _device(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "versions": f"headway {__version__}, torch {torch.__version__}, "
        f"transformers {version('transformers')}",
    }


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _write(settings: SinksSettings, report: SinkReport) -> None:
    with writing_to(settings.out) as folder:
        write_page(report, folder / PAGE)
        write_atomically(folder / DATA, json.dumps(as_json(report)) + "\n")
        write_atomically(folder / HEADS, head_table(report.profile))
