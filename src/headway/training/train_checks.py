"""What `headway train` refuses before any time is spent."""

from __future__ import annotations

import math
from importlib.util import find_spec

import torch

from headway.corpora.optional import optional_package
from headway.errors import HeadwayError
from headway.hosts.loading import device_of
from headway.mechanisms.fields import checked_fields
from headway_train_settings import OF_A_NEW_MODEL, TrainSettings

LEAST = {
    "max_characters": 1,
    "vocab_size": 2,
    "hidden_size": 1,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "intermediate_size": 1,
    "steps": 1,
    "batch_size": 1,
    "micro_batch_size": 1,
    "context": 2,
    "seed": 0,
    "replicas": 2,
    "tensor_parallel": 1,
    "log_every": 1,
    "eval_every": 0,
    "validation_tokens": 1,
    "sample_tokens": 0,
    "save_every": 1,
    "keep": 1,
}
ABOVE_ZERO = ("initializer_range", "learning_rate", "mechanism_learning_rate", "clip")
SHARES = ("warmup", "decay")


def checked_device(settings: TrainSettings) -> torch.device:
    """The device, once it is clear that the settings have a meaning.

    Raises:
        HeadwayError: they have none, or a package or a device is missing.
    """
    checked_fields(settings)
    _check_numbers(settings)
    if settings.text is not None and settings.corpus is not None:
        raise HeadwayError("corpus: it and text are both given; accepted is one of them")
    if settings.model is not None:
        _check_own(settings, settings.model)
    optional_package("accelerate", "headway train")
    for tracker in settings.report_to:
        if find_spec(tracker) is None:
            raise HeadwayError(
                f"report_to: the package {tracker} is missing; install it with: "
                f"pip install {tracker}"
            )
    if settings.tensor_parallel > 1 and settings.compile:
        raise HeadwayError(
            "compile: true is not accepted beside tensor_parallel; accepted is one of them"
        )
    device = device_of(settings.device)
    if settings.attention == "flex_attention" and device.type != "cuda":
        raise HeadwayError(
            "attention: 'flex_attention' runs on a GPU only; accepted here are auto, sdpa, eager"
        )
    return device


def _check_own(settings: TrainSettings, model: str) -> None:
    for name in OF_A_NEW_MODEL:
        value = getattr(settings, name)
        if value != getattr(TrainSettings, name):
            raise HeadwayError(
                f"{name}: {value!r} and model={model!r} are both given; accepted is one of them, "
                "as a trained model has its own"
            )


def _check_numbers(settings: TrainSettings) -> None:
    for name, least in LEAST.items():
        value = getattr(settings, name)
        if value is not None and value < least:
            raise HeadwayError(f"{name}: {value} is not accepted; accepted are {least} and more")
    for name in ABOVE_ZERO:
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise HeadwayError(f"{name}: {value} is not accepted; accepted are numbers above 0")
    if settings.weight_decay < 0:
        raise HeadwayError(
            f"weight_decay: {settings.weight_decay} is not accepted; accepted are 0 and numbers "
            "above"
        )
    for name in SHARES:
        if not 0 <= getattr(settings, name) <= 1:
            raise HeadwayError(
                f"{name}: {getattr(settings, name)} is not accepted; accepted are 0 to 1"
            )
    if settings.schedule == "wsd" and settings.warmup + settings.decay > 1:
        raise HeadwayError(
            f"decay: {settings.decay} and warmup={settings.warmup} are more than all steps; "
            "accepted are shares whose sum is at most 1"
        )
