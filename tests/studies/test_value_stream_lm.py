"""The study `value-stream-lm`: own and crossed forward passes, names, and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_language_models import asked, compared_run, make_tiny, raced

from headway.corpora.text import on_hub
from headway.decoder import HeadwayForCausalLM
from headway.report import statistics
from headway.studies.claims import Results, Run, findings
from headway.studies.criteria import Verdict
from headway.studies.language_models.course import Course, Extent
from headway.studies.language_models.names import KNOWN, names_measured, prompts
from headway.studies.races.tuning import TEST
from headway.studies.residual_streams import value_stream_lm
from headway.studies.residual_streams.value_stream_lm import (
    ARMS,
    CLAIMS,
    CROSSED,
    EXTENTS,
    TINY_STORIES,
    VALUE_STREAM_LM,
    crossed,
    look,
)
from headway.studies.running import run_study
from headway.tasks.ioi import PLACES, THINGS, name_scores

PAPER = EXTENTS["paper"]
NAMES = ("John", "Mary", "Tom", "Lily")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents in which four names stand often."""
    folder = tmp_path_factory.mktemp("names") / "text"
    folder.mkdir()
    for number in range(40):
        a, b = NAMES[number % 4], NAMES[(number // 4 + number + 1) % 4]
        place, thing = PLACES[number % len(PLACES)], THINGS[number % len(THINGS)]
        lines = [
            f"After {a} and {b} went to the {place}, {a} gave {thing} to {b} {day}."
            for day in "abc"
        ]
        (folder / f"{number}.txt").write_text(" ".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Extent:
    one = replace(make_tiny(monkeypatch, value_stream_lm), vocab_size=600, context=48)
    monkeypatch.setattr(value_stream_lm, "EXTENTS", {"small": one, "paper": one})
    return one


def run_of(arm: str, seed: int = 0) -> Run:
    return Run(arm, seed, {"stage": TEST, "rate": 0.01})


@pytest.fixture
def course(tiny: Extent, story: Path, tmp_path: Path) -> Course:
    return Course(ARMS, tiny, asked(story, tmp_path))


def test_prompts_are_made_of_names_that_the_corpus_knows_as_one_token(course: Course) -> None:
    sample = prompts(course)
    assert prompts(course) is sample
    assert len(sample.inputs) >= 200
    right = sample.targets[sample.scored]
    assert (course.counts[right] >= KNOWN).all()
    assert not (right == sample.wrong).any()


def test_names_that_the_corpus_hardly_holds_are_left_out(course: Course) -> None:
    before = set(prompts(course).targets.unique().tolist())
    rarer = replace(course)
    rarer.counts[max(before)] = KNOWN - 1
    assert set(prompts(rarer).targets.unique().tolist()) == before - {max(before)}


def test_names_are_scored_in_the_model_that_is_given(course: Course) -> None:
    model = course.drawn(run_of("plain"))
    sample = prompts(course)
    with torch.no_grad():
        expected = name_scores(model(sample.inputs).logits, sample)["all"]["right"].item()
    found = names_measured(course, model)
    assert found["all"]["right"] == pytest.approx(expected, abs=1e-5)
    assert found["prompts"] == len(sample.inputs)


def test_crossed_weights_run_in_the_other_arm(course: Course) -> None:
    model, streamed = course.drawn(run_of("plain")), course.drawn(run_of("previous"))
    other = crossed(course, model, run_of("plain"))
    ids = course.held(run_of("plain"))[:2, :-1]
    with torch.no_grad():
        # Arms of a seed have the same weights here, so that crossing gives the stream's model.
        torch.testing.assert_close(other(ids).logits, streamed(ids).logits)
        assert not torch.allclose(other(ids).logits, model(ids).logits)
        back = crossed(course, other, run_of("previous"))
        torch.testing.assert_close(back(ids).logits, model(ids).logits)
    found = look(course, model, run_of("plain"))
    assert found["crossed"]["loss"] == pytest.approx(
        course.loss(streamed, run_of("plain")), abs=1e-4
    )
    assert found["names"] != found["crossed"]["names"]
    assert "crossed" not in look(course, course.drawn(run_of("first")), run_of("first"))


def test_a_corpus_without_names_says_why(tiny: Extent, text: Path, tmp_path: Path) -> None:
    nameless = Course(ARMS, tiny, asked(text, tmp_path))
    found = names_measured(nameless, nameless.drawn(run_of("plain")))
    assert found["prompts"] == 0
    assert "names" in found["why"]


def test_the_study_runs_on_text(tiny: Extent, story: Path, tmp_path: Path) -> None:
    settings = asked(story, tmp_path, arms=("plain", "previous", "first-learned"))
    results = run_study(VALUE_STREAM_LM, settings, "headway study value-stream-lm")
    [plain] = results.of(["plain"], stage=TEST)
    assert (
        plain.measures["names"]["all"].keys() == plain.measures["crossed"]["names"]["abba"].keys()
    )
    [learned] = results.of(["first-learned"], stage=TEST)
    assert learned.measures["parameters"] - plain.measures["parameters"] == 2
    verdicts = [f.verdict for f in findings(CLAIMS, results)]
    assert verdicts[0] == Verdict.NOT_TESTABLE
    assert verdicts[-1] == Verdict.REPRODUCED


def test_the_paper_size_is_the_released_model(course: Course) -> None:
    made = replace(course, extent=PAPER).config(ARMS["plain"])
    assert (made.num_hidden_layers, made.hidden_size, made.num_attention_heads) == (8, 256, 16)
    model = HeadwayForCausalLM(made)
    blocks = sum(p.numel() for n, p in model.named_parameters() if "layers" in n)
    assert blocks == 6_318_080 - 8 * (1024 + 256)  # our perceptrons have no biases
    assert made.attention_scale == 1.0


def made_up(
    own: dict[str, float],
    lost: float,
    losses: dict[str, float],
    preferred: dict[str, float] | None = None,
    apart: float = 0.0,
    harm: float = 0.1,
) -> Results:
    """Results at the paper size: probabilities of the right name, plain's crossed, and losses.

    `preferred` is the share of prompts in which the right name is the likelier one, 0.9 where it
    is not told; seeds are `apart` in it. Of plain's weights in the other pass it is `crossed`, and
    their loss is `harm` more there.
    """
    found = []
    shares = dict.fromkeys((*ARMS, "crossed"), 0.9) | (preferred or {})
    for arm in ARMS:
        found += raced(arm, {1e-3: 3, 2e-3: 2, 4e-3: 3})
        for seed, noise in {0: 0.001, 1: -0.001, 2: 0.0}.items():
            noise = 0.0 if arm == "plain" else noise
            likelier = {arm: share + (seed - 1) * apart for arm, share in shares.items()}
            fixed = {"wrong": 0.125, "accuracy": 0.25}
            crossing = {"loss": losses[arm] + harm + (seed - 1) * 0.001,
                        "names": {"all": {"right": lost + noise, **fixed,
                                          "preferred": likelier["crossed"]}}}  # fmt: skip
            names = {"right": own.get(arm, 0.0) + noise * 2, "preferred": likelier[arm], **fixed}
            crosses = {"crossed": crossing} if arm in CROSSED else {}
            found.append(
                compared_run(arm, 2e-3, seed, loss=losses[arm] + noise, parameters=10,
                             names={"all": names}, **crosses)
            )  # fmt: skip
    return Results("paper", {}, tuple(found))


SAME = dict.fromkeys(ARMS, 3.0)


def test_a_difference_that_the_script_makes_is_told_from_one_of_the_stream() -> None:
    names = {"previous": 0.4, "plain": 0.38}
    found = [str(f.verdict) for f in findings(CLAIMS, made_up(names, 0.05, SAME))[:3]]
    assert found == ["partly", "reproduced", "reproduced"]
    real = {"previous": 0.4, "plain": 0.06}
    found = [str(f.verdict) for f in findings(CLAIMS, made_up(real, 0.055, SAME))[:3]]
    assert found == ["reproduced", "reproduced", "partly"]


GUESSES = {"previous": 0.37, "plain": 0.36, "crossed": 0.5}


@pytest.mark.parametrize(
    ("preferred", "apart", "judged"),
    [
        (GUESSES, 0.0, (False, False, False)),
        (GUESSES | {"previous": 0.6}, 0.0, (True, True, False)),
        (GUESSES | {"previous": 0.6}, 0.1, (False, False, False)),
        (GUESSES | {"plain": 0.6}, 0.0, (True, False, True)),
        (GUESSES | {"crossed": 0.6}, 0.01, (False, True, True)),
    ],
)
def test_names_have_a_verdict_where_a_side_is_surely_above_chance(
    preferred: dict[str, float], apart: float, judged: tuple[bool, ...]
) -> None:
    results = made_up({"previous": 0.003, "plain": 0.002}, 0.001, SAME, preferred, apart)
    found = findings(CLAIMS, results)
    assert tuple(f.verdict != Verdict.NOT_TESTABLE for f in found[:3]) == judged
    assert all(("not testable where neither" in f.criterion.words) == (f in CLAIMS[:3])
               for f in CLAIMS)  # fmt: skip
    assert Verdict.NOT_TESTABLE not in [f.verdict for f in found[5:]]


def test_the_ledger_tells_what_decides_whether_names_are_known() -> None:
    results = made_up({}, 0.001, SAME, GUESSES, 0.01)
    told = [f.claim.caveat(results, f.ours) for f in findings(CLAIMS, results)]
    assert told[1].startswith(
        "Prompts in which the indirect object is the likelier name: previous 37% [35%, 39%], plain "
        "in the other pass 50% [48%, 52%]."
    )
    assert not any(told[3:])


def test_names_without_a_figure_have_their_probabilities_told_all_the_same() -> None:
    made = made_up({"previous": 0.003, "plain": 0.002}, 0.001, SAME, GUESSES)
    found = findings(CLAIMS, made)[:3]
    assert [f.our_text for f in found] == ["none"] * 3
    stream, script, defect = (f.claim.caveat(made, f.ours) for f in found)
    others = "other name 0.1250, right one likeliest of all tokens 25.0%"
    assert script.endswith(
        f"Means over seeds, previous: right name 0.0030, {others}; plain in the other pass: right "
        f"name 0.0010, {others}. Right name, previous less plain in the other pass: +0.0020 "
        "[-0.0030, +0.0070]."
    )
    assert "Right name, previous less plain: +0.0010 [" in stream
    assert defect.endswith(
        "Right name, plain less plain in the other pass: +0.0010 [+0.0010, +0.0010]."
    )


def test_names_with_a_figure_do_not_tell_it_twice() -> None:
    made = made_up({"previous": 0.4, "plain": 0.38}, 0.05, SAME)
    for f in findings(CLAIMS, made)[:3]:
        told = f.claim.caveat(made, f.ours)
        assert "Means over seeds" in told
        assert " less " not in told


def test_the_papers_text_is_named_as_text_takes_it() -> None:
    assert on_hub(TINY_STORIES)
    assert all(TINY_STORIES in words for words in VALUE_STREAM_LM.differs.values())
    guide = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    assert f"--text {TINY_STORIES}" in guide


def test_the_interval_of_a_probability_ends_at_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    wild = made_up({"previous": 0.9, "plain": 0.1}, 0.1, SAME)
    monkeypatch.setattr(statistics, "t_interval", lambda _: (-9.0, 9.0, 0.5))
    found = findings(CLAIMS, wild)[:3]
    assert [f.ours and (f.ours.low, f.ours.high) for f in found] == [(-1, 1)] * 3


def test_the_page_draws_names_in_both_forward_passes() -> None:
    made = made_up({"previous": 0.4, "plain": 0.38}, 0.05, SAME)
    drawn = {f.id: f.plot for f in VALUE_STREAM_LM.figures(made)}
    plain, previous = drawn["names"]["data"][:2]
    assert (list(plain["x"]), list(plain["y"])) == ([0.38] * 3, [0.05] * 3)
    assert list(previous["x"]) == pytest.approx([0.402, 0.398, 0.4])
    assert list(previous["y"]) == pytest.approx([0.051, 0.049, 0.05])


def test_losses_decide_between_the_first_and_the_previous_layer() -> None:
    better = SAME | {"first": 2.95, "first-half": 2.97, "first-learned": 2.94}
    yes, no = "reproduced", "not reproduced"

    def judged(losses: Mapping[str, float]) -> list[str]:
        return [str(f.verdict) for f in findings(CLAIMS, made_up({}, 0, losses))[4:]]

    assert judged(better) == [no, *[yes] * 9]
    assert judged(better | {"first-learned": 2.955})[6] == no  # no better than the fixed weights
    worse = judged(better | {"first": 3.1, "first-learned": 3.2})
    assert worse[4:9] == [no] * 5


@pytest.mark.parametrize(
    ("harm", "verdict"),
    [(0.1, "reproduced"), (0.002, "not reproduced"), (-0.1, "not reproduced")],
)
def test_the_loss_in_the_model_that_the_script_measures_is_judged(
    harm: float, verdict: str
) -> None:
    results = made_up({}, 0, SAME | {"previous": 2.0}, harm=harm)
    (found,) = [f for f in findings(CLAIMS, results) if "harms the model" in f.claim.claim]
    assert found.ours is not None
    assert found.ours.value == pytest.approx(harm)
    assert str(found.verdict) == verdict
    assert found.claim.arms == ("plain",)


def test_the_page_tells_names_and_loss_in_both_forward_passes() -> None:
    made = made_up({"previous": 0.4, "plain": 0.38}, 0.05, SAME, GUESSES, harm=0.5)
    (table,) = VALUE_STREAM_LM.tables(made)
    assert table.columns[3:] == (
        "right name", "other name", "right one likelier", "right one likeliest of all tokens",
        "loss",
    )  # fmt: skip
    rows = {row[:2]: row[2:] for row in table.rows}
    assert rows["plain", "plain"] == ("3", "0.3800", "0.1250", "36.0%", "25.0%", "3.0000")
    assert rows["plain", "previous"] == ("3", "0.0500", "0.1250", "50.0%", "25.0%", "3.5000")
    assert rows["previous", "previous"][1:4] == ("0.4000", "0.1250", "37.0%")
    assert set(rows) == {*((arm, arm) for arm in ARMS), *CROSSED.items()}
    nameless = [
        replace(r, measures={**r.measures, "names": {"prompts": 0, "why": "none"}, "crossed": {}})
        for r in made
    ]
    assert not VALUE_STREAM_LM.tables(replace(made, found=tuple(nameless)))
