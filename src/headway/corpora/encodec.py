"""EnCodec (arXiv 2210.13438) through transformers: the coarsest of its codebooks, 75 a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from headway.corpora.audio import Samples
from headway.corpora.tokens import Integers
from headway.errors import HeadwayError


@dataclass(frozen=True)
class Encodec:
    """A neural codec with trained weights.

    Raises HeadwayError, when it is first used, for a folder or hub id without EnCodec's weights.
    """

    weights: str
    """Folder or hub id, such as facebook/encodec_24khz."""

    @property
    def rate(self) -> int:
        """As the model's."""
        return int(_model(self.weights).config.sampling_rate)

    @property
    def codes(self) -> int:
        """Entries of a codebook."""
        return int(_model(self.weights).config.codebook_size)

    @property
    def description(self) -> Mapping[str, Any]:
        """The weights are not copied."""
        return {"codec": "encodec", "weights": self.weights, "rate": self.rate}

    def encode(self, samples: Samples) -> Integers:
        """Codes of the first codebook, at the lowest bandwidth."""
        import torch

        model = _model(self.weights)
        sound = torch.from_numpy(np.ascontiguousarray(samples, np.float32))[None, None]
        with torch.inference_mode():
            out = model.encode(sound, bandwidth=min(model.config.target_bandwidths))
        codes: Integers = torch.cat(list(out.audio_codes[:, 0, 0]), dim=-1).numpy()
        return codes

    def decode(self, tokens: Integers) -> Samples:
        """The model's decoder on the first codebook alone."""
        import torch

        codes = torch.from_numpy(np.ascontiguousarray(tokens, np.int64))[None, None, None]
        with torch.inference_mode():
            sound: Samples = _model(self.weights).decode(codes, [None])[0][0, 0].numpy()
        return sound


@lru_cache(maxsize=1)
def _model(weights: str) -> Any:
    """The model, mono and without chunks, whose codes then form one row."""
    from transformers import EncodecModel

    from headway.hub import require_hub

    require_hub(weights, f"weights: {weights!r}")
    try:
        model = EncodecModel.from_pretrained(weights, use_safetensors=True).eval()
    except (OSError, ValueError) as error:
        raise HeadwayError(
            f"weights: {weights!r} cannot be loaded ({str(error).partition(chr(10))[0]}); a folder "
            f"or hub id of EnCodec's weights (safetensors) is accepted"
        ) from error
    if model.config.audio_channels != 1 or model.config.normalize:
        raise HeadwayError(
            f"weights: {weights!r} has {model.config.audio_channels} channels or scales its input; "
            f"a model of one channel that does not is accepted, such as facebook/encodec_24khz"
        )
    return model
