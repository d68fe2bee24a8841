"""Models with mechanisms on disk: whole folders of transformers, or the mechanisms alone."""

import copy
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any, Literal, cast, overload

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils.hub import cached_file

from headway.decoder.model import HeadwayForCausalLM
from headway.errors import HeadwayError
from headway.files import write_atomically
from headway.hosts.attach import (
    attached,
    attached_host,
    bare,
    belongs_to_headway,
    build_in,
    check_fit,
    detach,
    install,
)
from headway.hosts.family import host_class
from headway.hosts.model import MARK, HostForCausalLM
from headway.hosts.offloading import keep_loaded
from headway.mechanisms.base import Learned, Mechanism
from headway.mechanisms.sizes import mechanisms_of
from headway.safe_loading import one_sentence

TENSORS, DESCRIPTION = "headway.safetensors", "headway.json"
SIZES = (
    "model_type",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_hidden_layers",
    "vocab_size",
)
UNQUANTISED = r".*\.headway"
"""Quantizers leave alone what `_keep_in_fp32_modules` names, which they match from the start."""
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
NOT_OVERRIDDEN = ("dtype", "torch_dtype", "quantization_config")
"""Fields of a configuration that mean something else where a model is loaded."""


class LoadedHost(HostForCausalLM):
    """Builds the mechanisms of its configuration, so that transformers loads them with the rest."""

    _keep_in_fp32_modules: set[str] | list[str] | None

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        build_in(cast(PreTrainedModel, self), mechanisms_of(config))
        self._keep_in_fp32_modules = {*(self._keep_in_fp32_modules or ()), UNQUANTISED}

    def _get_dtype_plan(self, dtype: torch.dtype) -> dict[str, torch.dtype]:
        plan: dict[str, torch.dtype] = super()._get_dtype_plan(dtype)  # type: ignore[misc]
        plan.pop(UNQUANTISED, None)
        if dtype in (torch.float16, torch.bfloat16):
            plan |= dict.fromkeys(_precise_names(self), torch.float32)
        return plan


