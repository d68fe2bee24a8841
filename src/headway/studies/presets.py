"""Arms of a comparison: short names for lists of mechanisms."""

import json
from collections.abc import Sequence
from pathlib import Path

from headway.errors import HeadwayError
from headway.mechanisms import Mechanism
from headway.mechanisms.presets import PRESETS, preset_mechanisms

__all__ = ["PRESETS", "resolve_arms"]

_FORM = '{"arm": [{"name": ..., ...}, ...]}'


def resolve_arms(names: Sequence[str], hidden_size: int) -> dict[str, list[Mechanism]]:
    """Mechanisms of every arm, vanilla first.

    Args:
        names: presets joined by '+', or one path of a JSON file {"arm": [mechanism, ...]}.
        hidden_size: of the model.

    Raises:
        HeadwayError: an unknown preset, or a file of another form.
    """
    if len(names) == 1 and names[0].endswith(".json"):
        arms = _from_file(Path(names[0]))
    else:
        arms = {name: preset_mechanisms(name, hidden_size, "arms") for name in names}
    if not names or len(set(names)) < len(names):
        raise HeadwayError(f"arms: {' '.join(names)!r} names an arm twice or none; name each once")
    if arms.get("vanilla"):
        raise HeadwayError(
            "arms: 'vanilla' has mechanisms; accepted is an empty list there, as it is the plain "
            "model that all others are compared with"
        )
    if any(not mechanisms for name, mechanisms in arms.items() if name != "vanilla"):
        empty = [name for name, mechanisms in arms.items() if not mechanisms and name != "vanilla"]
        raise HeadwayError(
            f"arms: {empty[0]!r} has no mechanism; only the arm 'vanilla' may be empty"
        )
    return {"vanilla": []} | arms


def _from_file(path: Path) -> dict[str, list[Mechanism]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HeadwayError(
            f"arms: {path} cannot be read ({error.strerror}); accepted is a JSON file"
        ) from error
    except ValueError as error:
        raise HeadwayError(f"arms: {path} is not JSON ({error}); accepted is {_FORM}") from error
    if not isinstance(data, dict) or not all(isinstance(v, list) for v in data.values()):
        raise HeadwayError(f"arms: {path} is of another form; accepted is {_FORM}")
    return {arm: [Mechanism.from_dict(m) for m in listed] for arm, listed in data.items()}
