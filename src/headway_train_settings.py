"""What `headway train` is asked to do: one dataclass, presets of it, and its form as TOML.

Apart from the package for the reason of `headway_settings`: help must come without torch.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_type_hints

from headway_help import own_default


class WrongConfig(ValueError):
    """A configuration that cannot be read, told in one sentence."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Train one model well."""

    name: ClassVar[str] = "train"

    config: Path | None = None
    """TOML file of any of these settings, with `_` where a flag has `-`; a flag counts for more."""
    preset: Literal["toy-2l", "llama-124m", "gpt2-124m"] | None = None
    """Settings to start from: 'toy-2l' (minutes on 2 CPU cores), 'llama-124m' and 'gpt2-124m' (one
    GPU or more), with --model all but the sizes; the file counts for more, and a flag for most."""
    print_config: bool = False
    """Print all settings as TOML and do nothing."""
    out: Path = Path("runs/train")
    """Folder of the run; the same command with the same folder continues it."""

    text: str | None = None
    """File, folder or .zip of text, MIDI or sound; .jsonl[.xz|.gz|.zst] with a "text" field; or
    hf:NAME; else Python's sources."""
    tokenizer: str | None = None
    """'bpe' (byte-level, from the training split; the default), 'bytes', 'characters', or the path
    of a tokenizer.json; a built corpus and --model have their own."""
    vocab_size: Annotated[int | None, own_default()] = None
    """Vocabulary of the trained BPE (default: 32768), else of a new model (default: that of the
    corpus)."""
    max_characters: int = 1_000_000_000
    """Read at most this much text (whole documents)."""
    corpus: Path | None = None
    """Folder that `headway corpus build` wrote, in place of --text (which takes one too)."""
    reset_positions: bool = True
    """Packed documents do not see each other, and positions start anew with each."""

    model: str | None = None
    """Folder or hub id of a trained model to train on, instead of a new one (safetensors only)."""
    architecture: str = "headway"
    """Of a new model: 'headway', our decoder, or a model type of transformers such as llama."""
    mechanisms: str = "vanilla"
    """Presets joined by '+', the path of a JSON file [mechanism, ...], or such a list itself."""
    hidden_size: int = 768
    """Width of the residual stream of a new model."""
    num_hidden_layers: int = 12
    """Its blocks."""
    num_attention_heads: int = 12
    """Its query heads."""
    num_key_value_heads: Annotated[int | None, own_default()] = None
    """Its key-value heads (default: as many as query heads)."""
    intermediate_size: Annotated[int | None, own_default()] = None
    """Width of its feed-forward parts (default: 4 times the hidden size, or 8/3 with SwiGLU in our
    decoder)."""
    position: Literal["rope", "learned", "alibi", "none"] = "rope"
    """Position encoding of our decoder."""
    norm: Literal["rms", "layer"] = "rms"
    """Its norms."""
    hidden_act: Literal["silu", "gelu"] = "silu"
    """Its feed-forward parts: SwiGLU, or two matrices with a GELU between them."""
    initializer_range: float = 0.02
    """Standard deviation of a new model's matrices."""

    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 64
    """Sequences a step, of all devices together."""
    micro_batch_size: Annotated[int | None, own_default()] = None
    """Sequences that a device computes at a time; gradients of several add up to a step (default:
    its whole share of a step)."""
    context: int = 1024
    """Tokens a sequence."""
    learning_rate: float = 6e-4
    """Peak learning rate."""
    mechanism_learning_rate: Annotated[float | None, own_default()] = None
    """Peak of what mechanisms learn outside matrices (default: as the rest)."""
    weight_decay: float = 0.1
    """Decoupled, on matrices; norms, biases and what mechanisms learn beside are not decayed."""
    schedule: Literal["wsd", "cosine"] = "wsd"
    """After the warm-up: stable, then linear decay towards a tenth of the peak, which it has after
    the last step; or a cosine to it."""
    warmup: float = 0.02
    """Share of the steps in which the rate rises."""
    decay: float = 0.2
    """Share of the steps in which 'wsd' lets it fall."""
    clip: float = 1.0
    """Largest global gradient norm."""
    seed: int = 0
    """Of new weights, of the order of the data and of dropout."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes GPUs if there are any."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward pass (weights stay float32)."""
    compile: bool = False
    """torch.compile the model."""
    attention: Literal["auto", "sdpa", "flex_attention", "eager"] = "auto"
    """Implementation; auto is FlexAttention for packed documents in our decoder on a GPU; else
    SDPA."""
    activation_checkpointing: bool = False
    """Compute layers again in the backward pass rather than keep what they computed."""
    deterministic: bool = False
    """Only algorithms that repeat themselves to the bit; on a GPU that costs time."""
    sharding: Literal["none", "fsdp", "hsdp"] = "none"
    """Of several processes: a whole model each; one sharded over all (FSDP2); or sharded within
    groups that are copies of each other."""
    replicas: int = 2
    """Copies under 'hsdp'."""
    tensor_parallel: int = 1
    """Processes that share the heads and the feed-forward width of each layer."""

    log_every: int = 10
    """Steps between lines of the loss."""
    eval_every: int = 250
    """Steps between validations, with the in-context probe, sinks and a sample; 0 for none."""
    validation_tokens: int = 65_536
    """Tokens of the validation split that each of them reads."""
    prompt: Annotated[str | None, own_default()] = None
    """What samples continue (default: the beginning of the validation split)."""
    sample_tokens: int = 48
    """Tokens of a sample; 0 for none."""
    save_every: int = 500
    """Steps between checkpoints; the last step is always one."""
    keep: int = 2
    """Checkpoints to keep."""
    report_to: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """Trackers beside metrics.jsonl."""


