"""What models under a condition say, as music, sound or text: the continuation of a prompt."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from headway.corpora.render import render
from headway.corpora.tokens import Integers
from headway.decoder import HeadwayForCausalLM
from headway.studies.claims import Measures, Run
from headway.studies.language_models.course import Course
from headway.training.run import precision
from headway_settings import CorpusRenderSettings

SUFFIX = {"text": ".txt", "music": ".mid", "speech": ".wav"}
LONGEST = 384
"""Tokens of a sample: 5 seconds of speech, a third of them the prompt."""
TOP_P = 0.95
"""Of the most likely tokens, the share of probability that is drawn from."""


def sample_length(context: int) -> int:
    """Tokens of a prompt and its continuation."""
    return min(context, LONGEST)


def document(course: Course) -> Integers:
    """The start of the longest document of the test split: a prompt and how it went on."""
    tokens = course.corpus.test
    ends = np.flatnonzero(tokens == course.corpus.eot)
    starts = np.concatenate(([0], ends[:-1] + 1))
    longest = int(np.argmax(ends - starts))
    start = int(starts[longest])
    return np.asarray(tokens[start : min(start + sample_length(course.extent.context),
                                         int(ends[longest]))], np.int64)  # fmt: skip


def write_sample(course: Course, name: str, tokens: Integers) -> str:
    """Write tokens as `sample-NAME` with the suffix of their kind into the folder of results.

    Raises:
        HeadwayError: a package that the kind needs is missing.
    """
    assert course.settings.out is not None
    file = f"sample-{name}{SUFFIX[course.corpus.description.kind]}"
    with TemporaryDirectory() as folder:
        listed = Path(folder) / "tokens.json"
        listed.write_text(json.dumps(tokens.tolist()), encoding="utf-8")
        out = course.settings.out / file
        render(CorpusRenderSettings(folder=course.folder, out=out, tokens=listed))
    return file


@torch.no_grad()
def continued(course: Course, model: HeadwayForCausalLM, run: Run) -> Measures:
    """Write the prompt with what a model makes of it; the name of the file and its tokens."""
    real, writer = document(course), cast(Any, model)
    prompt = torch.from_numpy(real[: max(1, len(real) // 3)]).to(model.device)[None]
    with precision(model.device, course.settings.dtype), torch.random.fork_rng():
        torch.manual_seed(run.seed)
        drawn: Tensor = writer.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=len(real) - prompt.shape[1],
            do_sample=True,
            top_k=0,
            top_p=TOP_P,
            suppress_tokens=[course.corpus.eot],
            pad_token_id=course.corpus.eot,
        )
    tokens = drawn[0].cpu().numpy()
    return {
        "sample": write_sample(course, run.arm, tokens),
        "sample_prompt": prompt.shape[1],
        "sample_tokens": tokens.tolist(),
    }
