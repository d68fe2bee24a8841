"""Arms of a comparison: short names for lists of mechanisms."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from headway.errors import HeadwayError
from headway.mechanisms import (
    AttentionResidual,
    KVShift,
    LayerShortcut,
    Mechanism,
    OutputGate,
    ResidualStream,
    ScalableSoftmax,
    ScalarMix,
    SelectiveAttention,
    ShortConv,
    SinkLogit,
    SmearedKey,
)
from headway.mechanisms.fields import nearest

PRESETS: dict[str, Callable[[int], list[Mechanism]]] = {
    "vanilla": lambda size: [],
    "kv_shift": lambda size: [KVShift()],
    "kv_shift_identity": lambda size: [KVShift(init="identity")],
    "value_stream": lambda size: [ResidualStream()],
    "key_stream": lambda size: [ResidualStream(stream="key")],
    "query_stream": lambda size: [ResidualStream(stream="query")],
    "resformer": lambda size: [ResidualStream(source="first", scale=0.5)],
    "selective": lambda size: [SelectiveAttention()],
    "shortcut": lambda size: [LayerShortcut(width=2 * size)],
    "shortcut_token": lambda size: [LayerShortcut(width=2 * size, reach="token", mode="add")],
    "short_conv": lambda size: [ShortConv()],
    "smeared_key": lambda size: [SmearedKey()],
    "scalable_softmax": lambda size: [ScalableSoftmax()],
    "sink_logit": lambda size: [SinkLogit()],
    "output_gate": lambda size: [OutputGate()],
    "attention_residual": lambda size: [AttentionResidual()],
    "scalar_mix": lambda size: [ScalarMix()],
}
"""Each takes the model's hidden size."""

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
        arms = {name: _preset(name, hidden_size) for name in names}
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


def _preset(name: str, hidden_size: int) -> list[Mechanism]:
    found: list[Mechanism] = []
    for part in name.split("+"):
        if part not in PRESETS:
            raise HeadwayError(
                f"arms: {part!r} is unknown{nearest(part, PRESETS)}; accepted are "
                f"{', '.join(PRESETS)}, joined by '+', or one .json file"
            )
        found += PRESETS[part](hidden_size)
    return found


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
