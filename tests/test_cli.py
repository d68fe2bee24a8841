"""The command line before any verb runs: help, refusals and exit codes, told at once."""

import errno
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
for name in ("headway", "headway.studies", "headway.studies.comparison"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["headway.errors"] = types.ModuleType("headway.errors")
sys.modules["headway.errors"].HeadwayError = HeadwayError
compares = "headway.studies.comparison.compare"
sys.modules[compares] = types.ModuleType(compares)
sys.modules[compares].compare = compare
"""


@pytest.mark.parametrize("words", [["--help"], ["compare", "--help"], ["report", "--help"]])
def test_help_shows_an_example_and_leaves_torch_alone(words: list[str]) -> None:
    done = call_main(words)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "examples:\n  headway " in done.stdout
    assert "torch imported: False" in done.stdout


def test_wrong_use_exits_2_in_one_sentence_and_leaves_torch_alone() -> None:
    done = call_main(["compare", "--stepz", "3"])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("headway: --stepz is unknown (did you mean '--steps'?)")
    assert "torch imported: False" in done.stdout


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_dies_of_sigterm_without_a_word() -> None:
    """As `multiprocessing.Pool` ends its workers, which inherit the handler of signals."""
    body = """
    import os, signal, time
    runs, tells = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tells, b"!")
        time.sleep(20)
        os._exit(1)
    os.read(runs, 1)
    os.kill(child, signal.SIGTERM)
    print("ended by signal", -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit(0)
"""
    done = call_main(["compare"], with_compare(body))
    ended = f"ended by signal {int(signal.SIGTERM)}"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [ended, "torch imported: False"]


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
    with subprocess.Popen(
        [sys.executable, "-m", "headway_cli", "study", "--help"],
        env={**os.environ, "PYTHONPATH": SOURCES, "NO_COLOR": no_color, "TERM": "xterm"},
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        shown = read_terminal(ours)
    os.close(ours)
    assert "headway study" in shown
    assert ("\x1b[" in shown) == coloured


def read_terminal(descriptor: int) -> str:
    """All that is written to a pseudo-terminal until the last writer closes it.

    Read while it is written: a terminal takes some kilobytes, then its writer waits for a reader.
    """
    pieces = []
    while True:
        try:
            piece = os.read(descriptor, 65536)
        except OSError as error:  # Linux tells the end so
            if error.errno != errno.EIO:
                raise
            break
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces).decode()
