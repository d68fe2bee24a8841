"""Compiled training steps: a program for each kind of model, shared by all models of it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from headway.corpora.batches import Windows
from headway.decoder import HeadwayConfig, HeadwayForCausalLM
from headway.training.recipe import Recipe
from headway.training.run import train

KINDS = 10
"""More than torch keeps of one function."""


def test_models_of_a_kind_share_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.fx.GraphModule] = []

    def counted(graph: torch.fx.GraphModule, _: Sequence[torch.Tensor]) -> Callable[..., Any]:
        made.append(graph)
        return graph.forward

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda called: real(called, backend=counted))
    torch.compiler.reset()
    drawn = np.random.default_rng(0).integers(32, size=200).astype(np.uint16)
    data = Windows(drawn, 8, 2, seed=0)
    recipe = Recipe(steps=2, learning_rate=1e-3, weight_decay=0.1)
    for _ in range(2):
        for width in range(1, KINDS + 1):
            config = HeadwayConfig(
                vocab_size=32,
                hidden_size=4 * width,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=8,
            )
            steps = list(train(HeadwayForCausalLM(config), data, recipe, "float32", True))
            assert len(steps) == 2
    assert len(made) == KINDS
