"""What `headway --help` and `headway VERB --help` begin with, and what they say of switches."""


def off(does: str) -> object:
    """What the help says of a switch that is on, whose one flag, --no-NAME, turns it off.

    Annotations are evaluated by the command line alone: dataclasses that hold this need no tyro.
    """
    from tyro import conf

    return conf.arg(help=does, help_behavior_hint="(default: False)")


def own_default() -> object:
    """That the help of a setting tells its default itself, in the place of what stands in code."""
    from tyro import conf

    return conf.arg(help_behavior_hint="")


ABOUT = """\
Headway puts better attention into language models and shows what it changed.

examples:
  headway compare                      the demo: six arms on Python's own sources
  headway compare --arms vanilla kv_shift --text wiki.jsonl.xz --out runs/wiki
  headway train --preset toy-2l        one model, trained well, as a pretrained folder
  headway report runs/wiki             the table and the page of that run again
  headway retrofit my-llama --mechanisms selective --text wiki.jsonl.xz
  headway eval gpt2 --tasks wikitext   tasks of lm-eval, with mechanisms or without
  headway sinks gpt2                   which tokens soak up attention, and why
  headway stream my-llama --text book  a long text with a bounded cache
  headway plan 8b 70b --gpus 8 64      memory and time of a training run, before it is started
  headway bench host                   what attached mechanisms cost in speed and memory
  headway corpus build music midi.zip --out runs/piano   tokens of text, music or speech
  headway --version"""

COMPARE = """\
Train a small language model with and without mechanisms; report the paired differences.

examples:
  headway compare
  headway compare --arms vanilla kv_shift --text wiki.jsonl.xz --seeds 3 --steps 400 --out runs/wiki
  headway compare --arms vanilla kv_shift+selective --match parameters --out runs/matched
  headway compare --arms arms.json --device cuda --dtype bfloat16 --json"""

TRAIN = """\
Train one model well, from a text to a pretrained folder; the same command continues it.

examples:
  headway train --preset toy-2l --mechanisms kv_shift --text wiki.jsonl.xz --out runs/toy
  headway train --preset llama-124m --mechanisms kv_shift+selective --corpus runs/corpus
  headway train --preset llama-124m --print-config > run.toml
  headway train --config run.toml --steps 20000
  headway train --model my-llama --mechanisms selective --text notes --steps 500
  torchrun --nproc-per-node 8 -m headway train --config run.toml --sharding fsdp"""

REPORT = """\
Draw the table and the page again from the results of an earlier comparison.

examples:
  headway report runs/wiki
  headway report runs/wiki --format markdown"""

RETROFIT = """\
Fine-tune a trained model with and without mechanisms; report the paired perplexities.

examples:
  headway retrofit my-llama --mechanisms selective --text wiki.jsonl.xz --steps 500 --out runs/fit
  headway retrofit my-llama --mechanisms kv_shift+selective --train mechanism --text notes
  headway retrofit owner/model --train lora --text wiki.jsonl.xz --device cuda --dtype bfloat16
  headway retrofit my-llama --mechanisms mine.json --seeds 5 --json"""

EVAL = """\
Ask a model the tasks of lm-eval, or measure its perplexity on a text of your own.

examples:
  headway eval gpt2 --tasks wikitext lambada_openai --out runs/gpt2
  headway eval gpt2 --mechanisms runs/shifted --tasks "blimp_*" --limit 100
  headway eval runs/model --offline-text wiki.jsonl.xz --json
  headway eval runs/model --include-path my_tasks --tasks my_task"""

STUDY = """\
Rerun the test of a published claim; results are files that a rerun extends.

examples:
  headway study --list
  headway study amicl
  headway study amicl --draw           the page and the table of what is there; runs nothing
  headway study sinks
  headway study sinks --arms rope learned --text wiki.jsonl.xz --out runs/sinks
  headway study sinks --size paper --device cuda --dtype bfloat16 --compile --text wiki.jsonl.xz"""

PLAN = """\
Tell memory and time of a training run before it is started, for sizes and numbers of GPUs.

examples:
  headway plan 1b 8b 70b --gpus 8 64 512
  headway plan 124m --gpus 1 --context 2048 --batch-size 16 --weights bfloat16
  headway plan my-llama --gpus 16 --gpu h100 --sharding fsdp --mechanisms kv_shift+selective
  headway plan 70b --gpus 64 --tensor-parallel 8 --format json"""

SINKS = """\
Find the tokens that soak up a model's attention, and why the model chose them.

examples:
  headway sinks gpt2
  headway sinks runs/model --text wiki.jsonl.xz --tokens 256 --out runs/sinks
  headway sinks google-bert/bert-base-uncased --bos no --no-battery
  headway sinks owner/model --device cuda --dtype bfloat16 --json"""

STREAM = """\
Read a long text with waivers and a window, beside a full cache, a window alone and others.

examples:
  headway stream my-llama --text book.txt
  headway stream my-llama --text book.txt --window 1020 --keep 4 --tokens 65536 --out runs/book
  headway stream owner/model --keep auto --device cuda --dtype bfloat16 --json"""

CORPUS = """\
Turn raw text, music or speech into tokens (`corpus build`), and tokens back (`corpus render`).

examples:
  headway corpus build --help
  headway corpus render --help"""

BUILD = """\
Turn raw files into a folder of tokens, split and checked.

examples:
  headway corpus build music asap-performances.zip --out runs/piano --transpose 3
  headway corpus build music maestro --groups maestro/maestro-v3.0.0.csv --out runs/maestro
  headway corpus build speech kerstin-24khz.zip --out runs/speech
  headway corpus build text wiki/train.jsonl.xz --tokenizer characters --out runs/characters"""

RENDER = """\
Turn tokens of a corpus back into music, sound or text.

examples:
  headway corpus render runs/piano --out first.mid
  headway corpus render runs/piano --tokens continuation.json --out continuation.mid"""

BENCH = """\
Measure speed and memory as ratios inside one run, beside their targets.

examples:
  headway bench host
  headway bench host --small --eager
  headway bench host --only decode
  headway bench train --only mechanisms llama
  headway bench peers
  headway bench loop
  headway bench prologue
  headway bench received
  headway bench ensemble
  headway bench sinks
  headway bench corpora --only speech
  headway bench host --json"""
