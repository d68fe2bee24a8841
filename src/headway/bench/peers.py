"""Our decoder with all mechanisms beside the plain models of other libraries, at one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from headway.bench.decoders import (
    DEPTH_READ,
    M124,
    PLAIN,
    SMALL_DECODER,
    THREE,
    causal_lm_loss,
    decoder,
    device_here,
    dtype_on,
    tokens,
    tokens_a_second,
    training_step,
)
from headway.bench.llama import Shape, free, llama
from headway.bench.results import Line
from headway.bench.rounds import ratio, time_in_turns
from headway.training.graphs import many_graphs

OURS = {PLAIN: (), "all mechanisms": (*THREE, DEPTH_READ)}
Build = Callable[[Shape, str], Any]


def bench_peers(small: bool) -> Iterator[Line]:
    """Tokens a second of ours with all mechanisms over each peer's; a peer that is absent says so.

    All are compiled and take the same batch in the same dtype; each gives itself its loss.

    Args:
        small: the small shape.
    """
    shape, device = SMALL_DECODER if small else M124, device_here()
    ids, steps = tokens(shape, device), {}
    for name, mechanisms in OURS.items():
        steps[name] = training_step(decoder(shape, device, mechanisms), ids)
    for name, (build, loss_of) in PEERS.items():
        try:
            model = build(shape, device)
        except ImportError as missing:
            yield Line(f"absent: {name} ({missing})", 0.0)
            continue
        steps[name] = training_step(model.train(), ids, loss_of)
    with many_graphs():
        taken = time_in_turns(steps, shape.rounds, shape.warm_up)
    for name in steps:
        seconds = ratio(taken, name, name).seconds[0]
        yield Line(f"tokens a second: {name}", tokens_a_second(shape, seconds))
    for name in steps:
        if name in PEERS:
            for own, target in (("all mechanisms", 1.0), (PLAIN, None)):
                found = ratio(taken, name, own)
                yield Line.of_ratio(
                    f"tokens a second over {name}: ours, {own}", found, None, target
                )
    steps.clear()
    free()


def _x_transformers(shape: Shape, device: str, **options: Any) -> Any:
    from x_transformers import Decoder, TransformerWrapper

    width = shape.hidden_size // shape.num_attention_heads
    layers = Decoder(
        dim=shape.hidden_size,
        depth=shape.num_hidden_layers,
        heads=shape.num_attention_heads,
        attn_dim_head=width,
        attn_flash=True,
        rotary_pos_emb=True,
        rotary_emb_dim=width,
        use_rmsnorm=True,
        ff_glu=True,
        ff_swish=True,
        ff_no_bias=True,
        ff_mult=shape.intermediate_size / shape.hidden_size,
        **options,
    )
    model = TransformerWrapper(
        num_tokens=shape.vocab_size,
        max_seq_len=shape.length,
        use_abs_pos_emb=False,
        tie_embedding=True,
        attn_layers=layers,
    )
    return model.to(device, dtype_on(device))


def _fla(shape: Shape, device: str) -> Any:
    from fla.models import TransformerConfig, TransformerForCausalLM

    config = TransformerConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_heads=shape.num_attention_heads,
        tie_word_embeddings=True,
        use_cache=False,
    )
    return TransformerForCausalLM(config).to(device, dtype_on(device))


def _logits_loss(model: Any, ids: Tensor) -> Tensor:
    logits = model(ids)[:, :-1].flatten(0, 1)
    return F.cross_entropy(logits.float(), ids[:, 1:].flatten())


PEERS: dict[str, tuple[Build, Callable[[Any, Tensor], Tensor]]] = {
    "transformers' Llama": (llama, causal_lm_loss),
    "x-transformers": (_x_transformers, _logits_loss),
    "x-transformers with value residual": (
        partial(_x_transformers, add_value_residual=True),
        _logits_loss,
    ),
    "flash-linear-attention's Transformer": (_fla, causal_lm_loss),
}
