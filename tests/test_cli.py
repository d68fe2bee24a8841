"""The command line before any verb runs: help, refusals and exit codes, told at once."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import headway_cli
import headway_settings

SOURCES = str(Path(headway_cli.__file__).parent)


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": SOURCES, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_reader_that_has_enough() -> None:
    """As in `headway train --help | head`: no traceback, and the exit code of shells."""
    words = [sys.executable, "-c", "import headway_cli; raise SystemExit(headway_cli.main())"]
    environment = os.environ | {"PYTHONPATH": SOURCES, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*words, "train", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        told = process.stderr.read()
    assert (process.returncode, told) == (141, b"")


def headway(*words: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "headway_cli", *words)


def call_main(words: list[str], prelude: str = "") -> subprocess.CompletedProcess[str]:
    """main() in a fresh interpreter, after `prelude`; then whether torch was imported."""
    return python(
        "-c",
        f"""
import sys
{prelude}
import headway_cli
try:
    code = headway_cli.main({words!r})
except SystemExit as leaving:
    code = leaving.code
print("torch imported:", "torch" in sys.modules)
sys.exit(code)
""",
    )


def with_compare(body: str) -> str:
    """A prelude that puts `body` in the place of the comparison."""
    return f"""
import types
def compare(settings, command):
    {body}
class HeadwayError(ValueError):
    pass
