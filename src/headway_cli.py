"""The command line: verbs only.

Help and a refusal must come at once, so nothing here imports `headway` (and with it torch) before
the words typed are understood.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NamedTuple, Union, cast

import headway_help as texts
from headway_plan_settings import PlanSettings
from headway_settings import (
    BenchSettings,
    CompareSettings,
    CorpusBuildSettings,
    CorpusRenderSettings,
    EvalSettings,
    ReportSettings,
    RetrofitSettings,
    SinksSettings,
    StreamSettings,
    StudySettings,
    __version__,
)
from headway_train_settings import TrainSettings, WrongConfig, settings_before_flags, to_toml
from headway_words import HELP, wrong_words

EXTRAS = frozenset(
    {"tyro", "rich", "plotly", "jinja2", "scipy", "tokenizers", "datasets", "zstandard", "peft"}
    | {"lm_eval", "accelerate", "symusic", "soundfile", "sklearn"}
)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, unwinding like Ctrl-C so that what is half done is cleaned up."""


def _terminating(process: int) -> Callable[[int, FrameType | None], None]:
    """A handler that unwinds `process`; a fork of it, which inherits the handler, dies at once."""

    def terminate(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != process:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        raise _Terminated

    return terminate


def _parse(words: Sequence[str]) -> Any:
    """The settings that the words ask for; help and a refusal leave through SystemExit."""
    import tyro

    # tyro does not know NO_COLOR.
    tyro._experimental_options["ansi_codes"] = not os.environ.get("NO_COLOR")

    inner = list(words[:1]) == ["corpus"]
    verbs, prog = (CORPUS_VERBS, "headway corpus") if inner else (VERBS, "headway")
    typed = list(words[1:] if inner else words)
    known = {verb.name: verb.settings for verb in verbs}
    if not HELP.isdisjoint(typed):
        typed = [*(word for word in typed[:1] if word in known), "--help"]
    elif refusal := wrong_words(typed, known, prog, paired=("train",)):
        sys.exit(_refuse(refusal))
    trains = list(words[:1]) == ["train"]
    before = _before_flags(words[1:] if trains else ())
    # What a preset or a file switches on, a flag must be able to switch off, and back.
    switches = () if trains else (tyro.conf.FlagCreatePairsOff,)

    def form(verb: Verb) -> Any:
        """The whole text in the verb's own help, its first line in the list of verbs."""
        text = verb.text if verb.name in words else verb.text.partition("\n")[0]
        options: dict[str, Any] = {"default": before} if verb.name == "train" else {}
        marked = tyro.conf.subcommand(verb.name, description=text, **options)
        return Annotated[verb.settings, marked]

    return tyro.cli(
        cast(Any, Union[tuple(form(verb) for verb in verbs)]),  # noqa: UP007
        prog=prog,
        description=texts.CORPUS if inner else texts.ABOUT,
        args=typed,
        config=(tyro.conf.PositionalRequiredArgs, *switches),
    )


def _before_flags(words: Sequence[str]) -> TrainSettings:
    """What flags of `headway train` then change; a refusal leaves through SystemExit."""
    try:
        return settings_before_flags(words)
    except WrongConfig as refusal:
        sys.exit(_refuse(str(refusal)))


def _compare(settings: CompareSettings, command: str) -> None:
    from headway.studies.comparison.compare import compare

    compare(settings, command)
    _show(settings.out, "json" if settings.json else "table")


def _report(settings: ReportSettings, command: str) -> None:
    _show(settings.folder, settings.format)


def _retrofit(settings: RetrofitSettings, command: str) -> None:
    from rich.console import Console

    from headway.studies.retrofit.run import retrofit
    from headway.studies.retrofit.table import print_retrofit

    summary = retrofit(settings, command)
    if settings.json:
        print(json.dumps(summary, indent=1))
    else:
        print_retrofit(summary, settings.out, Console())


def _train(settings: TrainSettings, command: str) -> None:
    if settings.print_config:
        print(to_toml(settings), end="")
        return
    # transformers' Trainer imports bitsandbytes, which warns of kernels for weights in 4 bits.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from headway.training.train_run import train_model

    train_model(settings, command)


def _show(folder: Path, form: str) -> None:
    from rich.console import Console

    from headway.report.page import write_report
    from headway.report.summary import summarise, write_summary
    from headway.report.tables import markdown, print_tables

    summary = summarise(folder)
    write_summary(folder, summary)
    page = write_report(folder)
    match form:
        case "json":
            print(json.dumps(summary, indent=1))
        case "markdown":
            print(markdown(summary), end="")
        case _:
            print_tables(summary, Console())
            print(f"\nThe page: {page}")


def _eval(settings: EvalSettings, command: str) -> None:
    from rich.console import Console

    from headway.evaluation.evaluate import evaluate
    from headway.evaluation.table import print_result

    result = evaluate(settings, command)
    if settings.json:
        print(json.dumps(result, indent=2))
    else:
        print_result(result, Console())


def _study(settings: StudySettings, command: str) -> None:
    from headway.files import writing_to
    from headway.report.tables import plain_lines
    from headway.studies.catalogue import listing, study_named
    from headway.studies.running import only_drawing

    if settings.draw:
        only_drawing(settings)
    if settings.list:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(listing(settings.out or Path("runs"), settings.name, width))
        return
    name, study = study_named(settings.name)
    folder = settings.out or Path("runs", name)
    asked = replace(settings, out=folder)
    results = study.held(asked) if settings.draw else study.perform(asked, command)
    page = None
    if settings.page:
        with writing_to(folder):
            page = study.page(folder, results)
    if settings.json:
        print(json.dumps(study.plain(results), indent=1))
        return
    print("\n".join(plain_lines(study.table(results))))
    if settings.draw:
        print(f"\n{name}: {study.state(folder)}")
    if page is not None:
        print(f"\nThe page: {page}")


def _plan(settings: PlanSettings, command: str) -> None:
    from headway.planning.table import plain, plan_table, planned
    from headway.report.tables import markdown_table, plain_lines

    rows = planned(settings)
    match settings.format:
        case "json":
            print(json.dumps(plain(rows), indent=1))
        case "markdown":
            print(markdown_table(plan_table(rows, settings)), end="")
        case _:
            print("\n".join(plain_lines(plan_table(rows, settings))))


def _sinks(settings: SinksSettings, command: str) -> None:
    from rich.console import Console

    from headway.report.sinks_run import as_json, find_sinks
    from headway.report.sinks_table import print_report

    report = find_sinks(settings, command)
    if settings.json:
        print(json.dumps(as_json(report), indent=1))
    else:
        print_report(report, settings.out, Console())


def _stream(settings: StreamSettings, command: str) -> None:
    from headway.report.stream_page import remarks, stream_table, write_stream_page
    from headway.report.tables import plain_lines
    from headway.studies.streaming import stream, verdict

    results = stream(settings, command)
    page = write_stream_page(settings.out, results)
    if settings.json:
        print(json.dumps(results, indent=1))
        return
    table = stream_table(results)
    print("\n".join((verdict(results), *remarks(results), "", f"{table.title}:")))
    print("\n".join(plain_lines(table)))
    print(f"\nThe page: {page}")


def _bench(settings: BenchSettings, command: str) -> None:
    from rich.console import Console

    from headway.bench.catalogue import measure
    from headway.bench.results import print_lines, to_json

    lines = []
    try:
        with _told():
            for line in measure(settings):
                print(f"{line.name}: {line.value:.4g}", file=sys.stderr, flush=True)
                lines.append(line)
    finally:
        # What was measured before something broke is told too; of several processes one tells.
        if lines and settings.json:
            print(json.dumps(to_json(settings.name, command, lines), indent=1))
        elif lines:
            print_lines(lines, Console())


@contextmanager
def _told() -> Iterator[None]:
    """Which kernels run is printed when they are first taken."""
    logger, handler = logging.getLogger("headway"), logging.StreamHandler(sys.stderr)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _corpus_build(settings: CorpusBuildSettings, command: str) -> None:
    from headway.corpora.build import build
    from headway.corpora.progress import BuildProgress

    with BuildProgress() as progress:
        corpus = build(settings, progress)
    told = corpus.description
    for split in ("train", "validation", "test"):
        held, tokens = getattr(told, split), len(getattr(corpus, split))
        hours = f", {held.seconds / 3600:.2f} hours" if held.seconds else ""
        print(f"{split:10} {tokens:>13,} tokens, {held.documents:,} documents{hours}")
    for skipped in told.skipped:
        print(f"skipped {skipped.file}: {skipped.reason}")
    if told.left_out:
        print(f"documents left out: {told.left_out:,} (empty, at least to the tokenizer)")
    print(f"\nThe corpus: {settings.out}, {corpus.vocab_size} symbols")


def _corpus_render(settings: CorpusRenderSettings, command: str) -> None:
    from headway.corpora.render import render

    print(render(settings))


class Verb(NamedTuple):
    """One verb: its settings, its help, and what it does with settings and the command typed."""

    name: str
    settings: type[Any]
    text: str
    perform: Callable[[Any, str], None]


VERBS = (
    Verb("compare", CompareSettings, texts.COMPARE, _compare),
    Verb("train", TrainSettings, texts.TRAIN, _train),
    Verb("report", ReportSettings, texts.REPORT, _report),
    Verb("bench", BenchSettings, texts.BENCH, _bench),
    Verb("retrofit", RetrofitSettings, texts.RETROFIT, _retrofit),
    Verb("eval", EvalSettings, texts.EVAL, _eval),
    Verb("stream", StreamSettings, texts.STREAM, _stream),
    Verb("sinks", SinksSettings, texts.SINKS, _sinks),
    Verb("study", StudySettings, texts.STUDY, _study),
    Verb("plan", PlanSettings, texts.PLAN, _plan),
    Verb("corpus", CorpusBuildSettings, texts.CORPUS, _corpus_build),  # its own verbs follow
)
CORPUS_VERBS = (
    Verb("build", CorpusBuildSettings, texts.BUILD, _corpus_build),
    Verb("render", CorpusRenderSettings, texts.RENDER, _corpus_render),
)


def _perform(settings: Any, command: str) -> int:
    from headway.errors import HeadwayError

    perform = next(
        verb.perform for verb in (*VERBS, *CORPUS_VERBS) if isinstance(settings, verb.settings)
    )
    try:
        perform(settings, command)
    except HeadwayError as refusal:
        return _refuse(str(refusal))
    return 0


def _refuse(sentence: str) -> int:
    print(f"headway: {sentence}", file=sys.stderr)
    return 2


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the words ask.

    Returns:
        The exit code: 0 done, 2 wrong use, 130 or 143 stopped, 141 when who reads the output left.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if words == ["--version"]:
        print(f"headway {__version__}")
        return 0
    # Threads that wait by spinning starve each other where cores are shared (with a busy neighbour
    # on 2 cores a step took 15 times as long), and threads that sleep at once wake too late for
    # small operators (twice as long). OpenMP reads this when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    before = signal.signal(signal.SIGTERM, _terminating(os.getpid()))
    try:
        return _perform(_parse(words), shlex.join(["headway", *words]))
    except KeyboardInterrupt as stop:
        print(
            "\nheadway: stopped; the same command continues from what had ended.", file=sys.stderr
        )
        return 143 if isinstance(stop, _Terminated) else 130
    except BrokenPipeError:
        # Who read the output, such as `head`, has enough; nothing may be flushed at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ModuleNotFoundError as missing:
        if missing.name not in EXTRAS:
            raise
        package = {"sklearn": "scikit-learn"}.get(missing.name, missing.name)
        return _refuse(f"the package {package} is missing: pip install {package}")
    except OSError as failure:
        if failure.errno != errno.ENOSPC:
            raise
        where = f" (writing {failure.filename})" if failure.filename else ""
        return _refuse(f"no space left on the disk{where}; free some and run the same command.")
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
