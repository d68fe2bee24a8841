"""What cannot be compared is refused in one sentence, with exit code 2, and nothing is written."""

import json
import os

import pytest
from small_comparisons import arms_file, contents, words

import headway_cli
from headway.corpora.splits import SPLITS, split_documents


@pytest.fixture
def refused(tmp_path, text, capsys):
    """Run the command line; the sentence it refuses with. `out` must stay as it is."""

    def run(*arms, **changes):
        out = changes.pop("out", tmp_path / "run")
        before = contents(out)
        source = changes.pop("text", text)
        assert headway_cli.main(words(out, source, *arms, **changes)) == 2
        assert contents(out) == before
        assert out.exists() == (before is not None)
        shown = capsys.readouterr()
        assert shown.out == ""
        (line,) = shown.err.splitlines()
        assert line.startswith("headway: ")
        return line

    return run


def says(sentence, *parts):
    assert all(part in sentence for part in parts), sentence


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        ([{"name": "kv_shit"}], ["mechanism: 'kv_shit'", "did you mean 'kv_shift'", "sink_logit"]),
        ([{"nam": "kv_shift"}], ["mechanism: {'nam': 'kv_shift'}", "'name'", "sink_logit"]),
        (["kv_shift"], ["mechanism: 'kv_shift'", "object with a 'name'"]),
        (
            [{"name": "kv_shift", "windw": 2}],
            ["kv_shift.windw: unknown option", "did you mean 'window'", "targets"],
        ),
        ([{"name": "kv_shift", "window": 0}], ["kv_shift.window: 0", "the minimum is 1"]),
        ([{"name": "kv_shift", "window": -3}], ["kv_shift.window: -3", "the minimum is 1"]),
        ([{"name": "kv_shift", "window": "2"}], ["kv_shift.window: '2'", "a whole number"]),
        (
            [{"name": "kv_shift", "init": "zero"}],
            ["kv_shift.init: 'zero'", "'uniform' or 'identity'"],
        ),
        (
            [{"name": "layer_shortcut", "taps": [0, 5]}],
            ["layer_shortcut.taps: 5", "beyond the depth", "accepted are 0", "to 1"],
        ),
        (
            [{"name": "layer_shortcut", "taps": [-1]}],
            ["layer_shortcut.taps: -1", "accepted are 0 (the embedding) to 1", "2 layers"],
        ),
        (
            [{"name": "selective_attention"}, {"name": "kv_shift"}],
            ["'selective_attention' stands before 'kv_shift'", "swap them"],
        ),
        (
            [{"name": "kv_shift"}, {"name": "kv_shift"}],
            ["'kv_shift' and 'kv_shift' cannot stand together", "write it once"],
        ),
    ],
    ids=lambda value: json.dumps(value) if value and isinstance(value[0], dict) else "",
)
def test_arms_of_a_file(refused, tmp_path, listed, told):
    says(refused(arms_file(tmp_path / "arms.json", {"mine": listed})), *told)


def test_presets(refused):
    says(refused("vanilla", "selectiv"), "arms: 'selectiv'", "did you mean 'selective'")
    says(refused("kv_shift", "kv_shift"), "arms: 'kv_shift kv_shift'", "once")
    says(refused("selective+kv_shift"), "'selective_attention' stands before", "swap them")
    says(refused("shortcut", num_hidden_layers=1), "layer_shortcut.taps: 'all'", "at least 2")


def test_the_name_of_the_added_arm_is_taken(refused, tmp_path):
    file = arms_file(tmp_path / "a.json", {"vanilla_wide": [{"name": "output_gate"}]})
    says(refused(file, match="parameters"), "arms: 'vanilla_wide'", "match='parameters'")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seeds": 0}, ["seeds: 0", "accepted are 1 and more"]),
        ({"seeds": -1}, ["seeds: -1", "accepted are 1 and more"]),
        ({"steps": 0}, ["steps: 0", "accepted are 1 and more"]),
        ({"batch_size": 0}, ["batch_size: 0", "1 and more"]),
        ({"context": 1}, ["context: 1", "2 and more"]),
        ({"evaluations": 0}, ["evaluations: 0", "1 and more"]),
        ({"hidden_size": 0}, ["hidden_size: 0", "1 and more"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers: 0", "1 and more"]),
        ({"num_attention_heads": 0}, ["num_attention_heads: 0", "1 and more"]),
        ({"num_key_value_heads": 0}, ["num_key_value_heads: 0", "1 and more"]),
        (
            {"num_attention_heads": 4, "num_key_value_heads": 3},
            ["num_key_value_heads: 3", "does not divide num_attention_heads=4"],
        ),
        (
            {"hidden_size": 18, "num_attention_heads": 4},
            ["hidden_size: 18", "not divisible by num_attention_heads=4"],
        ),
        ({"hidden_size": 6}, ["head_dim: 3 is odd", "accepted are even numbers"]),
        ({"validation_tokens": 15}, ["validation_tokens=15", "at least one context of 16"]),
        ({"validation_tokens": 0}, ["validation_tokens: 0", "1 and more"]),
        ({"max_characters": 0}, ["max_characters: 0", "1 and more"]),
        ({"max_characters": 10}, ["max_characters=10", "at least as many are accepted"]),
        ({"vocab_size": 0}, ["vocab_size: 0", "1 and more"]),
        ({"tokenizer": "bpe", "vocab_size": 100}, ["vocab_size=100", "at least 257"]),
        ({"tokenizer": "bites"}, ["tokenizer='bites'", "'bpe', 'bytes', 'characters' or the path"]),
        ({"learning_rate": 0}, ["learning_rate: 0.0", "above 0"]),
        ({"learning_rate": "nan"}, ["learning_rate: nan", "above 0"]),
        ({"learning_rate": "inf"}, ["learning_rate: inf", "above 0"]),
        ({"weight_decay": -0.1}, ["weight_decay: -0.1", "accepted are 0"]),
        ({"initializer_range": -1}, ["initializer_range: -1.0", "accepted are 0"]),
        ({"initializer_range": "nan"}, ["initializer_range: nan", "accepted are 0"]),
    ],
    ids=str,
)
def test_settings(refused, changes, told):
    says(refused(**changes), *told)


