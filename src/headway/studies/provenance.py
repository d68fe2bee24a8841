"""Where and with what a study ran."""

import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from headway.errors import HeadwayError
from headway.mechanisms.base import Mechanism
from headway_settings import __version__


def device_of(name: str) -> torch.device:
    """The device of 'auto', 'cpu' or 'cuda'; 'auto' is a GPU if there is one.

    Raises:
        HeadwayError: it is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise HeadwayError("device: 'cuda' is not there; accepted here are cpu and auto")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def header(
    settings: Any,
    command: str,
    device: torch.device,
    arms: Mapping[str, Sequence[Mechanism]],
) -> dict[str, Any]:
    """What a journal starts with.

    Args:
        settings: a dataclass with a field `text`.
        command: as it was typed.
        device: that trains.
        arms: mechanisms by name.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    shown = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()}
    return {
        "settings": {k: list(v) if isinstance(v, tuple) else v for k, v in shown.items()},
        "command": command,
        "versions": {"headway": __version__, "python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers")},
        "device": f"{device.type}: {name or platform.machine()}",
        "arms": {arm: [m.to_dict() for m in mechanisms] for arm, mechanisms in arms.items()},
        "corpus": {"source": settings.text or "the sources of Python " + platform.python_version()},
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
