"""The models of the training benches: our decoder with and without mechanisms, at one shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from headway.bench.llama import SMALL, Shape
from headway.decoder import HeadwayConfig, HeadwayForCausalLM
from headway.mechanisms import (
    AttentionResidual,
    KVShift,
    LayerShortcut,
    Mechanism,
    ResidualStream,
    SelectiveAttention,
)
from headway.mechanisms.recommended import RECOMMENDED

M124 = Shape(
    hidden_size=768,
    intermediate_size=2048,
    num_hidden_layers=12,
    num_attention_heads=12,
    num_key_value_heads=12,
    vocab_size=32_768,
    batch=16,
    warm_up=3,
)
M350 = replace(
    M124,
    hidden_size=1024,
    intermediate_size=2816,
    num_hidden_layers=24,
    num_attention_heads=16,
    num_key_value_heads=16,
)
SMALL_DECODER = replace(SMALL, num_hidden_layers=6, num_key_value_heads=8)

PLAIN = "plain"
UPDATES = 4
"""In a round; a GPU waits for the host at the start of the first alone, as in training."""
THREE = (ResidualStream(), KVShift(), SelectiveAttention())
DEPTH_READ = LayerShortcut(taps="all", features="none", reach="token", mode="replace")


def arms(layers: int) -> dict[str, tuple[Mechanism, ...]]:
    """Lists of mechanisms by the names that the bench prints, plain first.

    The paper's shortcut taps layers 2, 4, 6, 8 of 10: here four at equal distances.
    """
    taps = tuple(round(i * layers / 5) for i in range(1, 5))
    return {
        PLAIN: (),
        "KV shift": (KVShift(),),
        "SSA": (SelectiveAttention(),),
        "value stream": (ResidualStream(),),
        "the three": THREE,
        "the three and a depth read": (*THREE, DEPTH_READ),
        "recommended": RECOMMENDED,
        "shortcut of 4 taps, context": (LayerShortcut(taps=taps, width=1024),),
        "attention residual": (AttentionResidual(),),
    }


def device_here() -> str:
    """'cuda' where there is a GPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype_on(device: str) -> torch.dtype:
    """Of all weights: bfloat16 on a GPU."""
    return torch.bfloat16 if device == "cuda" else torch.float32


def drawn(shape: Shape, device: str, mechanisms: Sequence[Mechanism] = ()) -> HeadwayForCausalLM:
    """Random weights in float32, the same each time."""
    config = HeadwayConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        max_position_embeddings=4096,
        mechanisms=list(mechanisms),
    )
    torch.manual_seed(0)
    with torch.device(device):
        return cast(HeadwayForCausalLM, HeadwayForCausalLM(config).train())


def decoder(shape: Shape, device: str, mechanisms: Sequence[Mechanism] = ()) -> HeadwayForCausalLM:
    """`drawn`; in bfloat16 on a GPU, as `headway.bench.llama` has it."""
    model = drawn(shape, device, mechanisms)
    cast(nn.Module, model).to(dtype_on(device))
    return model


def tokens(shape: Shape, device: str) -> Tensor:
    """A batch `(B, T)`, the same each time."""
    torch.manual_seed(1)
    return torch.randint(shape.vocab_size, (shape.batch, shape.length), device=device)


def causal_lm_loss(model: Any, ids: Tensor) -> Tensor:
    """The loss that a model of transformers' form gives itself."""
    loss: Tensor = model(ids, labels=ids, use_cache=False).loss
    return loss


def training_step(
    model: nn.Module,
    ids: Tensor,
    loss_of: Callable[[Any, Tensor], Tensor] = causal_lm_loss,
) -> Callable[[], object]:
    """Loss, backward and AdamW, `UPDATES` times; on a GPU compiled, as one graph without breaks."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=ids.is_cuda)
    called = torch.compile(loss_of, fullgraph=True, dynamic=False) if ids.is_cuda else loss_of

    def step() -> None:
        for _ in range(UPDATES):
            called(model, ids).backward()
            optimiser.step()
            optimiser.zero_grad()

    return step


def tokens_a_second(shape: Shape, seconds: float) -> float:
    """Of a round that took `seconds`."""
    return UPDATES * shape.batch * shape.length / seconds
