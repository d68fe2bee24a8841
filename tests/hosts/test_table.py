"""The table of families and mechanisms in docs/hosts.md is what the code says."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoConfig

from headway import HeadwayError, Mechanism, SinkLogit
from headway.hosts import family, table
from headway.hosts.attach import check_fit
from headway.hosts.family import own_families

PAGE = Path(__file__).parents[2] / "docs" / "hosts.md"


def cells():
    """Model type and mechanism to the cell of the table."""
    head, _, *rows = [r for r in table.support_table().splitlines() if r.startswith("|")]
    names = [name.strip("`") for name in head.strip("| ").split(" | ")[2:]]
    found = {}
    for row in rows:
        _, types, *said = row.strip("| ").split(" | ")
        for model_type in types.split(", "):
            found |= {(model_type.strip("`"), n): c for n, c in zip(names, said, strict=True)}
    return found


def test_the_page_shows_it():
    (shown,) = re.findall(r"<!-- table -->\n(.*?)\n<!-- end", PAGE.read_text(), re.DOTALL)
    assert shown == table.support_table()


def test_the_command_prints_it():
    command = [sys.executable, "-m", "headway.hosts.table"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == table.support_table() + "\n"


def test_all_are_in_it():
    own = {n for n, cls in Mechanism.registry.items() if cls.__module__.startswith("headway.")}
    assert cells().keys() == {(t, n) for t in own_families() for n in own}


def test_cells_are_what_attach_says():
    for (model_type, name), cell in cells().items():
        try:
            check_fit(AutoConfig.for_model(model_type), [Mechanism.registry[name]()])
            fits = True
        except HeadwayError:
            fits = False
        assert fits == (cell == "yes"), f"{model_type}, {name}: {cell}"


@pytest.mark.parametrize(("refused", "word"), [({"qwen2"}, "in part"), (None, "no")])
def test_a_reason_stands_below_the_table(refused, word, monkeypatch):
    types = own_families()["llama"].model_types
    refused = refused or set(types)

    def refuses(config, mechanism):
        hit = isinstance(mechanism, SinkLogit) and config.model_type in refused
        return "a reason of its own" if hit else None

    changed = replace(own_families()["llama"], refuses=refuses)
    monkeypatch.setattr(table, "own_families", lambda: dict.fromkeys(types, changed))
    assert {c for (_, n), c in cells().items() if n == "sink_logit"} == {f"{word} (1)"}
    assert {c for (_, n), c in cells().items() if n != "sink_logit"} == {"yes"}
    *_, reason = table.support_table().splitlines()
    assert reason.startswith("1. ")
    assert reason.count("a reason of its own") == len(refused)


def test_registered_families_stay_out(monkeypatch):
    before = table.support_table()
    monkeypatch.setattr(family, "_registered", {})
    other = replace(own_families()["llama"], name="Other", model_types=("stablelm",))
    family.register_family(other)
    assert "stablelm" in family.families()
    assert table.support_table() == before
