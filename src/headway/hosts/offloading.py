"""Mechanisms of a model whose layers accelerate keeps on the CPU or on disk until they run."""

from typing import Any

from torch import nn

from headway.mechanisms.base import Learned


def keep_loaded(model: nn.Module) -> None:
    """Bring the mechanisms' numbers to where they compute, for good; layers stay offloaded.

    accelerate's hooks bring the tensors of a module when its `forward` is called, but mechanisms
    inside attention are called by other names, and some read matrices of modules inside them.

    Args:
        model: with mechanisms, as transformers loaded it.
    """
    learned = [module for module in model.modules() if isinstance(module, Learned)]
    for module in {part: None for outer in learned for part in outer.modules()}:
        hook = getattr(module, "_hf_hook", None)
        for inner in getattr(hook, "hooks", (hook,)):
            if getattr(inner, "offload", False):
                _load(module, inner)


def _load(module: nn.Module, hook: Any) -> None:
    # Only where accelerate put the hook is it sure to be there.
    from accelerate.hooks import remove_hook_from_module
    from accelerate.utils import named_module_tensors, set_module_tensor_to_device

    remove_hook_from_module(module)
    away = named_module_tensors(
        module, include_buffers=hook.offload_buffers, remove_non_persistent=True
    )
    for name, _ in list(away):
        value = hook.weights_map[name]
        set_module_tensor_to_device(module, name, hook.execution_device, value=value)
