"""A causal language model and its tokenizer, whichever of three kinds a folder or hub id holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from transformers import AutoModelForCausalLM, PreTrainedModel

from headway.errors import HeadwayError
from headway.hosts import load_mechanisms
from headway.hosts.loading import check_causal, device_of, read_config, read_model, read_tokenizer
from headway.hosts.saving import DESCRIPTION
from headway_settings import EvalDtype


def load_for_evaluation(
    model: str, mechanisms: str | None = None, dtype: str = "auto", device: str = "auto"
) -> tuple[PreTrainedModel, Any]:
    """Load a model in eval mode, and its tokenizer, from safetensors only and without its code.

    Args:
        model: folder or hub id of a plain model of transformers, of one that was saved with
            mechanisms, or of a `HeadwayForCausalLM`; the configuration tells which.
        mechanisms: folder that `save_mechanisms` wrote from such a plain model.
        dtype: 'float32', 'bfloat16', 'float16', or 'auto' for that of the saved weights.
        device: 'auto' (a GPU if there is one), or as torch spells it.

    Raises:
        HeadwayError: nothing there, a pickle, code of its own, no causal language model (such as
            an encoder), another dtype, a device that is not there, or a tokenizer or mechanisms
            that are not there or do not fit.
    """
    if dtype not in get_args(EvalDtype):
        accepted = ", ".join(get_args(EvalDtype))
        raise HeadwayError(f"dtype: value is {dtype!r}; accepted are {accepted}")
    place, config = device_of(device), read_config(model)
    check_causal(model, config)
    if mechanisms is not None and not (Path(mechanisms) / DESCRIPTION).is_file():
        raise HeadwayError(
            f"mechanisms: {mechanisms!r} is no folder with a {DESCRIPTION}; accepted is one that "
            "save_mechanisms wrote"
        )
    loaded = read_model(model, config, dtype, AutoModelForCausalLM)
    tokenizer = read_tokenizer(model, loaded.config)
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise HeadwayError(
            f"model: {model!r} has a tokenizer without a token that begins or ends a text; "
            "accepted is one with bos_token or eos_token"
        )
    if mechanisms is not None:
        load_mechanisms(loaded, mechanisms)
    return loaded.to(place).eval(), tokenizer  # type: ignore[arg-type]  # transformers' stub
