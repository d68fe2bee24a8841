"""Mechanisms for a model that is trained already: presets that start as the identity."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from headway.errors import HeadwayError
from headway.mechanisms import Mechanism, ResidualStream
from headway.mechanisms.fields import nearest
from headway.studies.presets import PRESETS

COMPANIONS: dict[str, dict[str, Any]] = {
    "scalable_softmax": {"bias": True},
    "layer_shortcut": {"mode": "add"},
    "attention_residual": {"total": "count"},
}
"""Options without which a mechanism has no identity, by its name."""


def retrofitted(spec: str, init: Literal["identity", "paper"], hidden_size: int) -> list[Mechanism]:
    """The mechanisms that `spec` asks for.

    Args:
        spec: presets joined by '+', or the path of a JSON file [{"name": ..., ...}, ...], whose
            mechanisms are taken as written.
        init: of presets: 'identity' leaves the model's logits as they are, 'paper' does not.
        hidden_size: of the model.

    Raises:
        HeadwayError: an unknown preset or mechanism, or a file of another form.
    """
    if spec.endswith(".json"):
        return _from_file(Path(spec))
    found: list[Mechanism] = []
    accepted = [name for name in PRESETS if name != "vanilla"]
    for part in spec.split("+"):
        if part not in accepted:
            raise HeadwayError(
                f"mechanisms: {part!r} is unknown{nearest(part, accepted)}; accepted are "
                f"{', '.join(accepted)}, joined by '+', or one .json file"
            )
        found += PRESETS[part](hidden_size)
    return [as_identity(m) for m in found] if init == "identity" else found


def as_identity(mechanism: Mechanism) -> Mechanism:
    """The variant of a mechanism that leaves a model's logits as they are when it is new.

    Raises:
        HeadwayError: its other options leave it none.
    """
    if mechanism.starts_as_identity:
        return mechanism
    options = dict(COMPANIONS.get(mechanism.name, {}))
    if any(field.name == "init" for field in dataclasses.fields(mechanism)):
        options["init"] = "identity"
    if isinstance(mechanism, ResidualStream) and not isinstance(mechanism.scale, str):
        options["scale"] = "head"
    changed = dataclasses.replace(mechanism, **options)
    if not changed.starts_as_identity:
        raise HeadwayError(
            f"init: {mechanism.name!r} has no identity initialisation; accepted for it is 'paper'"
        )
    return changed


def _from_file(path: Path) -> list[Mechanism]:
    form = '[{"name": ..., ...}, ...]'
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HeadwayError(
            f"mechanisms: {path} cannot be read ({error.strerror}); accepted is a JSON file"
        ) from error
    except ValueError as error:
        raise HeadwayError(
            f"mechanisms: {path} is not JSON ({error}); accepted is {form}"
        ) from error
    if not isinstance(data, list):
        raise HeadwayError(f"mechanisms: {path} is of another form; accepted is {form}")
    return [Mechanism.from_dict(m) for m in data]
