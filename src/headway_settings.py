"""What the command line is asked to do: plain data, importable in milliseconds.

This module lies outside the package because importing `headway` imports torch, and the command line
must be able to print its help or say no without that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from headway_help import off, own_default

__version__ = "0.1.0"

DEMO_ARMS = (
    "vanilla",
    "kv_shift",
    "value_stream",
    "selective",
    "shortcut",
    "kv_shift+selective",
)


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Train one small language model with and without mechanisms, several seeds an arm."""

    arms: tuple[str, ...] = DEMO_ARMS
    """Presets joined by '+', or one path to a JSON file {"arm name": [mechanism, ...]}."""
    text: str | None = None
    """File, folder or .zip of text, MIDI or sound; .jsonl[.xz|.gz|.zst] with a "text" field;
    hf:NAME; or a folder that `headway corpus build` wrote; else Python's sources."""
    tokenizer: str = "bpe"
    """'bpe' (byte-level, from the training split), 'bytes', 'characters' (text8's 27), or the path
    of a tokenizer.json."""
    vocab_size: int = 512
    """Vocabulary of the trained BPE."""
    max_characters: int = 8_000_000
    """Read at most this much text (whole documents)."""
    out: Path = Path("runs/demo")
    """Folder of the results; the same command with the same folder continues an interrupted run."""

    seeds: int = 6
    """Seeds an arm; all arms share them."""
    steps: int = 220
    """Optimiser steps a run."""
    batch_size: int = 8
    """Sequences a step."""
    context: int = 128
    """Tokens a sequence."""
    hidden_size: int = 64
    """Width of the residual stream."""
    num_hidden_layers: int = 2
    """Blocks."""
    num_attention_heads: int = 2
    """Query heads."""
    num_key_value_heads: Annotated[int | None, own_default()] = None
    """Key-value heads (default: as many as query heads)."""
    position: Literal["rope", "learned", "alibi", "none"] = "rope"
    """Position encoding."""
    initializer_range: float = 0.08
    """Standard deviation of the initial matrices."""
    learning_rate: float = 4e-3
    """Peak learning rate: linear warm-up over a tenth of the steps, then cosine to a tenth."""
    weight_decay: float = 0.1
    """Decoupled weight decay on matrices; learned scalars of mechanisms are not decayed."""
    evaluations: int = 4
    """Validations and in-context probes, evenly spaced over the run."""
    validation_tokens: int = 16_384
    """Tokens of the validation split that every evaluation reads."""
    match: Literal["none", "parameters"] = "none"
    """'parameters' adds a widened vanilla as large as the largest arm."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU if there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward pass (bfloat16 by autocast; weights stay float32)."""
    compile: bool = False
    """torch.compile the training step."""
    json: bool = False
    """Print the summary as JSON on standard output instead of tables."""


