"""Indirect-object identification by a language model: prompts, once for all arms, and scores."""

from __future__ import annotations

from functools import lru_cache

import torch

from headway.decoder import HeadwayForCausalLM
from headway.errors import HeadwayError
from headway.studies.claims import Measures
from headway.studies.language_models.course import DIGITS, Course
from headway.tasks.ioi import IndirectObject, NamesSample, name_scores
from headway.training.run import precision

PROMPTS = 400
"""In both orders of the names; of the released script: 8."""
KNOWN = 20
"""How often a name must stand in the training text."""
SEED = 0
"""Of the draw of the prompts, the same for all runs."""


@lru_cache(maxsize=1)
def prompts(course: Course) -> NamesSample:
    """The prompts in the tokens of a corpus.

    Args:
        course: with the corpus; compared by identity.

    Raises:
        HeadwayError: the corpus knows less than two names as one token each.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(course.corpus.tokenizer_json)
    task = IndirectObject(
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        counts=course.counts,
        min_count=KNOWN,
        pad=course.corpus.eot,
    )
    most = min(PROMPTS, task.prompts)
    return task.sample(most, torch.Generator().manual_seed(SEED))


@torch.no_grad()
def names_measured(course: Course, model: HeadwayForCausalLM) -> Measures:
    """Means over prompts: probability of the right and of the repeated name, difference of their
    logits, share in which the right one is preferred, and in which it is the most likely token;
    over `all`, and each order of the names. Where the corpus knows too few names, there are no
    prompts, and why."""
    try:
        sample = prompts(course)
    except HeadwayError as why:
        return {"prompts": 0, "why": str(why)}
    torch.nn.Module.eval(model)
    with precision(model.device, course.settings.dtype):
        logits = model(sample.inputs.to(model.device), use_cache=False).logits
    scores = name_scores(logits.float().cpu(), sample)
    return {
        part: {name: round(float(value), DIGITS) for name, value in found.items()}
        for part, found in scores.items()
    } | {"prompts": len(sample.inputs)}