@overload
def from_pretrained(
    path_or_hub_id: str | os.PathLike[str], *, output_loading_info: Literal[True], **kwargs: Any
) -> tuple[PreTrainedModel, dict[str, Any]]: ...
@overload
def from_pretrained(path_or_hub_id: str | os.PathLike[str], **kwargs: Any) -> PreTrainedModel: ...
def from_pretrained(path_or_hub_id: str | os.PathLike[str], **kwargs: Any) -> Any:
    """Load a model that was saved with mechanisms by `model.save_pretrained`, or one of ours.

    Args:
        path_or_hub_id: a folder, or an id on the hub.
        kwargs: as in transformers' `from_pretrained` (`dtype`, `device_map`, `revision`,
            `quantization_config`, `config`, fields of the configuration, ...). Only safetensors
            are read and no code is executed.

    Returns:
        The model; with `output_loading_info=True` also transformers' report of the names of
        tensors that were missing or left over.

    Raises:
        HeadwayError: no such folder, one without mechanisms, or a damaged or foreign file.
    """
    where = f"path_or_hub_id: {str(path_or_hub_id)!r}"
    if kwargs.pop("trust_remote_code", False):
        raise HeadwayError("trust_remote_code: true is not accepted; nothing loaded is executed")
    hub = {k: v for k, v in kwargs.items() if k in HUB_OPTIONS}
    config, options = _configuration(path_or_hub_id, where, hub, kwargs)
    if config.model_type == "headway":
        loaded: Any = HeadwayForCausalLM.from_pretrained(path_or_hub_id, **kwargs)
        keep_loaded(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded
    mechanisms = mechanisms_of(config)
    if not mechanisms and kwargs.get("config") is not None:
        raise HeadwayError("config: it names no mechanisms; accepted is one with the folder's")
    if not mechanisms:
        raise HeadwayError(
            f"{where} holds no mechanisms; load it with AutoModelForCausalLM.from_pretrained and "
            "call headway.attach(model, [...])"
        )
    check_fit(config, mechanisms)
    told = options.pop("output_loading_info", False)
    loader: Any = host_class(LoadedHost, AutoModelForCausalLM._model_mapping[type(config)])
    with one_sentence(where):
        model, report = loader.from_pretrained(
            path_or_hub_id,
            **(options | {"config": config, "use_safetensors": True, "output_loading_info": True}),
        )
    absent = sorted(name for name in report["missing_keys"] if belongs_to_headway(name))
    if absent:
        raise HeadwayError(
            f"{where} lacks {len(absent)} of its mechanisms' tensors, such as {absent[0]!r}; "
            "accepted are folders written by model.save_pretrained"
        )
    keep_loaded(model)
    return (model, report) if told else model


def save_mechanisms(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write what attaching added, and nothing of the base model, into a folder.

    Args:
        model: with mechanisms attached; a peft model around it is fine.
        path: of the folder; it is made if need be.

    Raises:
        HeadwayError: nothing is attached, peft wrapped a part of it, or no folder can be there.
    """
    host, folder = attached_host(model), Path(path)
    tensors = {n: t.detach().cpu().contiguous() for n, t in _own_tensors(host).items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HeadwayError(
            f"path: {str(path)!r} cannot be made a folder ({error.strerror}); accepted is a folder"
        ) from error
    handle, name = tempfile.mkstemp(dir=folder, prefix=f".{TENSORS}.")
    os.close(handle)
    try:
        save_file(tensors, name, metadata={"format": "pt"})
        Path(name).chmod(0o644)
        Path(name).replace(folder / TENSORS)
    finally:
        Path(name).unlink(missing_ok=True)
    description = {
        "format": 1,
        "mechanisms": [m.to_dict() for m in attached(model)],
        "host": _sizes(host.config),
    }
    write_atomically(folder / DESCRIPTION, json.dumps(description, indent=2) + "\n")
    return folder


def load_mechanisms(model: nn.Module, path_or_hub_id: str | os.PathLike[str]) -> nn.Module:
    """Attach what `save_mechanisms` wrote, with its values, to the same kind of base model.

    A model that has the very same mechanisms attached already takes the values.

    Raises:
        HeadwayError: missing, damaged or foreign files, another kind of base model, or other
            mechanisms attached. The model is then as it was.
    """
    where, host = f"path_or_hub_id: {str(path_or_hub_id)!r}", bare(model)
    if Path(path_or_hub_id).is_dir() and not (Path(path_or_hub_id) / DESCRIPTION).is_file():
        raise HeadwayError(
            f"{where} has no {DESCRIPTION}, hence save_mechanisms did not write it; a whole model "
            "with its mechanisms is loaded by headway.from_pretrained(path)"
        )
    files = []
    with one_sentence(where):
        for name in (DESCRIPTION, TENSORS):
            found = cached_file(path_or_hub_id, name)
            assert found is not None
            files.append(found)
        tensors = load_file(files[1])
    mechanisms, sizes = _read_description(Path(files[0]), where)
    for field, value in _sizes(host.config).items():
        if sizes.get(field) != value:
            raise HeadwayError(
                f"{where} was saved from a model with {field}={sizes.get(field)!r}; this one has "
                f"{field}={value!r}"
            )
    present = attached(model)
    if present and present != mechanisms:
        raise HeadwayError(
            f"{where} holds {_names(mechanisms)}, but {_names(present)} with its options is "
            "attached; detach(model) first"
        )
    if not present:
        check_fit(host.config, mechanisms)
        install(host, mechanisms)
    own = _own_tensors(host)
    for name in sorted(own.keys() | tensors.keys()):
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape:
            if not present:
                detach(model)
            raise HeadwayError(
                f"{where} does not hold what its description says: see the tensor {name!r}"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    return model


def _configuration(
    path: Any, where: str, hub: dict[str, Any], kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The configuration that is given, or else read and overridden; and the options left over."""
    given = kwargs.get("config")
    if isinstance(given, PreTrainedConfig):
        config, options = copy.deepcopy(given), kwargs
    else:
        source, where = (path, where) if given is None else (given, f"config: {str(given)!r}")
        kept = {k: v for k, v in kwargs.items() if k in (*NOT_OVERRIDDEN, *HUB_OPTIONS)}
        fields = {k: v for k, v in kwargs.items() if k not in kept and k != "config"}
        config, options = _read_configuration(source, where, hub | fields)
        options |= kept
    if config._attn_implementation == MARK:
        config._attn_implementation = None
    return config, options


def _read_configuration(
    source: Any, where: str, options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    # In place of the mark, with which transformers would not accept output_attentions.
    options = {"attn_implementation": None} | options | {"return_unused_kwargs": True}
    try:
        with one_sentence(where):
            found: tuple[Any, dict[str, Any]] = AutoConfig.from_pretrained(
                source, trust_remote_code=False, **options
            )
            return found
    except HeadwayError:
        raise
    except (ValueError, KeyError, TypeError, StrictDataclassError) as error:
        said = " ".join(str(error).split())
        raise HeadwayError(f"{where} has a configuration that is not accepted: {said}") from error


def _read_description(file: Path, where: str) -> tuple[list[Mechanism], dict[str, Any]]:
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise HeadwayError(f"{where} has a damaged {DESCRIPTION}: {error}") from error
    listed = description.get("mechanisms") if isinstance(description, dict) else None
    sizes = description.get("host") if isinstance(description, dict) else None
    if not isinstance(listed, list) or not isinstance(sizes, dict):
        raise HeadwayError(
            f"{where} has a {DESCRIPTION} of another form; accepted is what save_mechanisms writes"
        )
    return [Mechanism.from_dict(m) for m in listed], sizes


def _sizes(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in SIZES if hasattr(config, name)}


def _names(mechanisms: list[Mechanism]) -> str:
    return ", ".join(m.name for m in mechanisms)


def _own_tensors(host: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, as they are called without peft around them."""
    own = {}
    for name, tensor in host.state_dict(keep_vars=True).items():
        if not belongs_to_headway(name):
            continue
        if ".base_layer." in name or ".lora_" in name:
            raise HeadwayError(
                f"model: peft wrapped a part of the mechanisms (see {name!r}), which no plain "
                "model could load; call merge_and_unload() first, or keep peft out of them with "
                'exclude_modules=r".*headway.*"'
            )
        if ".original_module." not in name:
            own[re.sub(r"\.modules_to_save\.[^.]+", "", name)] = tensor
    return own


def _precise_names(model: nn.Module) -> set[str]:
    """Patterns of learned numbers outside matrices, which stay in float32."""
    return {
        re.escape(f"headway{path.rpartition('headway')[2]}.{name}") + "$"
        for path, module in model.named_modules()
        if isinstance(module, Learned) and belongs_to_headway(path)
        for name, _ in module.named_parameters(recurse=False)
    }
