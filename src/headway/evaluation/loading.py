"""A causal language model and its tokenizer, whichever of three kinds a folder or hub id holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from headway.errors import HeadwayError
from headway.hosts import from_pretrained, load_mechanisms
from headway.mechanisms.sizes import mechanisms_of
from headway.safe_loading import one_sentence
from headway_settings import EvalDtype

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


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
        HeadwayError: nothing there, a pickle, code of its own, no causal language model,
            another dtype, a device that is not there, or a tokenizer or mechanisms that are not
            there or do not fit.
    """
    if dtype not in get_args(EvalDtype):
        raise HeadwayError(f"dtype: value is {dtype!r}; accepted are {_words(get_args(EvalDtype))}")
    where, place = f"model: {model!r}", device_of(device)
    if not Path(model).is_dir() and not _HUB_ID.fullmatch(model):
        raise HeadwayError(f"{where} is no folder; accepted are a folder and an id on the hub")
    if Path(model).is_dir() and not (Path(model) / "config.json").is_file():
        raise HeadwayError(
            f"{where} holds no config.json; accepted are folders written by model.save_pretrained"
        )
    if mechanisms is not None and not Path(mechanisms).is_dir():
        raise HeadwayError(
            f"mechanisms: {mechanisms!r} is no folder; accepted is one that save_mechanisms wrote"
        )
    loaded = _model(model, where, dtype)
    tokenizer = _tokenizer(model, where, loaded.config)
    if mechanisms is not None:
        load_mechanisms(loaded, mechanisms)
    return loaded.to(place).eval(), tokenizer  # type: ignore[arg-type]  # transformers' stub


def device_of(name: str) -> torch.device:
    """The device of a name; 'auto' is a GPU if there is one.

    Raises:
        HeadwayError: it is none, or not there.
    """
    there = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if there else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise HeadwayError(f"device: value is {name!r}; accepted are auto, cpu, cuda") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise HeadwayError(f"device: {name!r} is not there; accepted here are auto and cpu")
    return device


def _model(model: str, where: str, dtype: str) -> PreTrainedModel:
    config = _told(where, AutoConfig, model)
    if config.model_type == "headway" or mechanisms_of(config):
        return from_pretrained(model, dtype=dtype)
    options = {"config": config, "dtype": dtype, "use_safetensors": True}
    loaded: PreTrainedModel = _told(where, AutoModelForCausalLM, model, **options)
    return loaded


def _tokenizer(model: str, where: str, config: Any) -> Any:
    tokenizer = _told(f"{where} (its tokenizer)", AutoTokenizer, model)
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise HeadwayError(
            f"{where} has a tokenizer without a token that begins or ends a text; accepted is one "
            "with bos_token or eos_token"
        )
    size = getattr(config.get_text_config(), "vocab_size", None)
    if size is not None and tokenizer.vocab_size > size:
        raise HeadwayError(
            f"{where} has a tokenizer of {tokenizer.vocab_size} tokens and a model of {size}; "
            "accepted is the tokenizer that the model was trained with"
        )
    return tokenizer


def _told(where: str, loader: Any, model: str, **options: Any) -> Any:
    """What `loader.from_pretrained` gives, none of the folder's own code run."""
    try:
        with one_sentence(where):
            return loader.from_pretrained(model, trust_remote_code=False, **options)
    except HeadwayError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split()).partition(". ")[0]
        raise HeadwayError(f"{where} is not accepted: {said}") from error


def _words(names: tuple[str, ...]) -> str:
    return ", ".join(names)
