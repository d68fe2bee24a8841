"""The study `shortcuts-modalities`: layerwise attention shortcuts on text, music and speech.

The four kinds of tokens of arXiv 2409.10870, with samples one can listen to: what a plain model and
one with the shortcut make of the same prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from headway.corpora.optional import optional_package
from headway.decoder import HeadwayForCausalLM
from headway.report.cells import Table
from headway.studies.claims import Measures, Results, Run, Size, Study
from headway.studies.language_models.course import HEEDS, Course, Extent
from headway.studies.language_models.rates import best_rate, compared
from headway.studies.shortcuts.arms import (
    KINDS,
    PLAIN,
    SHORTCUT,
    Condition,
    perform_conditions,
    runs_of,
)
from headway.studies.shortcuts.claims import MEASURE, PAPER, control_claims, differs, main_claims
from headway.studies.shortcuts.maps import look
from headway.studies.shortcuts.page import loss_tables, shortcut_figures
from headway.studies.shortcuts.samples import continued, document, write_sample
from headway.studies.shortcuts.text import BPE, SHORTCUTS_TEXT
from headway.studies.shortcuts.text import CONDITIONS as TEXT
from headway_settings import StudySettings

SPEECH: dict[Size, Extent] = {
    "small": BPE["small"],
    "paper": replace(BPE["paper"], context=256, batch_size=16, steps=100),
}
"""Of half an hour of speech, 75 tokens a second: four times through it."""

NEW = (
    Condition(name="music", kind="music", extents=BPE),
    Condition(name="speech", kind="speech", extents=SPEECH),
)
"""Conditions whose claims are this study's: those on text are claims of `shortcuts-text`."""
CONDITIONS = (*TEXT, *NEW)
ASKED = "2026-11-30"
"""The day on which the controls were added to results that were there."""
SAMPLED = (PLAIN, SHORTCUT)
"""Arms that continue a prompt, at the first seed."""
NEEDED = {"music": "symusic", "speech": "soundfile"}
"""Packages by which samples are written."""


def look_and_listen(course: Course, model: HeadwayForCausalLM, run: Run) -> Measures:
    """As `headway.studies.shortcuts.maps.look`, and samples as files beside the results."""
    found = dict(look(course, model, run))
    kind, _, condition = run.arm.rpartition("-")
    if kind in SAMPLED and run.seed == course.settings.seed:
        found |= continued(course, model, run)
        found["original"] = write_sample(course, f"original-{condition}", document(course))
    return found


def sample_table(results: Results) -> list[Table]:
    """The files of samples, where there are any."""
    rows = [
        (
            run.run.arm,
            told["sample"],
            f"{len(told['sample_tokens']):,}",
            f"{told['sample_prompt']:,}",
            told["original"],
        )
        for arm in ARMS
        for run in compared(results, arm)
        if "sample" in (told := run.measures)
    ]
    columns = ("arm", "file beside this page", "tokens", "of them the prompt", "as it went on")
    return [Table(title="Samples", columns=columns, rows=tuple(rows))] if rows else []


def _runs(settings: StudySettings, results: Results) -> list[Run]:
    return runs_of(CONDITIONS, settings, results)


def _perform(runs: Sequence[Run], settings: StudySettings) -> Iterator[tuple[Run, Measures]]:
    """Refuses before any training what would fail after it: a sample that cannot be written."""
    for condition in CONDITIONS:
        if condition.kind in NEEDED and {run.arm for run in runs} & set(condition.arms):
            optional_package(NEEDED[condition.kind], f"arms: a sample of {condition.kind}")
    return perform_conditions(CONDITIONS, look_and_listen, runs, settings)


ARMS = {c.arm(kind): f"{about}; {c.name}" for kind, about in KINDS.items() for c in CONDITIONS}

SHORTCUTS_MODALITIES = Study(
    name="shortcuts-modalities",
    claim="A last layer that attends to features of earlier layers makes a better model of music "
    f"and speech, as of text (claims of {SHORTCUTS_TEXT.name}), and attends differently in each.",
    source=f"{PAPER}, all four data sets",
    published="lower loss on LibriSpeech's acoustic tokens, text-8, WikiText-103 and MAESTRO than "
    "a plain decoder, no figure of which could be read; attention maps that spread over depths and "
    "positions",
    arms=ARMS,
    measure=MEASURE,
    claims=tuple(claim for c in NEW for claim in (*main_claims(c), *control_claims(c, ASKED))),
    seeds={"small": 3, "paper": 3},
    differs={
        size: "Published: text-8; 1M crops of WikiText-103; MAESTRO as performance events; 960 "
        "hours of LibriSpeech as acoustic tokens. Ours are the corpora of --corpus: on other "
        "recordings or with another codec than EnCodec, `speech` is a stand-in and not the "
        f"paper's condition. {differs(CONDITIONS, size)}."
        for size in BPE
    },
    heeds=HEEDS,
    runs=_runs,
    perform=_perform,
    figures=lambda results: shortcut_figures(CONDITIONS, results),
    tables=lambda results: [*loss_tables(CONDITIONS, results), *sample_table(results)],
    takes=(SHORTCUTS_TEXT.name,),
    rate=best_rate,
)
