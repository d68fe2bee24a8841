"""Short names for lists of mechanisms."""

from __future__ import annotations

from collections.abc import Callable

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
from headway.mechanisms.recommended import RECOMMENDED

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
    "recommended": lambda size: list(RECOMMENDED),
}
"""Each takes the model's hidden size."""


def preset_mechanisms(names: str, hidden_size: int, setting: str) -> list[Mechanism]:
    """The mechanisms of presets joined by '+'.

    Args:
        names: of presets.
        hidden_size: of the model.
        setting: that asked for them, for the error.

    Raises:
        HeadwayError: an unknown preset.
    """
    found: list[Mechanism] = []
    for part in names.split("+"):
        if part not in PRESETS:
            raise HeadwayError(
                f"{setting}: {part!r} is unknown{nearest(part, PRESETS)}; accepted are "
                f"{', '.join(PRESETS)}, joined by '+', or one .json file"
            )
        found += PRESETS[part](hidden_size)
    return found
