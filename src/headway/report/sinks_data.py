"""What a page or a file keeps of a profile: all of it where it is small, chosen positions else."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from headway.waiver.profile import SinkProfile

MOST_NUMBERS = 300_000
"""Layers x heads x positions that are kept of each array: a page stays below 20 MB."""
LEAST_POSITIONS = 48
START = 16
"""Positions from the first that are always kept."""
ARRAYS = ("received", "sink_rate", "value_norm", "written_norm", "key_norm", "contribution")
"""What the page has of every layer, head and kept position."""
COLUMNS = (*ARRAYS, "peak", "share_over", "write", "entropy")
"""What the CSV file has beside them."""
LONGEST = 24
"""Letters of a token that are shown."""


def kept_positions(profile: SinkProfile, most: int | None = None) -> list[int]:
    """The positions that are kept, in order.

    All where they fit; else the first ones, the sinks, where heads look most, and others at even
    distances, which are at least half of them.

    Args:
        profile: to be shown.
        most: positions; as many as `MOST_NUMBERS` allows where it is None.
    """
    heads = profile.received.shape[0] * profile.received.shape[1]
    most = most or max(LEAST_POSITIONS, MOST_NUMBERS // heads)
    if profile.tokens <= most:
        return list(range(profile.tokens))
    searched = profile.received[..., : profile.searched]
    value, position = (x.flatten() for x in searched.max(-1))
    strong = [int(i) for i in position[value.argsort(descending=True)]]
    first = dict.fromkeys([*range(START), *profile.sinks()[:START], *strong])
    chosen = set(list(first)[: most // 2])
    spaced = torch.linspace(0, profile.tokens - 1, most - len(chosen)).long().tolist()
    return sorted(chosen | set(spaced))


def strongest(profile: SinkProfile) -> Tensor:
    """`(L, H)`, the position that receives most in each head, among those searched for sinks."""
    return profile.received[..., : profile.searched].argmax(-1)


def norm_ratios(norms: Tensor) -> Tensor:
    """Norms `(..., T)` over their median along the positions."""
    return norms / norms.median(-1, keepdim=True).values.clamp(min=1e-30)


def values_of(profile: SinkProfile) -> Tensor:
    """`(L, H, T)`, value norms behind the output projection where that was found in all layers."""
    found = profile.written_norm
    return profile.value_norm if bool(found.isnan().any()) else found


def visible(text: str) -> str:
    """A token as one short line, with spaces, line ends and what has no shape made visible."""
    if not text:
        return "(no text)"
    shown = "".join(
        "␣" if letter == " " else letter if letter.isprintable() else ascii(letter)[1:-1]
        for letter in text[: LONGEST + 1]
    )
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"


def packed(values: Tensor) -> str:
    """A tensor's float32 numbers in order, little-endian, base64."""
    return base64.b64encode(values.float().contiguous().numpy().astype("<f4").tobytes()).decode()


def plain(value: Any) -> Any:
    """JSON's own: no number that is not finite, six digits, which is what float32 has."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def profile_data(profile: SinkProfile) -> dict[str, Any]:
    """`SinkProfile.to_dict` for a file: arrays at `positions`, those that are kept."""
    kept = kept_positions(profile)
    cut: dict[str, Any] = {
        name: getattr(profile, name)[..., kept]
        for name in (*COLUMNS, "hidden_norm", "sink_by_sample")
    }
    texts = tuple(profile.token_texts[i] for i in kept)
    data = replace(profile, token_texts=texts, battery=None, verdict=None, **cut).to_dict()
    # These compare positions, so they come from all of them.
    data |= {
        "sinks": list(profile.sinks()),
        "waivers": list(profile.waivers()),
        "sink_metric": profile.sink_metric()[kept].tolist(),
        "value_ratio": profile.value_ratio()[kept].tolist(),
    }
    found: dict[str, Any] = plain({"positions": kept, **data})
    return found


def head_table(profile: SinkProfile) -> str:
    """CSV: a row for every layer, head and kept position."""
    kept = kept_positions(profile)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["layer", "head", "position", "token", *COLUMNS])
    # In quotes of JSON, no token breaks a line or is taken for a formula.
    tokens = [json.dumps(profile.token_texts[i]) for i in kept]
    numbers = torch.stack([getattr(profile, name)[..., kept] for name in COLUMNS], -1).tolist()
    for layer, heads in enumerate(numbers):
        for head, rows in enumerate(heads):
            for position, token, row in zip(kept, tokens, rows, strict=True):
                cells = ["" if math.isnan(x) else f"{x:.6g}" for x in row]
                writer.writerow([layer, head, position, token, *cells])
    return out.getvalue()
