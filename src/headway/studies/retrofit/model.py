"""The model that is fine-tuned: read without running its code, prepared as an arm, and saved."""

import json
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from headway.corpora.optional import optional_package
from headway.corpora.storage import new_folder
from headway.errors import HeadwayError
from headway.hosts import attach, mechanism_parameters, save_mechanisms
from headway.hosts.attach import bare
from headway.hosts.family import family_of
from headway.hub import require_hub
from headway.mechanisms import Mechanism
from headway.mechanisms.sizes import dims_of
from headway.safe_loading import one_sentence, quiet

Trained = Literal["all", "mechanism", "lora"]
SAVED_MODEL, SAVED_MECHANISMS = "model", "mechanisms"
"""Folders of what was trained, within the results."""


@dataclass(frozen=True)
class Source:
    """A plain model before its weights are read.

    Attributes:
        name: a folder, or an id on the hub.
        config: of a family that Headway knows.
        tokenizer: the model's own.
    """

    name: str
    config: Any
    tokenizer: Any

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return dims_of(self.config).hidden_size

    def weights(self) -> PreTrainedModel:
        """The model on the CPU in float32, from safetensors.

        Raises:
            HeadwayError: weights that are missing, damaged, pickled or incomplete.
        """
        where = _where(self.name)
        loader: Any = AutoModelForCausalLM
        with one_sentence(where), quiet():
            model, report = loader.from_pretrained(
                self.name,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        absent = sorted(report["missing_keys"])
        if absent:
            raise HeadwayError(
                f"{where} lacks {len(absent)} of its tensors, such as {absent[0]!r}; accepted are "
                "folders with all weights of a causal language model"
            )
        loaded: PreTrainedModel = model
        return loaded


def open_source(name: str) -> Source:
    """The configuration and the tokenizer of a plain model.

    Raises:
        HeadwayError: no such folder, code of its own, an unknown family, mechanisms in it already,
            or no tokenizer.
    """
    where = _where(name)
    if not os.path.isdir(name) and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise HeadwayError(
            f"{where} is no folder; accepted are folders with a config.json, or an id on the hub "
            "such as 'owner/name'"
        )
    require_hub(name, where)
    try:
        with one_sentence(where):
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (ValueError, KeyError, TypeError) as error:
        raise _told(error, f"{where} has a config.json that is not accepted") from error
    if getattr(config, "mechanisms", None):
        raise HeadwayError(
            f"{where} has mechanisms already; accepted is the plain model that they were put into"
        )
    family_of(config)
    return Source(name, config, _tokenizer(name))


def arm_model(source: Source, mechanisms: Sequence[Mechanism], train: Trained) -> nn.Module:
    """A model on the CPU with its mechanisms, frozen but for what is trained.

    Adapters come first and mechanisms are attached around them, so that from the same state of the
    random generator arms with and without mechanisms draw the same adapters.

    Args:
        source: what to load.
        mechanisms: to attach; none for the control.
        train: 'all' weights, those of the 'mechanism', or low-rank adapters ('lora') with it.
    """
    model: nn.Module = source.weights()
    if train == "lora":
        model = _with_adapters(model)
    elif train == "mechanism":
        model.requires_grad_(False)
    if mechanisms:
        with warnings.catch_warnings():
            # The report says what the start of the paper does to the loss.
            warnings.filterwarnings("ignore", "the logits change at once", UserWarning)
            attach(model, mechanisms)
    return model


def sizes(model: nn.Module, mechanisms: Sequence[Mechanism]) -> dict[str, int]:
    """Numbers of parameters: all without adapters, added by mechanisms, and trained."""
    added = sum(p.numel() for _, p in mechanism_parameters(model)) if mechanisms else 0
    counted = [(n, p.numel(), p.requires_grad) for n, p in model.named_parameters()]
    return {
        "parameters": sum(count for name, count, _ in counted if ".lora_" not in name),
        "added_parameters": added,
        "trained_parameters": sum(count for _, count, trained in counted if trained),
    }


def save_trained(model: nn.Module, source: Source, train: Trained, out: Path) -> None:
    """Write what was trained into the results: the whole model, or the mechanisms alone.

    Adapters are merged into the weights that they adapt. The folder appears whole or not at all.
    """
    folder = out / saved_name(train)
    # A run that was stopped between here and its last line is done again, and so is this.
    shutil.rmtree(folder, ignore_errors=True)
    with new_folder(folder) as unfinished, quiet():
        if train == "mechanism":
            save_mechanisms(model, unfinished)
            return
        plain = cast(Any, model).merge_and_unload() if train == "lora" else model
        bare(plain).save_pretrained(unfinished)
        source.tokenizer.save_pretrained(unfinished)


def saved_name(train: Trained) -> str:
    """The folder that `save_trained` writes."""
    return SAVED_MECHANISMS if train == "mechanism" else SAVED_MODEL


def require_adapters() -> None:
    """Raise HeadwayError where the package for adapters is missing."""
    optional_package("peft", "train='lora'")


def _with_adapters(model: nn.Module) -> nn.Module:
    """Low-rank adapters, with peft's defaults, at every linear layer but the head."""
    peft = optional_package("peft", "train='lora'")
    with warnings.catch_warnings():
        # peft 0.21 asks transformers for a name that transformers 5 has renamed.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        # It tells that it has noticed how GPT-2 stores its matrices.
        warnings.filterwarnings("ignore", "fan_in_fan_out", UserWarning)
        adapted: nn.Module = peft.get_peft_model(
            model, peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
        )
    return adapted


def _tokenizer(name: str) -> Any:
    where = _where(name)
    accepted = "accepted are models with their tokenizer's files beside them"
    try:
        with one_sentence(where):
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except json.JSONDecodeError as error:
        raise _told(error, f"{where} has a damaged tokenizer; {accepted}") from error
    except (ValueError, KeyError, TypeError, ImportError) as error:
        raise _told(error, f"{where} has no tokenizer that can be read; {accepted}") from error
    # Without any file, transformers makes a tokenizer that knows nothing but its special tokens.
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise HeadwayError(f"{where} has no tokenizer; {accepted}")
    return tokenizer


def _where(name: str) -> str:
    return f"model: {name!r}"


def _told(error: Exception, sentence: str) -> HeadwayError:
    said = " ".join(str(error).split())
    return HeadwayError(f"{sentence} ({said})")
