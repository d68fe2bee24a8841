"""The model that lm-eval knows as `headway`: its HFLM around a live model of ours.

Importing this registers it, and needs the packages lm_eval and accelerate.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models import huggingface
from transformers import PreTrainedModel

from headway.errors import HeadwayError
from headway.evaluation.loading import load_for_evaluation

PASSED_ON = (
    "max_batch_size",
    "max_length",
    "add_bos_token",
    "prefix_token_id",
    "softmax_dtype",
    "mixed_precision_dtype",
    "truncation",
    "logits_cache",
)
"""Options of HFLM that mean the same for a live model."""


@register_model("headway")
class HeadwayLM(huggingface.HFLM):  # type: ignore[misc]  # lm_eval has no types
    """A causal language model, with mechanisms or without, that lm-eval's tasks can ask.

    Args:
        pretrained: a folder or hub id (see `load_for_evaluation`), or a loaded model.
        mechanisms: folder that `headway.save_mechanisms` wrote, for a plain model.
        tokenizer: of a loaded model; else the one beside the weights is taken.
        device, dtype: where to and as what to load; a loaded model stays as and where it is.
            Without a GPU 'cuda' means the CPU, as in lm-eval, whose command line always says it.
        batch_size: sequences a forward pass, or 'auto'.
        options: those in `PASSED_ON`, as lm-eval's `hf` takes them.

    Raises:
        HeadwayError: nothing to load (see `load_for_evaluation`), or an option that is not known.
    """

    def __init__(
        self,
        pretrained: str | PreTrainedModel,
        *,
        mechanisms: str | None = None,
        tokenizer: Any = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | str = 1,
        **options: Any,
    ) -> None:
        if options.pop("trust_remote_code", False):
            raise HeadwayError("trust_remote_code: true is not accepted; nothing loaded is run")
        for name in options.keys() - set(PASSED_ON):
            raise HeadwayError(
                f"model_args: {name!r} is not known; accepted are pretrained, mechanisms, device, "
                f"dtype, batch_size, {', '.join(PASSED_ON)}"
            )
        if isinstance(pretrained, str):
            place = device if torch.cuda.is_available() or "cuda" not in device else "auto"
            model, tokenizer = load_for_evaluation(pretrained, mechanisms, dtype, place)
        elif mechanisms is not None or tokenizer is None:
            raise HeadwayError(
                "pretrained: a loaded model is accepted with its tokenizer and without mechanisms"
            )
        else:
            model = pretrained
        with _quiet():
            super().__init__(
                model, backend="causal", tokenizer=tokenizer, batch_size=batch_size, **options
            )

    def _loglikelihood_tokens(
        self,
        requests: Any,
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> Any:
        """As HFLM, without a progress bar for every single batch of rolling windows.

        Raises:
            HeadwayError: an answer that is longer than the model's context.
        """
        longest = max((len(answer) for _, _, answer in requests), default=0)
        if longest > self.max_length:
            raise HeadwayError(
                f"tasks: an answer has {longest} tokens; accepted are up to the model's context "
                f"of {self.max_length}"
            )
        hidden = disable_tqdm or override_bs is not None
        return super()._loglikelihood_tokens(requests, hidden, override_bs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings about what a live model leaves to its maker."""
    level = huggingface.eval_logger.level
    huggingface.eval_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        huggingface.eval_logger.setLevel(level)
