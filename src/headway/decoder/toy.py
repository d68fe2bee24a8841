"""A toy host for theory: attention-only layers, no norm, one-hot tokens and positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headway.decoder.attention import Attention
from headway.decoder.configuration import HeadwayConfig
from headway.decoder.forward_pass import start_pass
from headway.errors import HeadwayError
from headway.mechanisms.base import PLACE_WORDS, Place
from headway.mechanisms.context import Streams
from headway.ops.padding import without_padding


class ToyTransformer(nn.Module):
    """`x <- x + A(x)` (or `x <- A(x)`) per layer, with the decoder's own attention.

    The papers' toys need exactly this: no norm, no feed-forward part and, with
    `attention_multiplier=1.0`, no scaling of the scores.

    Args:
        config: sizes and mechanisms, with `norm='none'` and position 'none', 'alibi' or 'rope'.
        residual: keep the sum; without it a layer's output is its attention alone.
        output: with an output projection. Without one, the heads' widths must add up to
            `hidden_size`.
        slots: one-hot positions concatenated behind the tokens' channels; 0 for none.
        slopes: ALiBi slopes, one a head, in place of the standard ones.

    Raises:
        HeadwayError: the configuration asks for something that a toy has not.
    """

    def __init__(
        self,
        config: HeadwayConfig,
        *,
        residual: bool = True,
        output: bool = False,
        slots: int = 0,
        slopes: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        _check(config, output, slots, slopes)
        self.config, self.residual, self.slots = config, residual, slots
        self.slopes = None if slopes is None else torch.tensor(slopes, dtype=torch.float64)
        mechanisms = config.mechanism_list()
        self.layers = nn.ModuleList(
            Attention(config, i, mechanisms) for i in range(config.num_hidden_layers)
        )
        if not output:
            for layer in self.layers:
                layer.register_module("o_proj", nn.Identity())

    def forward(self, tokens: Tensor, slot_ids: Tensor | None = None) -> Tensor:
        """Hidden states `(B, T, hidden_size)` after the last layer.

        Args:
            tokens: vectors `(B, T, hidden_size - slots)`, or ids `(B, T)`, which become one-hot.
            slot_ids: `(B, T)`, the slot of each token's position; None counts from 0.
        """
        without_padding()
        x = self.embed(tokens, slot_ids)
        run = start_pass(self.config, x, None, None, None)
        if self.slopes is not None:
            visible = replace(run.visible, slopes=self.slopes.to(x.device))
            run = replace(run, visible=visible)
        streams = Streams()
        for layer in self.layers:
            update, streams = layer(x, streams, run)
            x = x + update if self.residual else update
        return x

    def embed(self, tokens: Tensor, slot_ids: Tensor | None = None) -> Tensor:
        """What the first layer reads, `(B, T, hidden_size)`; arguments as in `forward`."""
        dtype = next(self.parameters()).dtype
        if not tokens.is_floating_point():
            tokens = F.one_hot(tokens, self.config.hidden_size - self.slots)
        tokens = tokens.to(dtype)
        if not self.slots:
            return tokens
        if slot_ids is None:
            slot_ids = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        return torch.cat([tokens, F.one_hot(slot_ids, self.slots).to(dtype)], dim=-1)


def _check(config: HeadwayConfig, output: bool, slots: int, slopes: Sequence[float] | None) -> None:
    if config.norm != "none":
        raise HeadwayError(f"norm: {config.norm!r} is not accepted in a toy; accepted is 'none'")
    if config.position == "learned":
        raise HeadwayError(
            "position: 'learned' is not accepted in a toy; accepted are none, alibi and rope, and "
            "slots for one-hot positions"
        )
    for mechanism in config.mechanism_list():
        if mechanism.place > Place.OUTPUT:
            raise HeadwayError(
                f"mechanisms: {mechanism.name!r} acts on {PLACE_WORDS[mechanism.place]}, which a "
                "toy has not; build it into HeadwayForCausalLM"
            )
    dims = config.dims()
    width = dims.num_attention_heads * dims.head_dim
    if not output and width != dims.hidden_size:
        raise HeadwayError(
            f"hidden_size: {dims.hidden_size} is not the width {width} of all heads, which output="
            "False needs; accepted are equal widths, or output=True"
        )
    if not 0 <= slots < dims.hidden_size:
        raise HeadwayError(
            f"slots: {slots} is not accepted; accepted are 0 to hidden_size - 1 = "
            f"{dims.hidden_size - 1}"
        )
    if slopes is not None and (config.position != "alibi" or len(slopes) != width // dims.head_dim):
        raise HeadwayError(
            f"slopes: {list(slopes)} is not accepted; accepted is one number for each of the "
            f"{dims.num_attention_heads} heads, with position='alibi'"
        )