def test_text_that_is_none(refused, tmp_path):
    for name, content in (("empty.txt", b""), ("blank.txt", b" \n\n "), ("binary.txt", b"ab\0c")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "latin.txt").write_bytes("für".encode("latin-1"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    for name, told in {
        "empty.txt": "is empty; a source that holds text is accepted",
        "blank.txt": "is empty",
        "binary.txt": "is binary (NUL byte at byte offset 2); plain UTF-8 text is accepted",
        "latin.txt": "is not UTF-8 (invalid start byte at byte offset 1)",
        "folder": "is a folder without text; files ending in .txt",
        "loop.txt": "cannot be read",
        "missing.txt": "does not exist; name a file, a folder or hf:NAME",
    }.items():
        says(refused(text=tmp_path / name), "text", name, told)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_text_that_may_not_be_read(refused, tmp_path):
    (tmp_path / "secret.txt").write_text("words " * 100)
    (tmp_path / "secret.txt").chmod(0)
    says(refused(text=tmp_path / "secret.txt"), "text", "permission denied")


def test_a_broken_line_of_json_lines_is_named(refused, tmp_path):
    path = tmp_path / "text.jsonl"
    good = json.dumps({"text": "some words " * 30})
    for broken, told in {
        '{"text": ': "is no JSON",
        '{"body": "x"}': 'no string field "text" (its fields: body)',
        "[1]": "is a list",
    }.items():
        path.write_text("\n".join([good] * 4 + [broken] + [good] * 4))
        says(refused(text=path), f"text: line 5 of {str(path)!r}", told, '{"text": "..."}')


def test_a_text_shorter_than_one_context(refused, text):
    sentence = refused(text=text, context=1000, validation_tokens=2000)
    says(sentence, "context=1000", "tokens and one window needs 1001", "more text is accepted")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_each_split_needs_a_window_before_any_training(refused, tmp_path, split):
    """Three documents, one a split, as their text places them; that of `split` is short."""
    short = split_documents([f"short {n:04}" for n in range(200)])
    long = split_documents([f"{n:04} " + "long words " * 30 for n in range(200)])
    texts = [(short if name == split else long)[name][0] for name in SPLITS]
    (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    sentence = refused(text=tmp_path / "text.jsonl")
    says(sentence, f"context=16: the {split} split has 11 tokens", "a context below 11")


def test_fewer_than_three_documents(refused, tmp_path):
    (tmp_path / "one.txt").write_text("a few words " * 20)
    says(refused(text=tmp_path / "one.txt"), "text: it holds 1 different", "at least three")


def test_out_that_is_no_folder_of_ours(refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    says(refused(out=tmp_path / "file"), "out: ", "file cannot be written (File exists)")
    says(refused(out=tmp_path / "file" / "run"), "cannot be written (Not a directory)", "accepted")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.md").write_text("mine")
    says(refused(out=tmp_path / "other"), "other things (notes.md)", "accepted is a new folder")


def test_a_comparison_with_other_settings_is_left_alone(refused, tmp_path, text, capsys):
    out = tmp_path / "first"
    assert headway_cli.main(words(out, text, "vanilla", steps=2)) == 0
    capsys.readouterr()
    assert (out / "report.html").exists()
    says(
        refused("vanilla", out=out, steps=3),
        f"out: {out} holds a run with other settings: steps was 2 and is 3; give another --out",
    )
    # Whatever else is wrong with the new settings, the old folder is not read for them.
    says(refused("vanilla", out=out, steps=2, context=900), "context was 16 and is 900")
    missing = tmp_path / "missing.txt"
    says(refused("vanilla", out=out, steps=2, text=missing), f"text was {str(text)!r} and is")
    says(refused("vanilla", "kv_shift", out=out, steps=2), "arms was ['vanilla'] and is")


def test_an_arms_file_that_changed_is_refused(refused, tmp_path, text, capsys):
    out, file = tmp_path / "first", tmp_path / "arms.json"
    arms_file(file, {"mine": [{"name": "kv_shift"}]})
    assert headway_cli.main(words(out, text, str(file), steps=2)) == 0
    capsys.readouterr()
    arms_file(file, {"mine": [{"name": "kv_shift", "window": 2}]})
    says(refused(str(file), out=out, steps=2), "arms: ", "other mechanisms for mine", "--out")


def test_a_corpus_that_was_changed_is_refused(refused, tmp_path, text, capsys):
    out = tmp_path / "first"
    assert headway_cli.main(words(out, text, "vanilla", steps=2)) == 0
    capsys.readouterr()
    tokens = out / "corpus" / "validation.npy"
    tokens.write_bytes(tokens.read_bytes()[:-2] + b"\1\0")
    says(refused("vanilla", out=out, steps=2), "corpus: ", "validation.npy", "is damaged")