PRESETS: dict[str, dict[str, Any]] = {
    "toy-2l": {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.05,
        "vocab_size": 1024,
        "max_characters": 8_000_000,
        "context": 128,
        "batch_size": 16,
        "steps": 400,
        "learning_rate": 3e-3,
        "warmup": 0.05,
        "eval_every": 100,
        "validation_tokens": 16_384,
        "save_every": 100,
    },
    "llama-124m": {
        "intermediate_size": 2048,
        "batch_size": 512,
        "micro_batch_size": 16,
        "steps": 4800,
        "dtype": "bfloat16",
        "compile": True,
    },
    "gpt2-124m": {
        "intermediate_size": 3072,
        "position": "learned",
        "norm": "layer",
        "hidden_act": "gelu",
        "batch_size": 512,
        "micro_batch_size": 16,
        "steps": 4800,
        "dtype": "bfloat16",
        "compile": True,
    },
}
"""Settings by the name of a preset; all others stay at their defaults. A vocabulary is that of a
tokenizer to be trained."""

OF_A_NEW_MODEL = (
    "architecture",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "position",
    "norm",
    "hidden_act",
    "initializer_range",
)
"""Settings that a trained model has its own of: refused beside one, and left out of a preset."""

_NOT_IN_A_FILE = ("config", "print_config")


def settings_before_flags(words: Sequence[str]) -> TrainSettings:
    """The settings that flags then change: defaults, the preset over them, the file over that.

    Args:
        words: as typed after `headway train`; looked at are --config, --preset, --model, as a
            preset's sizes are those of a new one, and whether a tokenizer is trained, as its
            vocabulary is one of that.

    Raises:
        WrongConfig: a file that is missing, no TOML, or holds an unknown setting or a wrong type.
    """
    path = _typed(words, "--config")
    told = _read(Path(path)) if path is not None else {}
    preset = _typed(words, "--preset") or told.get("preset")
    if "--preset" not in words and preset is not None and preset not in PRESETS:
        raise WrongConfig(
            f"preset: {preset!r} is unknown{_nearest(preset, PRESETS)}; accepted are "
            f"{', '.join(PRESETS)}"
        )
    values = dict(PRESETS.get(str(preset), {}))
    trained = _typed(words, "--model") or told.get("model")
    own = OF_A_NEW_MODEL if trained else () if _trains_a_tokenizer(words, told) else ("vocab_size",)
    values = {name: value for name, value in values.items() if name not in own}
    found = TrainSettings(**values)
    if path is None:
        return found
    found = replace(found, **told, config=Path(path))
    _check_types(found)
    return found


def to_toml(settings: TrainSettings) -> str:
    """All settings, as a file that --config takes; those that are None as comments."""
    lines = ["# headway train --config THIS_FILE"]
    for name, value in asdict(settings).items():
        if name in _NOT_IN_A_FILE:
            continue
        if value is None:
            lines.append(f"# {name} =")
            continue
        if isinstance(value, Path):
            value = str(value)
        # A string, a number, a truth value or a list of strings is the same in JSON and in TOML,
        # but for escapes beyond the first 65,536 characters and for one control character.
        written = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        lines.append(f"{name} = {written}")
    return "\n".join(lines) + "\n"


def _trains_a_tokenizer(words: Sequence[str], told: Mapping[str, Any]) -> bool:
    """Whether there is a BPE to train, of the size that a preset has for it."""
    asked = {name: _typed(words, f"--{name}") or told.get(name) for name in ("corpus", "text")}
    tokenizer = _typed(words, "--tokenizer") or told.get("tokenizer") or "bpe"
    built = asked["corpus"] or (asked["text"] and Path(asked["text"], "corpus.json").exists())
    return tokenizer == "bpe" and not built


def _typed(words: Sequence[str], flag: str) -> str | None:
    """The last value typed for a flag."""
    found = None
    for number, word in enumerate(words):
        if word == flag and number + 1 < len(words):
            found = words[number + 1]
        elif word.startswith(f"{flag}="):
            found = word.removeprefix(f"{flag}=")
    return found


def _read(path: Path) -> dict[str, Any]:
    """The settings of a file in the types of the dataclass, where they can be brought to them."""
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WrongConfig(
            f"config: {str(path)!r} cannot be read ({error.strerror}); accepted is a TOML file"
        ) from error
    except ValueError as error:
        raise WrongConfig(
            f"config: {str(path)!r} is not TOML ({error}); accepted is what --print-config prints"
        ) from error
    known = {f.name for f in fields(TrainSettings)} - set(_NOT_IN_A_FILE)
    for key in told:
        if key not in known:
            raise WrongConfig(
                f"config: {str(path)!r} sets {key!r}, which is unknown{_nearest(key, known)}; "
                "accepted is what --print-config prints"
            )
    hints = get_type_hints(TrainSettings)
    return {key: _brought(value, hints[key]) for key, value in told.items()}


def _brought(value: Any, hint: Any) -> Any:
    if isinstance(value, str) and Path in (hint, *get_args(hint)):
        return Path(value)
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value) and value:
        return json.dumps(value)  # mechanisms as TOML tables
    return tuple(value) if isinstance(value, list) else value


def _check_types(settings: TrainSettings) -> None:
    """As the package does, in its words; flags are checked where they are read."""
    from headway.errors import HeadwayError
    from headway.mechanisms.fields import checked_fields

    try:
        checked_fields(settings)
    except HeadwayError as error:
        raise WrongConfig(f"config: {str(settings.config)!r}: {error}") from error


def _nearest(word: str, known: Any) -> str:
    """As the package says it; asked only where a refusal is told anyway, as it imports torch."""
    from headway.mechanisms.fields import nearest

    return nearest(word, known)
