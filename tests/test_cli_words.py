"""Words that a verb cannot take are refused in one sentence; what passes, tyro takes."""

import dataclasses
from typing import Any

import pytest
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st

import headway_cli
from headway_cli import CORPUS_VERBS, VERBS
from headway_words import wrong_words

STUDY = ["study", "induction"]
ACCEPTED = "is not accepted; accepted are"


def sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which the words are refused."""
    with pytest.raises(SystemExit) as leaving:
        headway_cli.main(words)
    assert leaving.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([*STUDY, "--executor", "foo"], f"executor: 'foo' {ACCEPTED} local, ray, slurm"),
        ([*STUDY, "--size", "huge"], f"size: 'huge' {ACCEPTED} small, paper"),
        (["study", "--dtype=foo", "induction"], f"dtype: 'foo' {ACCEPTED} float32, "),
        (["study", "--seeds", "z"], f"seeds: 'z' {ACCEPTED} whole numbers"),
        (["compare", "--batch_size", "1e3"], f"batch_size: '1e3' {ACCEPTED} whole numbers"),
        (["train", "--learning-rate", "x"], f"learning_rate: 'x' {ACCEPTED} numbers"),
        (
            ["train", "--preset", "toy"],
            "preset: 'toy' is not accepted (did you mean 'toy-2l'?); accepted are toy-2l, ",
        ),
        (["stream", "x", "--keep", "all"], f"keep: 'all' {ACCEPTED} whole numbers, auto"),
        (["bench", "nope"], f"name: 'nope' {ACCEPTED} host, train, "),
        (
            ["corpus", "build", "txt", "x"],
            "kind: 'txt' is not accepted (did you mean 'text'?); accepted are text, music, speech",
        ),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_a_word_that_a_setting_cannot_take(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence(words, capsys).startswith(f"headway: {told}")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["plan", "8b", "--gpus", "8,16"],
            f"gpus: '8,16' {ACCEPTED} whole numbers, with a space between them",
        ),
        (["plan", "8b", "--gpus=8", "x"], f"gpus: 'x' {ACCEPTED} whole numbers, "),
        (
            ["corpus", "build", "music", "a", "--tempos", "1", "fast"],
            f"tempos: 'fast' {ACCEPTED} numbers, ",
        ),
        (
            ["train", "--report-to", "wandb", "tensorbord"],
            "report_to: 'tensorbord' is not accepted (did you mean 'tensorboard'?); accepted are ",
        ),
        (
            [*STUDY, "--rates", "a", "1e-3", "b", "c"],
            f"rates: 'c' {ACCEPTED} pairs of a word and a number",
        ),
        (
            [*STUDY, "--rates", "a", "1e-3", "b", "--save"],
            "rates: 'b' has nothing to go with; accepted are pairs of a word and a number",
        ),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_a_word_of_a_list(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentence(words, capsys).startswith(f"headway: {told}")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["compare", "--steps"], "steps: no value is given; accepted are whole numbers"),
        (["compare", "--steps", "--json"], "steps: no value is given; "),
        (["compare", "--steps", "--out=x"], "steps: no value is given; "),
        (["report"], "folder: no value is given; accepted are paths"),
        (["corpus", "build", "text"], "path: no value is given; accepted are words"),
        (["report", "a", "b"], "'b' is one word too many; headway report --help lists what is "),
        (["compare", "--json=1"], "json: '1' is not accepted; accepted is --json alone"),
        (["compare", "--stepz=3"], "--stepz is unknown (did you mean '--steps'?); headway compare"),
        (["corpus", "render", "x", "-n"], "-n is unknown; headway corpus render --help lists "),
        (["study", "--no-json"], "--no-json is unknown (did you mean '--json'?); "),
        (["study", "--page"], "--page is unknown (did you mean '--no-page'?); "),
        (["comapre"], "'comapre' is unknown (did you mean 'compare'?); accepted are compare, "),
        (["corpus", "--out", "x"], "'--out' is unknown; accepted are build, render"),
        ([], "no verb is given; accepted are compare, train, report, "),
        (["corpus"], "no verb is given; accepted are build, render"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_what_is_missing_unknown_or_too_much(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence(words, capsys).startswith(f"headway: {told}")


@pytest.mark.parametrize(
    "words",
    [
        ["study", "x", "--steps", "None", "--seeds", "2", "--size", "paper", "--seconds", "1e3"],
        ["study", "--executor-options", "size", "huge", "--size=small", "steps"],
        ["stream", "x", "--keep", "auto", "--tokens", "-1"],
        ["bench", "host", "--only", "train"],
        ["corpus", "build", "text", "x"],
        ["train", "--compile", "--no-compile", "--dtype", "bfloat16"],
        ["study", "--no-page", "x", "--arms"],
        ["compare", "--text=--x", "--hidden_size", "8"],
        ["compare", "--learning-rate", "-inf"],
    ],
    ids=" ".join,
)
def test_what_tyro_takes_is_left_to_it(words: list[str]) -> None:
    assert dataclasses.is_dataclass(headway_cli._parse(words))


@pytest.mark.parametrize("words", [["--only", "train", "host"], ["--only", "host"]], ids=" ".join)
def test_a_list_leaves_words_for_what_has_no_flag(words: list[str]) -> None:
    verbs = {verb.name: verb.settings for verb in VERBS}
    assert wrong_words(["bench", *words], verbs, "headway") is None


def test_what_stands_beside_two_dashes_is_left_to_tyro() -> None:
    verbs = {verb.name: verb.settings for verb in VERBS}
    assert wrong_words(["plan", "8b", "--", "--x"], verbs, "headway") is None


PARSED = {verb.name: verb.settings for verb in (*VERBS, *CORPUS_VERBS) if verb.name != "corpus"}
PIECES = (
    *("--json", "--no-page", "--steps", "--context=2", "--rates", "--gpus", "--only", "--tempos"),
    *("--text", "--keep", "--stepz", "--out=x", "--text=--x", "--compile", "--no-compile"),
    *("1", "-1", "1e-3", "-inf", "x", "text", "host", "train", "-", "-v", "--5", "8,16", "None"),
    *("--arms", "--report-to", "wandb", "--seeds", "--no_battery"),
)
"""Flags of some verbs, values of some, and what is neither."""


def taken_by_tyro(verb: str, words: list[str]) -> bool:
    """Whether tyro finds nothing to refuse."""
    off: tuple[Any, ...] = () if verb == "train" else (tyro.conf.FlagCreatePairsOff,)
    config = (tyro.conf.PositionalRequiredArgs, *off)
    try:
        tyro.cli(PARSED[verb], args=words, config=config, console_outputs=False)
    except SystemExit:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(PARSED)), st.lists(st.sampled_from(PIECES), max_size=6, unique=True))
def test_refused_is_what_tyro_refuses(verb: str, words: list[str]) -> None:
    """Each flag once: tyro does not look at a value that is typed over."""
    refusal = wrong_words([verb, *words], PARSED, "headway", paired=("train",))
    assert (refusal is None) == taken_by_tyro(verb, words), refusal


@pytest.mark.parametrize(
    "words",
    [["study", "--help", "--size", "huge"], ["study", "--size", "huge", "-h"]],
    ids=" ".join,
)
def test_help_is_given_beside_a_wrong_word(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        headway_cli.main(words)
    assert leaving.value.code == 0
    assert "--size {small,paper}" in capsys.readouterr().out


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.name not in ("train", "corpus")])
def test_the_help_of_a_flag_that_turns_off_says_what_it_does(
    verb: headway_cli.Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        headway_cli.main([verb.name, "--help"])
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    on = [field.name for field in dataclasses.fields(verb.settings) if field.default is True]
    assert (verb.name in ("study", "sinks")) == bool(on)
    for name in on:
        _, _, says = told.rpartition(f"--no-{name.replace('_', '-')} ")
        assert says.startswith(("Draw no ", "Leave out ")), says[:80]
        assert says.partition("(default: ")[2].startswith("False)")
