"""Loading any decoder or encoder to look at its attention."""

from __future__ import annotations

from typing import Any, get_args

from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from headway.errors import HeadwayError
from headway.hosts.loading import device_of, read_config, read_model, read_tokenizer
from headway_settings import EvalDtype


def load_for_profile(
    model: str, dtype: str = "auto", device: str = "auto"
) -> tuple[PreTrainedModel, Any]:
    """Load a model in evaluation mode and its tokenizer, from safetensors only, without its code.

    A model comes with the head that predicts tokens, if its kind has one; a decoder's predicts the
    next token, an encoder's a hidden one.

    Args:
        model: folder or hub id of a decoder or an encoder of transformers, of one that was saved
            with mechanisms, or of a `HeadwayForCausalLM`.
        dtype: 'float32', 'bfloat16', 'float16', or 'auto' for that of the saved weights.
        device: 'auto' (a GPU if there is one), or as torch spells it.

    Raises:
        HeadwayError: nothing there, an encoder-decoder, a model that reads no tokens, a pickle,
            code of its own, weights that are not whole, another dtype, no tokenizer, or a device
            that is not there.
    """
    if dtype not in get_args(EvalDtype):
        accepted = ", ".join(get_args(EvalDtype))
        raise HeadwayError(f"dtype: value is {dtype!r}; accepted are {accepted}")
    place, config = device_of(device), read_config(model)
    where = f"model: {model!r} ({config.model_type})"
    if getattr(config, "is_encoder_decoder", False):
        raise HeadwayError(
            f"{where} is an encoder-decoder, which is not accepted; accepted is an encoder or a "
            "decoder alone"
        )
    tokenizer = read_tokenizer(model, config)
    loaded = read_model(model, config, dtype, _loader(config))
    if loaded.main_input_name != "input_ids":
        raise HeadwayError(
            f"{where} reads {loaded.main_input_name}; accepted is a model that reads tokens"
        )
    return loaded.to(place).eval(), tokenizer  # type: ignore[arg-type]  # transformers' stub


def _loader(config: Any) -> Any:
    """The Auto class that reads every weight: a head that was not saved would be random."""
    kind, written = type(config), config.architectures
    causal, masked = AutoModelForCausalLM._model_mapping, AutoModelForMaskedLM._model_mapping
    # BERT and its like are decoders only where their configuration says so.
    both = not getattr(config, "is_decoder", False) and kind in masked
    mapping, loader = (masked, AutoModelForMaskedLM) if both else (causal, AutoModelForCausalLM)
    if kind not in mapping:
        return AutoModel
    with_head: Any = mapping[kind]
    return loader if not written or with_head.__name__ in written else AutoModel