@dataclass(frozen=True, kw_only=True)
class RetrofitSettings:
    """Fine-tune a trained model with and without mechanisms, several seeds an arm."""

    model: str
    """Folder or hub id of a plain causal language model of transformers (safetensors only)."""
    mechanisms: str = "selective"
    """Presets joined by '+', or the path of a JSON file [mechanism, ...], taken as written."""
    init: Literal["identity", "paper"] = "identity"
    """How presets start: 'identity' leaves the model's logits as they are, 'paper' does not."""
    train: Literal["all", "mechanism", "lora"] = "all"
    """All weights, the mechanisms alone, or low-rank adapters (needs peft) with the mechanisms."""
    text: str | None = None
    """File, folder, .zip, .jsonl[.xz|.gz|.zst] with a "text" field, hf:NAME, or a folder that
    `headway corpus build` wrote; else Python's sources."""
    max_characters: int = 8_000_000
    """Read at most this much text (whole documents)."""
    out: Path = Path("runs/retrofit")
    """Folder of the results; the same command with the same folder continues an interrupted run."""

    seeds: int = 2
    """Seeds an arm: orders of the batches, and starts of adapters; both arms share them."""
    steps: int = 200
    """Optimiser steps a run; 0 measures the model before training only."""
    batch_size: int = 8
    """Sequences a step."""
    context: int = 256
    """Tokens a sequence, at most the model's max_position_embeddings."""
    learning_rate: float = 1e-4
    """Peak learning rate: linear warm-up over a tenth of the steps, then cosine to a tenth."""
    mechanism_learning_rate: Annotated[float | None, own_default()] = None
    """Peak for the mechanisms, which have further to go than trained weights (default: 10 times
    the learning rate)."""
    weight_decay: float = 0.01
    """Decoupled weight decay on matrices; vectors and mechanisms' own numbers are not decayed."""
    validation_tokens: int = 16_384
    """Tokens of the validation split that every evaluation reads."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU if there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward pass (bfloat16 by autocast; weights stay float32)."""
    json: bool = False
    """Print the summary as JSON on standard output instead of tables."""


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Draw the table and the page again from the results of an earlier comparison."""

    folder: Path
    """The folder that `headway compare --out` wrote."""
    format: Literal["table", "markdown", "json"] = "table"
    """What to print on standard output."""


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Rerun the test of a published claim."""

    name: tuple[str, ...]
    """The study, a name that --list shows."""
    list: bool = False
    """Show all studies, or all that is known of the named ones, with what --out (default: runs)
    holds of each in a folder of its name."""
    draw: bool = False
    """Run nothing: draw what is there, and print its table. Takes size, out, page and json."""
    size: Literal["small", "paper"] = "small"
    """'small' shows on a CPU, in minutes, that all works; 'paper' tests the claim on a GPU."""
    arms: Annotated[tuple[str, ...], own_default()] = ()
    """Arms to run (default: all that the study compares)."""
    text: str | None = None
    """File, folder or .zip of text, MIDI or sound; .jsonl[.xz|.gz|.zst] with a "text" field;
    hf:NAME; or a folder that `headway corpus build` wrote; else Python's sources."""
    out: Annotated[Path | None, own_default()] = None
    """Folder of the results (default: runs/NAME); a rerun adds what is missing."""
    corpus: Annotated[Path | None, own_default()] = None
    """Folder of the tokens, made if missing (default: in that of the results); processes that run
    at once may share it. Language models also take one that headway corpus build made."""
    steps: Annotated[int | None, own_default()] = None
    """Optimiser steps an arm (default: as the size says)."""
    batch_size: Annotated[int | None, own_default()] = None
    """Sequences a step (default: as the size says)."""
    learning_rate: Annotated[float | None, own_default()] = None
    """Peak learning rate: linear warm-up over a tenth of the steps, then cosine to a tenth
    (default: as the size says)."""
    rates: tuple[tuple[str, float], ...] = ()
    """Peak learning rates of single arms: ARM RATE ARM RATE ..."""
    seconds: float | None = None
    """Most seconds that an arm trains; one that is stopped so is measured, and trained anew by a
    rerun."""
    seed: int = 0
    """Of the weights and of the order of the data; the first one of several."""
    seeds: Annotated[int | None, own_default()] = None
    """Seeds an arm (default: as the study and the size say)."""
    tuning_seeds: Annotated[int | None, own_default()] = None
    """Seeds on which studies of language models try each learning rate (default: 1)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU if there is one."""
    executor: Literal["local", "ray", "slurm"] = "local"
    """Where runs are done: here, on a cluster of ray, or as jobs of Slurm (needs submitit)."""
    executor_options: tuple[tuple[str, str], ...] = ()
    """Of ray.remote or of submitit's update_parameters: NAME VALUE NAME VALUE ..."""
    job: Literal["arm", "run"] = "arm"
    """What a job of the executor is: an arm with all its runs, or one run."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward pass (bfloat16 by autocast; weights stay float32)."""
    compile: bool = False
    """torch.compile the training step."""
    save: bool = False
    """Keep each trained model, in bfloat16 and files below 15 MB, in ARM-model."""
    page: Annotated[bool, off("Draw no report.html.")] = True
    """Draw report.html."""
    json: bool = False
    """Print the results as JSON on standard output instead of a table."""


EvalDtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """Ask a model the tasks of lm-eval, or measure its perplexity on a text."""

    model: str
    """Folder or hub id: a plain model, one saved with mechanisms, or one of Headway's own."""
    mechanisms: Path | None = None
    """Folder of headway.save_mechanisms, to put into a plain model."""
    tasks: tuple[str, ...] = ()
    """Names of lm-eval's tasks, groups or tags; '*' stands for any characters."""
    include_path: Path | None = None
    """Folder with task files (YAML) of your own."""
    offline_text: str | None = None
    """Text to measure perplexity on without a network: file, folder, .zip, or .jsonl[.xz|.gz|.zst]
    with a "text" field."""
    limit: int | None = None
    """At most as many examples a task, and documents of the text."""
    num_fewshot: Annotated[int | None, own_default()] = None
    """Solved examples before each question (default: what the task says)."""
    batch_size: int = 8
    """Sequences a forward pass."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    dtype: EvalDtype = "auto"
    """Type of the weights and of the arithmetic; auto is that of the saved weights."""
    out: Path | None = None
    """Folder for the result, eval.json."""
    json: bool = False
    """Print the result as JSON on standard output instead of a table."""


@dataclass(frozen=True, kw_only=True)
class SinksSettings:
    """Find the tokens that soak up a model's attention, and why it chose them."""

    model: str
    """Folder or hub id of a decoder or encoder, with mechanisms or without (safetensors only)."""
    text: str | None = None
    """File, folder, .zip, .jsonl[.xz|.gz|.zst] with a "text" field, hf:NAME, or a folder that
    `headway corpus build text` wrote; else Python's documentation."""
    tokens: int = 64
    """Tokens a sample, special ones included; attention received falls as samples grow longer."""
    samples: int = 100
    """Samples, windows of the text drawn at random."""
    threshold: float = 0.3
    """A token is a sink of a head that gives it more than this share of its attention."""
    bos: Literal["auto", "yes", "no"] = "auto"
    """Special tokens around a sample: 'auto' as the tokenizer puts them, 'yes' one in front in any
    case, 'no' none."""
    battery: Annotated[bool, off("Leave out the interventions that tell why.")] = True
    """Make the interventions that tell why these tokens were chosen."""
    seed: int = 0
    """Of the draw of the samples and of the interventions' random controls."""
    batch_size: Annotated[int | None, own_default()] = None
    """Samples a forward pass (default: as many as make 2,048 tokens)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    dtype: EvalDtype = "auto"
    """Type of the weights and of the arithmetic; auto is that of the saved weights."""
    out: Path = Path("runs/sinks")
    """Folder for report.html, profile.json and heads.csv."""
    json: bool = False
    """Print what profile.json holds on standard output instead of a table."""


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """Read a long text with a bounded cache, beside other ways of reading it."""

    model: str
    """Folder or hub id: a plain model, one saved with mechanisms, or one of Headway's own."""
    text: str | None = None
    """File, folder, .zip, .jsonl[.xz|.gz|.zst] with a "text" field, or hf:NAME; else Python's
    sources."""
    tokens: int = 10_752
    """Tokens of the text to read; more than are held."""
    window: int = 512
    """Recent tokens that a token sees beside the kept ones, itself counted."""
    keep: int | Literal["auto"] = 4
    """First tokens to keep, or 'auto': the waivers found in the first 64 tokens."""
    stride: Annotated[int | None, own_default()] = None
    """Compute the upper line 'recompute' anew at every n-th token (default: 1, or the least that
    stays affordable)."""
    seed: int = 0
    """Of the kept positions of 'random + window'."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    dtype: EvalDtype = "auto"
    """Type of the weights and of the arithmetic; auto is that of the saved weights."""
    out: Path = Path("runs/stream")
    """Folder of results.json and of the page report.html."""
    json: bool = False
    """Print the results as JSON on standard output instead of a table."""


@dataclass(frozen=True, kw_only=True)
class CorpusBuildSettings:
    """Turn raw files into a folder of tokens, split and checked."""

    kind: Literal["text", "music", "speech"]
    """What the files hold."""
    path: str
    """Folder, .zip archive or file; for text also .jsonl[.xz|.gz|.zst] or hf:NAME."""
    out: Path = Path("runs/corpus")
    """New folder of the corpus; the same command continues an interrupted build."""
    workers: Annotated[int | None, own_default()] = None
    """Parts made at a time (default: one a core; music and EnCodec one where the files are few)."""
    max_skipped: float = 0.05
    """Share of files that may be skipped, being damaged or hostile; more refuse the corpus."""
    group_by: Annotated[Literal["file", "folder", "top"] | None, own_default()] = None
    """What is never divided between splits: a file (default for speech), a folder (default for
    music: a piece) or a folder of the first level (in LibriSpeech: a speaker)."""
    groups: Path | None = None
    """CSV file with columns file and group, or MAESTRO's own table, that says it instead."""

    tokenizer: str = "bpe"
    """Text: 'bpe' (byte-level, from the training split), 'bytes', 'characters' (text8's 27), or the
    path of a tokenizer.json."""
    vocab_size: int = 32_768
    """Text: vocabulary of the trained BPE."""
    max_characters: int = 1_000_000_000
    """Text: read at most this much (whole documents)."""

    transpose: int = 0
    """Music: training performances also stand up to so many semitones higher and lower."""
    tempos: tuple[float, ...] = ()
    """Music: they also stand at these speeds (1.05 is 5 % faster)."""

    codec: Literal["mel", "mu-law", "encodec"] = "mel"
    """Speech: a quantiser of log-mel frames learned here (75 tokens a second), samples of 8 bits,
    or EnCodec's coarsest codebook (75 a second; needs its weights)."""
    codes: int = 1024
    """Speech: entries of the quantiser."""
    sample_rate: Annotated[int | None, own_default()] = None
    """Speech: samples a second, to which files are resampled (default: 24000 for mel, 16000 for
    mu-law)."""
    weights: str = "facebook/encodec_24khz"
    """Speech: folder or hub id of EnCodec."""


