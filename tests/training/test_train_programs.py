"""What `headway train` compiles where layers are compiled one by one."""

import torch
from small_trainings import run, write_text

from headway.training import train_run
from headway.training.sharding import compile_layers


def test_programs_are_those_of_training_alone(tmp_path, monkeypatch):
    """Measuring, before the first step too, leaves none of the few programs that torch keeps."""
    made, prepared, whole = [], train_run._prepared, torch.nn.Module.compile

    def counted(graph, _):
        made.append(torch.is_grad_enabled())
        return graph.forward

    def compiled(*given):
        model = prepared(*given)
        compile_layers(model)
        return model

    monkeypatch.setattr(torch.nn.Module, "compile", lambda layer: whole(layer, backend=counted))
    monkeypatch.setattr(train_run, "_prepared", compiled)
    torch.compiler.reset()
    text = write_text(tmp_path / "text")
    assert run(tmp_path / "run", text, steps=4, eval_every=2) == 0
    assert made
    assert all(made)
