"""`headway eval` and the door to lm-eval's own command line."""

import json
import os
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from made import LAST_WORD, PAIRS, SENTENCES, llama, saved, write_lines, write_task

import headway
import headway_cli
from headway import KVShift

IMPORT = "import headway, headway.evaluation.loading; print(asked, flush=True)"
SOURCES = str(Path(headway_cli.__file__).parent)


@pytest.fixture
def model(tmp_path):
    return str(saved(headway.attach(llama(), [KVShift(init="identity")]), tmp_path / "model"))


@pytest.fixture
def text(tmp_path):
    return str(write_lines(tmp_path / "t.jsonl", [{"text": text} for text in SENTENCES]))


@pytest.fixture
def tasks(tmp_path):
    rows = [{"sentence_good": text[:12], "sentence_bad": text[11::-1]} for text in SENTENCES]
    pairs = write_lines(tmp_path / "p.jsonl", rows)
    return str(write_task(tmp_path / "tasks", "pairs", pairs, **PAIRS))


def python(*words, **environment):
    return subprocess.run(
        [sys.executable, *words],
        env=os.environ | {"PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_json_table_and_file(model, text, tasks, tmp_path, capsys, own_tasks_only):
    words = ["eval", model, "--offline-text", text, "--tasks", "pairs", "--include-path", tasks]
    words += ["--limit", "3", "--out", str(tmp_path / "out" / "deep")]
    assert headway_cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "out" / "deep" / "eval.json").read_text())
    assert told["command"].startswith("headway eval ")
    assert told["mechanisms"] == [KVShift(init="identity").to_dict()]
    assert [row["metric"] for row in told["tasks"]] == ["acc"]
    assert told["tasks"][0]["examples"] == told["text"]["documents"] == 3
    assert told["text"]["bytes"] == sum(len(text.encode()) for text in SENTENCES[:3])
    assert set(told["versions"]) == {"headway", "lm_eval", "torch", "transformers"}
    assert headway_cli.main(words) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split() == ["task", "metric", "value", "stderr"]
    names = ["acc", "word_perplexity", "byte_perplexity", "bits_per_byte"]
    assert [line.split()[1] for line in shown[2:6]] == names
    assert f"3 documents, {told['text']['words']} words" in shown[-1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "tasks: the list is empty"),
        (["--offline-text", "none.txt"], "none.txt"),
        (["--tasks", "x", "--limit", "0"], "limit: value is 0; accepted are 1 and more"),
        (["--tasks", "x", "--batch-size", "0"], "batch_size: value is 0"),
        (["--tasks", "x", "--num-fewshot", "-1"], "num_fewshot: value is -1"),
        (["--tasks", "x", "--include-path", "none"], "include_path: 'none' is no folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_is_one_sentence(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert headway_cli.main(["eval", "no/such/model", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("headway: ")
    assert told in line


def test_a_missing_model_is_one_sentence(text, capsys):
    assert headway_cli.main(["eval", "no/such/model", "--offline-text", text]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("headway: model: 'no/such/model' is no folder")


def test_a_result_that_cannot_be_written(model, text, tmp_path, capsys):
    (tmp_path / "file").touch()
    for out in ("file", "file/below"):
        words = ["eval", model, "--offline-text", text, "--out", str(tmp_path / out)]
        assert headway_cli.main(words) == 2
        assert "headway: out: " in capsys.readouterr().err


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """The verb where a package is missing; lines of Python may go before it."""
    text = write_lines(tmp_path_factory.mktemp("text") / "t.jsonl", [{"text": SENTENCES[0]}])

    @cache
    def run(package, before=""):
        code = f"""
import sys
asked = []
class Without:
    def find_spec(name, path=None, target=None):
        if name == {package!r}:
            asked.append(name)
            raise ModuleNotFoundError("not here", name=name)
sys.meta_path.insert(0, Without)
{before}
import headway_cli
sys.exit(headway_cli.main(["eval", "gpt2", "--offline-text", {str(text)!r}]))
"""
        return python("-c", code)

    return run


@pytest.mark.parametrize("missing", [("lm_eval", IMPORT), ("accelerate",)], ids=lambda x: x[0])
def test_a_missing_package_is_one_sentence(missing, without):
    done, package = without(*missing), missing[0]
    assert done.returncode == 2
    expected = f"headway: the package {package} is missing: pip install {package}"
    assert done.stderr.strip().splitlines()[-1] == expected


def test_headway_itself_needs_no_lm_eval(without):
    assert without("lm_eval", IMPORT).stdout == "[]\n"


def test_a_task_that_needs_the_network(model, tmp_path):
    without = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = python("-m", "headway_cli", "eval", model, "--tasks", "wikitext", **without)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("headway: tasks: wikitext cannot be read")


def test_lm_evals_own_command_line(model, tasks, tmp_path, capsys, monkeypatch, own_tasks_only):
    words = ["--model", "headway", "--model_args", f"pretrained={model}", "--tasks", "pairs"]
    words += ["--include_path", tasks, "--output_path", str(tmp_path / "out")]
    done = python("-m", "headway.evaluation", *words)
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = (tmp_path / "out").rglob("results_*.json")
    told = json.loads(file.read_text())["results"]["pairs"]
    again = tmp_path / "again"
    words = ["eval", model, "--tasks", "pairs", "--include-path", tasks, "--out", str(again)]
    assert headway_cli.main(words) == 0
    (row,) = json.loads((again / "eval.json").read_text())["tasks"]
    assert told["acc,none"] == row["value"]
    words = ["--model", "headway", "--tasks", "pairs", "--include_path", tasks]
    words += ["--model_args", "pretrained=no/such/model"]
    monkeypatch.setattr(sys, "argv", ["headway.evaluation", *words])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("headway.evaluation", run_name="__main__")
    assert left.value.code == 2
    refused = capsys.readouterr().err
    assert refused.splitlines()[-1].startswith("headway: model: 'no/such/model'")


def test_nothing_but_json_on_standard_output(model, tmp_path, capsys, own_tasks_only):
    """lm-eval prints that it resamples for the standard error of a perplexity."""
    words = [text.rpartition(" ") for text in SENTENCES]
    rows = [{"context": start, "continuation": last} for start, _, last in words]
    lines = write_lines(tmp_path / "w.jsonl", rows)
    folder = write_task(tmp_path / "words", "last_word", lines, **LAST_WORD)
    asked = ["eval", model, "--tasks", "last_word", "--include-path", str(folder), "--json"]
    assert headway_cli.main(asked) == 0
    assert len(json.loads(capsys.readouterr().out)["tasks"]) == 2


def test_help_shows_examples():
    done = python("-m", "headway_cli", "eval", "--help")
    assert done.returncode == 0
    assert "examples:\n  headway eval " in done.stdout