@dataclass(frozen=True, kw_only=True)
class CorpusRenderSettings:
    """Turn tokens of a corpus back into music, sound or text."""

    folder: Path
    """Folder of the corpus."""
    out: Annotated[Path | None, own_default()] = None
    """File to write: .mid for music, or .wav where the program fluidsynth is installed; .wav for
    speech, .txt for text (default: the split and the number, here)."""
    soundfont: Annotated[Path | None, own_default()] = None
    """Instruments of music as .wav, .sf2 or .sf3 (default: those fluidsynth was installed with)."""
    split: Literal["train", "validation", "test"] = "validation"
    """Where the document is."""
    number: int = 0
    """Which document, counted from 0."""
    tokens: Path | None = None
    """JSON list of token ids to render instead, such as a model's continuation."""


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """Measure speed and memory as ratios inside one run, beside their targets."""

    name: Literal[
        "host",
        "train",
        "loop",
        "shards",
        "memory",
        "decode",
        "peers",
        "prologue",
        "received",
        "ensemble",
        "sinks",
        "corpora",
    ]
    """'host': a 1B Llama with KV shift and selective attention attached, beside it untouched;
    'train': steps of our 124M decoder with mechanisms over plain, and plain beside Llama;
    'loop': `headway train` beside a bare loop over the same compiled step;
    'shards': steps sharded over the processes of torchrun beside one GPU each;
    'memory': its peak of a step; 'decode': its tokens a second; 'peers': it beside other libraries;
    'prologue': the fused prologue beside a copy; 'received': the attention that keys of a long
    layer receive, beside a flash forward pass;
    'ensemble': seeds of small models trained together over one at a time;
    'sinks': the sink profile of that Llama beside output_attentions, at growing length;
    'corpora': text, music and speech built into shards, and shards read, on a CPU."""
    only: Annotated[tuple[str, ...], own_default()] = ()
    """Parts to measure (default: all): of 'host' attach, train, decode; of 'train' mechanisms,
    llama, wide; of 'shards' 350m, 1.3b; of 'corpora' read, text, music, speech."""
    small: bool = False
    """Small sizes, for a machine without a GPU."""
    eager: bool = False
    """Leave out what 'host' measures under torch.compile."""
    json: bool = False
    """Print everything as JSON on standard output instead of a table."""
