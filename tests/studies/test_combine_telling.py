"""The study `combine`: verdicts, tables, what the documentation says, and what is recommended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_studies import result
from small_combine import GAINS, played, timed_again

from headway.decoder import HeadwayConfig
from headway.studies.claims import Result, Results, Run, findings
from headway.studies.combine.__main__ import main
from headway.studies.combine.found import (
    IN_CONTEXT,
    chosen_parts,
    effects_on,
    left_of,
    less_plain,
    soonest,
    step_ratio,
    tokens_needed,
)
from headway.studies.combine.parts import (
    ARMS,
    CHOSEN_PARTS,
    CONFIRMING,
    DESIGN,
    PARTS,
    PLAIN,
    RECOMMENDED_PARTS,
    SCREENED_SEEDS,
    SHARES,
    SUBSETS,
    TOKENS,
)
from headway.studies.combine.study import CHOSEN, CLAIMS, COMBINE, RECOMMENDED
from headway.studies.combine.table import (
    arm_table,
    conclusion,
    markdown,
    part_table,
)
from headway.studies.criteria import Verdict
from headway.studies.language_models.cost import COST, ROUNDS
from headway.studies.races.tuning import TEST
from headway.studies.run_files import add_run, read_runs
from headway.studies.running import still_missing

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs" / "results" / "combine"


def test_verdicts_follow_from_results() -> None:
    good = findings(CLAIMS, timed_again(played()[0]))
    effects, others = good[: len(DESIGN.factors)], good[len(DESIGN.factors) :]
    assert {f.verdict for f in others} == {Verdict.REPRODUCED}
    assert [bool(f.claim.asked) for f in others] == [False] * 6 + [True] * 8
    for part, found in zip(DESIGN.factors, effects, strict=True):
        assert found.ours is not None
        assert found.ours.value == pytest.approx(GAINS[part], abs=0.005)
        assert found.verdict == Verdict.NOT_TESTABLE  # of one seed
    slow, _ = played(step=1.2, gains={p: g / 100 for p, g in GAINS.items()})
    worse = [str(f.verdict) for f in findings(CLAIMS, slow)]
    assert "reproduced" not in worse
    small = played("small")[0]
    assert {f.verdict for f in findings(CLAIMS, small)} == {Verdict.NOT_TESTABLE}


@pytest.mark.parametrize(("processes", "verdict"), [(2, "not testable at this scale"),
                                                     (3, "reproduced")])  # fmt: skip
def test_a_step_time_is_judged_from_three_processes_on(processes: int, verdict: str) -> None:
    results = timed_again(played()[0], processes)
    steps = [f for f in findings(CLAIMS, results) if "A training step of" in f.claim.claim]
    assert [f.claim.arms for f in steps] == [(CHOSEN,), (RECOMMENDED,)]
    for found in steps:
        assert found.ours is not None
        assert (found.ours.seeds, str(found.verdict)) == (processes, verdict)
        assert "Seeds are processes" in found.claim.differs
    shown = {row[0]: row[7] for row in arm_table(results).rows}
    assert shown["less gate"].endswith(f" ({processes})")


def gained(results: Results, less: float) -> Results:
    """The same with so much less in-context gain of all arms but plain, seeds a little apart."""
    return replace(results, found=tuple(
        replace(one, measures={**one.measures, "in_context_gain":
                               one.measures["in_context_gain"] - less * (1 + one.run.seed / 9)})
        if one.run.options["stage"] == TEST and one.run.arm != PLAIN else one
        for one in results
    ))  # fmt: skip


def test_a_better_loss_is_not_a_better_use_of_the_context() -> None:
    results = gained(played()[0], 0.1)
    found = [f for f in findings(CLAIMS, results) if "gains more from its context" in f.claim.claim]
    whole, fewer = found[:3], found[3:]
    assert [f.claim.arms[0] for f in whole] == [CHOSEN, "gate", "stream"]
    assert [f.claim.arms[0] for f in fewer] == [CHOSEN, RECOMMENDED]
    assert {str(f.verdict) for f in found} == {"not reproduced"}
    assert [round(f.ours.value, 4) for f in whole if f.ours] == [-0.0611, -0.0811, -0.0911]
    assert all(f.claim.asked and f.claim.besides for f in found)
    assert all("the tokens" in f.claim.claim for f in fewer)
    told = [f.claim.caveat(results, f.ours) for f in (*whole[:1], *fewer[:1])]
    assert told[0].startswith("Its loss, less plain's: -0.15")
    assert told[1].startswith("Its loss, less plain's: -0.03")
    assert whole[0].claim.caveat(Results("paper", {}), None) == ""
    rows = {row[0]: row for row in arm_table(results).rows}
    assert rows[CHOSEN][11].startswith("-0.0611 [-0.08")
    assert rows[CHOSEN][12].startswith("-0.0611 [")
    assert rows["less gate"][11].startswith("-0.0911 [")
    assert rows["less stream"][12] == rows[PLAIN][11] == rows[PLAIN][12] == "n/a"


def test_effects_have_a_verdict_where_the_screening_has_seeds_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SCREENED_SEEDS, "paper", 3)
    found = findings(CLAIMS, played()[0])[: len(DESIGN.factors)]
    assert [f.verdict == Verdict.REPRODUCED for f in found] == [
        part in CHOSEN_PARTS for part in DESIGN.factors
    ]
    assert Verdict.NOT_TESTABLE not in {f.verdict for f in found}


def test_other_choices_leave_claims_on_parts_that_were_not_confirmed_open() -> None:
    other = dict.fromkeys(PARTS, 0.01) | {"norm": -0.05, "gate": -0.05}
    found = findings(CLAIMS, played(gains=other)[0])
    fresh = [f for f in found if f.claim.arms in ((CHOSEN, PLAIN), (RECOMMENDED, PLAIN))]
    assert len(fresh) == 9
    assert all(f.verdict != Verdict.REPRODUCED for f in fresh)


def test_tokens_are_read_off_runs_of_their_own() -> None:
    results, _ = played()
    found = tokens_needed(CHOSEN, results)
    assert found is not None
    gain = -sum(GAINS[part] for part in CHOSEN_PARTS)
    assert found.value == pytest.approx(max(SHARES[0], 1 - gain / 0.5), abs=0.02)


def test_each_process_that_timed_steps_counts_as_a_seed_and_all_rounds_are_resampled() -> None:
    runs = [Run(CHOSEN, seed, {"stage": COST}) for seed in (0, 3)]
    ratios = ([1.0] * ROUNDS, [1.1] * ROUNDS)
    timed = [result(run, step_ratios=of) for run, of in zip(runs, ratios, strict=True)]
    found = step_ratio(CHOSEN, Results("paper", {}, tuple(timed)))
    assert found is not None
    assert (found.seeds, found.value) == (2, 1.05)
    assert (found.low, found.high) == (1.0, 1.1)
    assert step_ratio(CHOSEN, Results("paper", {})) is None


def test_tables_say_what_was_found() -> None:
    results = timed_again(played()[0])
    parts = {row[0]: row for row in part_table(results).rows}
    assert list(parts) == list(DESIGN.factors)
    assert {part for part, row in parts.items() if row[-1] == "yes"} == set(CHOSEN_PARTS)
    assert parts["shift"][4].startswith("+0.5000 [")
    assert parts["depth"][5] == "+10.00%"
    assert parts["gate"][6] == "10"
    rows = {row[0]: row for row in arm_table(results).rows}
    assert list(rows) == [PLAIN, CHOSEN, *(f"less {part}" for part in CHOSEN_PARTS)]
    assert rows[PLAIN][4:9] == ("n/a", "n/a", "n/a", "n/a", "n/a")
    assert rows[CHOSEN][7].startswith("1.0480 [")
    assert rows["less stream"][6] == rows["less stream"][8] == "n/a"
    assert rows["less gate"][8] == "0.72x"
    assert conclusion(results).endswith("at most 0.75 and 1.05, is met.")
    once = conclusion(played()[0])  # of one process
    assert once.endswith("is met by its values, which the intervals do not show.")
    slow = played(gains=GAINS | {"stream": -0.05})[0]
    assert conclusion(timed_again(slow)).endswith("is missed.")
    unsure = played(step=1.0495)[0]  # rounds to either side of the target
    assert conclusion(unsure).endswith("is missed by its values, which the intervals do not show.")
    worse = replace(results, found=tuple(raised(r) for r in results))
    assert "needs more than all of plain's tokens" in conclusion(worse)


def raised(one: Result) -> Result:
    """The result with a loss that is larger by one, where the chosen parts are compared."""
    compared = one.run.options["stage"] == TEST and one.run.arm != PLAIN
    return (
        replace(one, measures={**one.measures, "loss": one.measures["loss"] + 1})
        if compared
        else one
    )


def test_one_seed_has_differences_without_intervals() -> None:
    results, _ = played(until=lambda _, run: run.options["stage"] == TEST and run.seed == 1)
    rows = {row[0]: row for row in arm_table(results).rows}
    assert rows[CHOSEN][1] == "1"
    assert "[" not in rows[CHOSEN][4] + rows[CHOSEN][5] + rows[CHOSEN][6]
    assert rows[CHOSEN][4].startswith("-")
    assert conclusion(results).endswith("It is not confirmed yet.")
    assert conclusion(Results("paper", {})) == "The screening is not done."


def test_the_tables_are_printed_from_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, _ = played()
    for one in results:
        add_run(tmp_path / "made", COMBINE, replace(results, found=()), one)
    assert main([str(tmp_path / "made")]) == 0
    assert capsys.readouterr().out == markdown(results)
    assert main([str(tmp_path)]) == 2
    assert "accepted is one folder with results of headway study combine" in capsys.readouterr().err


@pytest.fixture
def committed() -> Results:
    found = read_runs(COMMITTED, COMBINE)
    if found is None:
        pytest.skip("docs/results/combine holds no results")
    return found


def test_the_tables_in_the_docs_are_those_of_the_committed_results(committed: Results) -> None:
    begun = {result.run.arm for result in committed if result.run.options["stage"] == TEST}
    assert begun >= {PLAIN, CHOSEN}
    assert begun.isdisjoint(run.arm for run in still_missing(COMBINE, committed))
    assert markdown(committed) in (ROOT / "docs" / "combine.md").read_text(encoding="utf-8"), (
        "run: python -m headway.studies.combine docs/results/combine"
    )


def test_what_is_recommended_is_what_gets_there_soonest_in_committed_results(
    committed: Results,
) -> None:
    assert chosen_parts(committed) == CHOSEN_PARTS
    assert soonest(committed) == RECOMMENDED


def test_what_the_docs_say_of_the_context_is_what_committed_results_say(committed: Results) -> None:
    for arm in (CHOSEN, *left_of(CHOSEN_PARTS)):
        less = less_plain(IN_CONTEXT, arm, None, committed)
        assert less is not None
        assert less.high < 0
    for arm in (CHOSEN, RECOMMENDED):
        less, loss = (less_plain(m, arm, TOKENS, committed) for m in (IN_CONTEXT, "loss"))
        assert less is not None
        assert loss is not None
        assert less.high < 0
        assert loss.low < 0
        assert (loss.high < 0) == (arm == RECOMMENDED)
    effects = effects_on(committed, IN_CONTEXT)
    assert [part for part, effect in effects.items() if effect.low > 0] == ["shift"]
    assert "shift" not in CHOSEN_PARTS


def test_the_recommended_arm_is_the_recommended_configuration() -> None:
    shape = CONFIRMING["small"].shapes[0]
    ours = CONFIRMING["small"].config(ARMS[RECOMMENDED], 100, 0)
    theirs = HeadwayConfig.recommended(
        vocab_size=100, hidden_size=shape.width, num_attention_heads=shape.heads
    )
    assert ours.mechanism_list() == theirs.mechanism_list()
    assert ours.qk_norm == theirs.qk_norm
    assert SUBSETS[RECOMMENDED] == RECOMMENDED_PARTS
