"""The bench of corpora runs at small size."""

import json

import headway_cli
from headway.bench.catalogue import PARTS


def test_corpora_at_small_size(capsys):
    assert headway_cli.main(["bench", "corpora", "--small", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    parts = [line["name"].partition(":")[0].partition(",")[0] for line in told["lines"]]
    assert tuple(dict.fromkeys(parts)) == PARTS["corpora"]
    targets = {line["at_least"] for line in told["lines"]}
    assert targets == {None, 50, 0.8, 200}
    assert all(line["value"] > 0 for line in told["lines"])
