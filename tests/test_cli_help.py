"""Help tells one default of a setting, not two."""

import re

import pytest

import headway_cli
from headway_cli import CORPUS_VERBS, VERBS

WORDS = [[verb.name] for verb in VERBS if verb.name != "corpus"]
WORDS += [["corpus", verb.name] for verb in CORPUS_VERBS]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_a_default_is_told_once(words, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit):
        headway_cli.main([*words, "--help"])
    settings = re.split(r"\n[^\w\n]*--", re.sub(r" *[│|] *\n[│|] *", "\n", capsys.readouterr().out))
    assert len(settings) > 2
    for setting in settings:
        told = " ".join(setting.split())
        assert not re.search(r"\(default[: ].*\(default: (None)?\)", told), told