for name in ("headway", "headway.studies"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["headway.errors"] = types.ModuleType("headway.errors")
sys.modules["headway.errors"].HeadwayError = HeadwayError
sys.modules["headway.studies.compare"] = types.ModuleType("headway.studies.compare")
sys.modules["headway.studies.compare"].compare = compare
"""


@pytest.mark.parametrize("words", [["--help"], ["compare", "--help"], ["report", "--help"]])
def test_help_shows_an_example_and_leaves_torch_alone(words: list[str]) -> None:
    done = call_main(words)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "examples:\n  headway " in done.stdout
    assert "torch imported: False" in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["compare", "--stepz", "3"], ["--stepz", "--steps"]),
        (["compare", "--steps"], ["--steps"]),
        (["comapre"], ["comapre", "compare"]),
        (["report"], ["PATH"]),
        ([], ["compare", "report"]),
    ],
    ids=" ".join,
)
def test_wrong_use_exits_2_and_names_what_is_wrong(words: list[str], told: list[str]) -> None:
    done = call_main(words)
    assert done.returncode == 2
    assert all(part in done.stderr for part in told), done.stderr
    assert "Traceback" not in done.stderr
    assert "torch imported: False" in done.stdout


STUDY = ["study", "induction"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([*STUDY, "--executor", "foo"], "executor: 'foo' is not accepted; {} local, ray, slurm"),
        ([*STUDY, "--size", "huge"], "size: 'huge' is not accepted; {} small, paper"),
        (["study", "--dtype=foo", "induction"], "dtype: 'foo' is not accepted; {} float32, "),
        (["study", "--seeds", "z"], "seeds: 'z' is not accepted; {} whole numbers"),
        (["compare", "--batch_size", "1e3"], "batch_size: '1e3' is not accepted; {} whole numbers"),
        (["train", "--learning-rate", "x"], "learning_rate: 'x' is not accepted; {} numbers"),
        (
            ["train", "--preset", "toy"],
            "preset: 'toy' is not accepted (did you mean 'toy-2l'?); {} toy-2l, ",
        ),
        (["stream", "x", "--keep", "all"], "keep: 'all' is not accepted; {} whole numbers, auto"),
        (["bench", "nope"], "name: 'nope' is not accepted; {} host, train, "),
        (
            ["corpus", "build", "txt", "x"],
            "kind: 'txt' is not accepted (did you mean 'text'?); {} text, music, speech",
        ),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_a_word_that_a_setting_cannot_take_is_refused_in_one_sentence(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        headway_cli.main(words)
    assert leaving.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"headway: {told.format('accepted are')}")


@pytest.mark.parametrize(
    "words",
    [
        ["study", "x", "--steps", "None", "--seeds", "2", "--size", "paper", "--seconds", "1e3"],
        ["study", "--executor-options", "size", "huge", "--size=small", "steps"],
        ["stream", "x", "--keep", "auto", "--tokens", "-1"],
        ["bench", "host", "--only", "train"],
        ["corpus", "build", "text", "x"],
        ["train", "--compile", "--no-compile", "--dtype", "bfloat16"],
    ],
    ids=" ".join,
)
def test_what_tyro_takes_is_left_to_it(words: list[str]) -> None:
    settings = headway_cli._parse(words)
    assert dataclasses.is_dataclass(settings)


def test_help_is_given_beside_a_wrong_word(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        headway_cli.main(["study", "--help", "--size", "huge"])
    assert leaving.value.code == 0
    assert "--size {small,paper}" in capsys.readouterr().out


def test_the_help_of_texts_names_built_corpora_where_they_are_taken() -> None:
    for verb in ("compare", "retrofit", "study", "sinks", "train"):
        assert "headway corpus build" in headway(verb, "--help").stdout, verb


@pytest.mark.parametrize(
    "words", [["--help"], ["compare", "--help"], ["compare", "--stepz", "3"]], ids=" ".join
)
def test_answers_within_a_second(words: list[str]) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        headway(*words)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 1.0


def test_version() -> None:
    done = headway("--version")
    assert (done.returncode, done.stdout) == (0, f"headway {headway_settings.__version__}\n")


def test_compare_gets_the_settings_and_the_command() -> None:
    words = [
        "compare",
        "--arms",
        "vanilla",
        "kv_shift",
        "--batch-size",
        "3",
        "--out",
        "a b",
        "--json",
    ]
    done = call_main(
        words,
        with_compare(
            "print(settings.arms, settings.batch_size, settings.out, settings.json, command); "
            "sys.exit(0)  # before the report, which needs results"
        ),
    )
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == (
        "('vanilla', 'kv_shift') 3 a b True "
        "headway compare --arms vanilla kv_shift --batch-size 3 --out 'a b' --json"
    )


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ("raise HeadwayError('seeds must be at least 2, not 1.')", 2, "seeds must be at least 2"),
        ("raise OSError(28, 'No space left on device', 'runs/x')", 2, "no space left on the disk"),
        ("raise ModuleNotFoundError('', name='plotly')", 2, "pip install plotly"),
        ("raise KeyboardInterrupt", 130, "the same command continues"),
        (
            f"import os; os.kill(os.getpid(), {int(signal.SIGTERM)})",
            143,
            "the same command continues",
        ),
    ],
)
def test_an_expected_failure_is_one_line(body: str, code: int, told: str) -> None:
    done = call_main(["compare"], with_compare(body))
    assert done.returncode == code
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("headway: ")
    assert told in line


@pytest.mark.parametrize(
    "error",
    [
        "ValueError('a defect')",
        "PermissionError(13, 'no')",
        "ModuleNotFoundError(name='headway.x')",
    ],
)
def test_a_defect_keeps_its_traceback(error: str) -> None:
    done = call_main(["compare"], with_compare(f"raise {error}"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_missing_command_line_package_is_named() -> None:
    done = call_main(["compare"], "sys.modules['tyro'] = None")
    assert done.returncode == 2
    assert done.stderr == "headway: the package tyro is missing: pip install tyro\n"


def test_report_refuses_a_folder_without_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert headway_cli.main(["report", str(tmp_path / "none")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("headway: ")
    assert "none" in line


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("no_color", "coloured"), [("1", False), ("", True)])
def test_no_color_is_respected(no_color: str, coloured: bool) -> None:
    ours, theirs = os.openpty()
    subprocess.run(
        [sys.executable, "-m", "headway_cli", "compare", "--stepz"],
        env={**os.environ, "PYTHONPATH": SOURCES, "NO_COLOR": no_color, "TERM": "xterm"},
        stdout=theirs,
        stderr=theirs,
        timeout=60,
        check=False,
    )
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "--stepz" in shown
    assert ("\x1b[" in shown) == coloured
