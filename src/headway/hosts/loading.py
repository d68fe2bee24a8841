"""A model's parts from a folder or the hub: safetensors only, none of the folder's own code run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from headway.errors import HeadwayError
from headway.hosts.family import is_encoder
from headway.hosts.saving import from_pretrained
from headway.hub import require_hub
from headway.mechanisms.sizes import mechanisms_of
from headway.safe_loading import one_sentence, quiet

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def read_config(model: str) -> Any:
    """The configuration of a model.

    Args:
        model: folder or hub id.

    Raises:
        HeadwayError: nothing there, no way to the hub, or code of its own.
    """
    where, path = _where(model), Path(model)
    # Beside what is here, a mistyped folder is meant: asking the hub for it can take long.
    here = len(path.parts) > 1 and path.parent.is_dir()
    if not path.is_dir() and (here or not _HUB_ID.fullmatch(model)):
        raise HeadwayError(f"{where} is no folder; accepted are a folder and an id on the hub")
    if path.is_dir() and not (path / "config.json").is_file():
        raise HeadwayError(
            f"{where} holds no config.json; accepted are folders written by model.save_pretrained"
        )
    require_hub(model, where)
    return _told(where, AutoConfig, model)


def check_causal(model: str, config: Any) -> None:
    """Refuse an encoder, which transformers loads as a causal language model with a warning alone.

    Args:
        model: folder or hub id.
        config: of `read_config`.

    Raises:
        HeadwayError: it is one.
    """
    if is_encoder(config):
        also = [
            f", and its kind with {x}=true" for x in ("is_decoder", "causal") if hasattr(config, x)
        ]
        raise HeadwayError(
            f"{_where(model)} is an encoder ({config.model_type}), whose tokens see those after "
            f"them; accepted are causal language models{''.join(also)}"
        )


def read_model(model: str, config: Any, dtype: str, loader: Any) -> PreTrainedModel:
    """The model, with the mechanisms that it was saved with.

    Args:
        model: folder or hub id.
        config: of `read_config`.
        dtype: as transformers takes it.
        loader: Auto class for a plain model of transformers.

    Raises:
        HeadwayError: no safetensors, a damaged file, tensors that are missing, or a kind that
            `loader` does not load.
    """
    with quiet():
        if config.model_type == "headway" or mechanisms_of(config):
            return from_pretrained(model, dtype=dtype)
        options = {"config": config, "dtype": dtype, "use_safetensors": True}
        loaded: PreTrainedModel
        loaded, report = _told(_where(model), loader, model, **options, output_loading_info=True)
    # Nothing that is measured here reads the pooler, which many encoders are saved without.
    absent = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if absent:
        raise HeadwayError(
            f"{_where(model)} lacks {len(absent)} of its tensors, such as {absent[0]!r}; accepted "
            "are folders with all weights"
        )
    return loaded


def read_tokenizer(model: str, config: Any) -> Any:
    """The tokenizer beside a model.

    Args:
        model: folder or hub id.
        config: of `read_config`.

    Raises:
        HeadwayError: there is none, or it has more tokens than the model.
    """
    where = _where(model)
    tokenizer = _told(f"{where} (its tokenizer)", AutoTokenizer, model)
    size = getattr(config.get_text_config(), "vocab_size", None)
    if size is not None and tokenizer.vocab_size > size:
        raise HeadwayError(
            f"{where} has a tokenizer of {tokenizer.vocab_size} tokens and a model of {size}; "
            "accepted is the tokenizer that the model was trained with"
        )
    return tokenizer


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


def _told(where: str, loader: Any, model: str, **options: Any) -> Any:
    """What `loader.from_pretrained` gives, none of the folder's own code run."""
    try:
        with one_sentence(where):
            return loader.from_pretrained(model, trust_remote_code=False, **options)
    except HeadwayError:
        raise
    except (ValueError, KeyError, TypeError, StrictDataclassError) as error:
        said = " ".join(str(error).split()).partition(". ")[0]
        raise HeadwayError(f"{where} is not accepted: {said}") from error


def _where(model: str) -> str:
    return f"model: {model!r}"
