"""A small trained model on LAMBADA and BLiMP, where those are."""

import os
import zipfile
from pathlib import Path

import pytest
from made import LAST_WORD, PAIRS, write_task

import headway
from headway import KVShift
from headway.evaluation.lm_eval_model import HeadwayLM
from headway.evaluation.tasks import find_tasks, run_tasks

pytestmark = pytest.mark.usefixtures("own_tasks_only")
LIMIT = 30
SUBSETS = ("determiner_noun_agreement_1", "anaphor_gender_agreement")


def needed(*parts):
    """A path below HEADWAY_DATA, or skip."""
    name = "/".join(parts)
    path = Path(os.environ.get("HEADWAY_DATA", "")).joinpath(*parts)
    if not os.environ.get("HEADWAY_DATA") or not path.exists():
        pytest.skip(f"set HEADWAY_DATA to the folder that holds {name}")
    return path


@pytest.fixture(scope="module")
def lm():
    return HeadwayLM(str(needed("models", "stories260K")), batch_size=8)


@pytest.fixture
def blimp(tmp_path):
    """Two subsets as files; a path that leads out of the archive would be refused."""
    with zipfile.ZipFile(needed("eval", "blimp.zip")) as archive:
        assert archive.testzip() is None
        for subset in SUBSETS:
            (name,) = [n for n in archive.namelist() if Path(n).name == f"{subset}.jsonl"]
            assert not name.startswith("/")
            assert ".." not in Path(name).parts
            (tmp_path / f"{subset}.jsonl").write_bytes(archive.read(name))
    return tmp_path


def run(lm, names, folder):
    return run_tasks(lm, *find_tasks(names, folder), limit=LIMIT, num_fewshot=None)


def test_blimp(lm, blimp):
    for subset in SUBSETS:
        write_task(blimp / "tasks", subset, blimp / f"{subset}.jsonl", **PAIRS)
    scores = run(lm, SUBSETS, blimp / "tasks")
    assert {score.task for score in scores} == set(SUBSETS)
    assert {score.examples for score in scores} == {LIMIT}
    # Chance is a half; this model has learned the simplest agreements.
    assert sum(score.value for score in scores) / len(scores) > 0.6


def test_lambada(lm, tmp_path):
    data = needed("eval", "lambada_openai.jsonl")
    write_task(tmp_path / "tasks", "lambada_local", data, **LAST_WORD)
    scores = {score.metric: score for score in run(lm, ["lambada_local"], tmp_path / "tasks")}
    assert set(scores) == {"perplexity", "acc"}
    assert scores["acc"].examples == LIMIT
    assert scores["perplexity"].stderr > 0


def test_an_attached_identity_scores_the_same(lm, blimp):
    write_task(blimp / "tasks", SUBSETS[0], blimp / f"{SUBSETS[0]}.jsonl", **PAIRS)
    plain = run(lm, SUBSETS[:1], blimp / "tasks")
    headway.attach(lm.model, [KVShift(init="identity")])
    try:
        assert run(lm, SUBSETS[:1], blimp / "tasks") == plain
    finally:
        headway.detach(lm.model)
