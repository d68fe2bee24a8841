"""Tasks by name: found, limited, and refused in one sentence."""

import pytest
from made import LAST_WORD, PAIRS, SENTENCES, llama, tokenizer, write_lines, write_task

from headway import HeadwayError
from headway.evaluation.lm_eval_model import HeadwayLM
from headway.evaluation.tasks import find_tasks, run_tasks

pytestmark = pytest.mark.usefixtures("own_tasks_only")


@pytest.fixture
def tasks(tmp_path):
    folder = tmp_path / "tasks"
    words = [text.rpartition(" ") for text in SENTENCES]
    rows = [{"context": start, "continuation": last} for start, _, last in words]
    write_task(folder, "last_word", write_lines(tmp_path / "w.jsonl", rows), **LAST_WORD)
    rows = [{"sentence_good": text[:12], "sentence_bad": text[11::-1]} for text in SENTENCES]
    pairs = write_lines(tmp_path / "p.jsonl", rows)
    for name in ("pairs_one", "pairs_two"):
        write_task(folder, name, pairs, **PAIRS)
    long = [{"sentence_good": " ".join(SENTENCES), "sentence_bad": "short"}]
    write_task(folder, "too_long", write_lines(tmp_path / "l.jsonl", long), **PAIRS)
    write_task(folder, "no_data", tmp_path / "none.jsonl", **PAIRS)
    return folder


@pytest.fixture(scope="module")
def lm():
    return HeadwayLM(llama(), tokenizer=tokenizer(), batch_size=2)


def run(lm, names, folder, limit=None, num_fewshot=None):
    return run_tasks(lm, *find_tasks(names, folder), limit=limit, num_fewshot=num_fewshot)


def test_numbers_with_standard_errors(lm, tasks):
    scores = run(lm, ["last_word", "pairs_one"], tasks)
    rows = [(score.task, score.metric, score.examples) for score in scores]
    expected = [("last_word", name, 4) for name in ("perplexity", "acc")]
    assert sorted(rows) == sorted([*expected, ("pairs_one", "acc", 4)])
    for score in scores:
        assert score.stderr is not None
        assert score.value > 1 if score.metric == "perplexity" else 0 <= score.value <= 1


def test_stars_and_limits(lm, tasks):
    scores = run(lm, ["pairs_*"], tasks, limit=3)
    assert [(s.task, s.examples) for s in scores] == [("pairs_one", 3), ("pairs_two", 3)]


def test_solved_examples_come_before_a_question(lm, tasks):
    (none,) = [s for s in run(lm, ["last_word"], tasks) if s.metric == "perplexity"]
    (two,) = [s for s in run(lm, ["last_word"], tasks, num_fewshot=2) if s.metric == "perplexity"]
    assert none.value != two.value


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pairs_on", r"tasks: 'pairs_on' is not known; close to it are .*pairs_one"),
        ("xyzzy", r"tasks: 'xyzzy' is not known; accepted is what"),
        ("xyz*", r"tasks: 'xyz\*' is not known"),
        ("too_long", r"tasks: an answer has \d+ tokens; accepted are up to .* context of 64"),
        ("no_data", r"tasks: no_data cannot be read \(.*none.jsonl.*\); accepted are"),
    ],
)
def test_refusals_are_one_sentence(lm, tasks, name, words):
    with pytest.raises(HeadwayError, match=words) as caught:
        run(lm, [name], tasks)
    assert "\n" not in str(caught.value)


def test_a_folder_without_tasks(tmp_path):
    with pytest.raises(HeadwayError, match=r"include_path: .* is no folder"):
        find_tasks(["any"], tmp_path / "none")


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (ValueError("task: x which is marked as unsafe."), "runs code that the model writes"),
        (ModuleNotFoundError("no", name="math_verify"), "needs the package math_verify"),
        (ValueError("a defect"), None),
        (ModuleNotFoundError("no", name="headway.x"), None),
    ],
)
def test_what_lm_eval_says_no_to(lm, tasks, monkeypatch, error, refusal):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("lm_eval.simple_evaluate", fail)
    with pytest.raises(HeadwayError if refusal else type(error)) as caught:
        run(lm, ["pairs_one"], tasks)
    assert (caught.value is error) == (refusal is None)
    assert (refusal or "") in str(caught.value)
