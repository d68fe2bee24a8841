"""docs/train.md agrees with the code: commands, settings, presets and the file."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

import headway_cli
from headway_train_settings import PRESETS, TrainSettings, settings_before_flags

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/train.md").read_text(encoding="utf-8")
PAGES = [PAGE, (ROOT / "README.md").read_text(encoding="utf-8")]
COMMANDS = [c for page in PAGES for c in re.findall(r"^\$ (.*headway train [^#>\n]*)", page, re.M)]
(FILE,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_commands_are_understood(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(FILE)
    words = shlex.split(command)
    settings = headway_cli._parse(words[words.index("train") :])
    assert isinstance(settings, TrainSettings)


def test_every_setting_is_told():
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `--")]
    told = {name.replace("-", "_") for row in rows for name in re.findall(r"`--(.+?)`", row)}
    assert told == {field.name for field in dataclasses.fields(TrainSettings)} | {"sharding"}


def test_presets_are_as_told():
    for name, values in PRESETS.items():
        (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
        if row.rstrip().endswith("as `llama-124m` |"):
            row = next(line for line in PAGE.splitlines() if line.startswith("| `llama-124m` |"))
        made = TrainSettings(**values)
        told = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", row)}
        assert {made.steps, made.batch_size, made.context} <= told, name
        assert ("bfloat16, compiled" in row) == (made.dtype == "bfloat16" and made.compile)


def test_the_file_is_read(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(FILE)
    found = settings_before_flags(["--config", str(file)])
    assert (found.steps, found.hidden_size) == (1000, PRESETS["toy-2l"]["hidden_size"])
    assert found.mechanisms == '[{"name": "kv_shift", "init": "identity"}]'
