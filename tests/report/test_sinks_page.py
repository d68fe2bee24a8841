"""The page of a sink profile and its files: right numbers, safe texts, bounded size."""

import base64
import csv
import io
import itertools
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs

from headway import HeadwayError, SinkProfile, plots
from headway.report import sinks_data
from headway.report.sinks_data import (
    COLUMNS,
    LONGEST,
    START,
    head_table,
    kept_positions,
    profile_data,
    strongest,
    visible,
)
from headway.report.sinks_page import SinkReport, page_data, render
from headway.report.sinks_table import first_words, headline, layer_rows, remarks, sinks_table
from headway.waiver.battery import Battery, run_battery
from headway.waiver.profile import FirstToken
from headway.waiver.verdict import decide
from sink_models import HOSTILE, hostile, model, profile, tokenizer, with_sink


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def battery() -> Battery:
    ids = torch.randint(298, (4, 16), generator=torch.Generator().manual_seed(1))
    return run_battery(model("llama"), ids, tokenizer=tokenizer(), origin=0, targets=(3, 5))


def long(tokens: int = 3000) -> SinkProfile:
    """A profile of many tokens, its numbers random, with a sink at 0 and one at 1700."""
    of, generator = profile(), torch.Generator().manual_seed(0)
    layers, heads = of.received.shape[:2]
    wide = {
        name: torch.rand(layers, heads, tokens, generator=generator) * 0.1 + 0.1 for name in COLUMNS
    }
    wide["sink_rate"] = torch.zeros(layers, heads, tokens)
    changed = replace(
        of,
        tokens=tokens,
        token_texts=tuple(str(i) for i in range(tokens)),
        hidden_norm=torch.rand(layers, tokens, generator=generator) + 1,
        sink_by_sample=torch.rand(of.samples, layers, tokens, generator=generator),
        **wide,
    )
    return with_sink(with_sink(changed, 1, 2, 1700), 0, 1, 0)


def test_rows_of_the_table() -> None:
    of = with_sink(profile(), 1, 2, 7)
    row = layer_rows(of)[1]
    assert (row.position, row.token) == (7, visible(of.token_texts[7]))
    assert row.rate == pytest.approx(float(of.sink_rate[1, :, 7].mean()))
    assert row.received == pytest.approx(0.9)
    # the head with the sink alone says how large the values of the sink are
    assert row.value_ratio == pytest.approx(0.01 / float(of.written_norm[1, 2].median()), rel=1e-4)
    key = of.key_norm[1, 2]
    assert row.key_ratio == pytest.approx(float(key[7] / key.median()), rel=1e-5)
    hidden = of.hidden_norm[1]
    assert row.hidden_ratio == pytest.approx(float(hidden[7] / hidden.median()), rel=1e-5)
    assert row.entropy == pytest.approx(float(of.entropy[1].mean()))
    assert row.mass == pytest.approx(1.0)
    cells = sinks_table(of).rows[1]
    assert cells[1].startswith("7 ")
    assert cells[2] == f"{100 * row.rate:.2f}%"


def test_a_layer_without_sink_says_so() -> None:
    of = replace(profile(), sink_rate=torch.zeros_like(profile().sink_rate))
    assert all(row[1].startswith("none (") for row in sinks_table(of).rows)
    assert headline(of).startswith("No position is a sink")


def test_an_encoders_last_token_can_be_the_sink() -> None:
    of = with_sink(replace(profile(), causal=False), 0, 0, 19)
    assert layer_rows(of)[0].position == 19
    assert of.sinks()[0] == 19
    assert 19 not in replace(of, causal=True).sinks()


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (FirstToken((1,), "<s>", True, True), "'<s>' in every sample, a special token; it was put"),
        (FirstToken((1, 2), " a", False, False), "2 different tokens, most often '␣a', no special"),
        (FirstToken((4,)), "the token 4 (no tokenizer to say which); who made the ids"),
    ],
)
def test_what_stands_at_position_0(first: FirstToken, told: str) -> None:
    assert told in first_words(replace(profile(), first=first))


def test_rows_below_one_are_told() -> None:
    of = replace(profile(), mass=torch.full_like(profile().mass, 0.75))
    assert any("25.00% of the attention goes to no token" in said for said in remarks(of))
    assert not any("no token (" in said for said in remarks(profile()))


@given(st.integers(1, 60), st.data())
@settings(max_examples=30)
def test_kept_positions(most: int, data: Any) -> None:
    of, at = profile(), data.draw(st.integers(0, 14))
    kept = kept_positions(with_sink(of, 0, 0, at), most)
    assert kept == sorted(set(kept))
    assert len(kept) <= max(most, 1)
    assert set(kept) <= set(range(of.tokens))
    if most >= of.tokens:
        assert kept == list(range(of.tokens))


def test_a_long_profile_keeps_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    of = long()
    of.sink_rate[:, :, 907] = 0.5  # a sink in half of the samples, on average nowhere the strongest
    monkeypatch.setattr(sinks_data, "MOST_NUMBERS", 12 * 200)
    kept = kept_positions(of)
    assert 100 <= len(kept) <= 200
    assert {*range(START), 907, 1700, of.tokens - 1} <= set(kept)
    # No hole is wider than twice the even distance of the half that is spaced.
    assert max(b - a for a, b in itertools.pairwise(kept)) <= 2 * of.tokens / 100
    data = json.loads(json.dumps(profile_data(of)))
    assert data["positions"] == kept
    assert data["sinks"] == list(of.sinks())
    assert data["received"][1][2] == pytest.approx(of.received[1, 2, kept].tolist(), rel=1e-5)
    assert data["value_ratio"] == pytest.approx(of.value_ratio()[kept].tolist(), rel=1e-5)
    assert any(f"{len(kept):,} of 3,000 positions" in said for said in remarks(of))
    assert len(list(csv.reader(io.StringIO(head_table(of))))) == 1 + 12 * len(kept)


def test_a_page_of_many_tokens_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks_data, "MOST_NUMBERS", 12 * 200)
    small, large = (len(render(SinkReport(long(tokens)))) for tokens in (2000, 16000))
    assert large < small + 20_000
    numbers = len(sinks_data.ARRAYS) * 12 * 200 * 4 * 4 / 3  # float32 in base64
    assert large - len(get_plotlyjs()) < 3 * numbers


def test_the_page_has_the_numbers() -> None:
    of = with_sink(profile(), 2, 3, 4)
    data = page_data(of)
    shape = (*of.received.shape[:2], len(data["positions"]))
    for name, text in data["arrays"].items():
        bits = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float32)
        assert torch.equal(bits.view(shape), getattr(of, name)[..., data["positions"]]), name
    assert data["start"] == [2, 3]
    assert data["strongest"]["position"] == strongest(of).tolist()
    assert data["strongest"]["received"][2][3] == pytest.approx(0.9)
    ratio = 0.01 / float(of.written_norm[2, 3].median())
    assert data["strongest"]["value_ratio"][2][3] == pytest.approx(ratio, rel=1e-4)
    assert data["order"][0] == 4


def test_no_number_of_the_file_is_no_number() -> None:
    of = replace(profile(), written_norm=torch.full_like(profile().written_norm, math.nan))

    def refuse(word: str) -> None:
        raise AssertionError(word)

    data = json.loads(json.dumps(profile_data(of)), parse_constant=refuse)
    assert data["written_norm"][0][0] == [None] * of.tokens
    assert set(page_data(of)["arrays"]) == {*sinks_data.ARRAYS} - {"written_norm"}
    render(SinkReport(of))
    rows = list(csv.DictReader(io.StringIO(head_table(of))))
    assert {row["written_norm"] for row in rows} == {""}


def test_the_table_of_heads_is_exact() -> None:
    of = hostile(profile())
    rows = list(csv.DictReader(io.StringIO(head_table(of))))
    layers, heads, tokens = of.received.shape
    assert len(rows) == layers * heads * tokens
    for row in rows:
        place = int(row["layer"]), int(row["head"]), int(row["position"])
        assert float(row["received"]) == pytest.approx(float(of.received[place]), rel=1e-5)
        assert float(row["entropy"]) == pytest.approx(float(of.entropy[place]), rel=1e-5)
        assert json.loads(row["token"]) == of.token_texts[place[2]]
        assert row["token"][0] == '"'  # no formula


@given(st.text())
def test_a_shown_token_is_one_short_line(text: str) -> None:
    shown = visible(text)
    assert len(shown) > 0
    assert shown.isprintable()
    assert " " not in shown or not text
    assert len(shown) <= LONGEST
    shown.encode()


def test_hostile_texts_stay_text(battery: Battery) -> None:
    html = render(SinkReport(hostile(profile()), battery, decide(battery), {"command": HOSTILE[0]}))
    html.encode()
    tags = Tags(html)
    assert not [tag for tag, _ in tags.found if tag in ("img", "b")]
    assert sum(tag == "script" for tag, _ in tags.found) == 4
    for tag, attributes in tags.found:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:"), (tag, name, value)
    policy = next(a for t, a in tags.found if t == "meta" and "http-equiv" in a)["content"] or ""
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    assert tags.text.count(HOSTILE[0]) >= 2
    plots_text = re.search(r'id="plots">(.*?)</script>', html, re.DOTALL)
    assert plots_text is not None
    assert "%{x}>" not in plots_text[1]


def test_the_verdict_and_its_evidence_are_there(battery: Battery) -> None:
    verdict = decide(battery)
    text = Tags(render(SinkReport(profile(), battery, verdict))).text
    assert verdict.words in text
    assert f"Why these tokens: {verdict.kind}" in text
    for evidence in verdict.evidence:
        assert evidence.says in text
    for effect in battery.effects:
        assert effect.words in text
    for sentence in battery.skipped:
        assert sentence in text
    assert "does not say why" in Tags(render(SinkReport(profile()))).text


def test_the_forest_has_every_effect(battery: Battery) -> None:
    figure = plots.battery_forest(battery)
    shown = [effect for effect in battery.effects if math.isfinite(effect.total.value)]
    assert sum(len(trace.x) for trace in figure.data) == len(shown)
    found = {
        said: (x, up, down)
        for trace in figure.data
        for x, up, down, (_, said) in zip(
            trace.x, trace.error_x.array, trace.error_x.arrayminus, trace.customdata, strict=True
        )
    }
    for effect in shown:
        value, low, high = (min(x, plots.WIDEST_EFFECT) for x in effect.total)
        assert found[str(effect.total)] == pytest.approx((value, high - value, value - low))
    assert len(figure.layout.annotations) == len(shown)


def test_figures_for_notebooks() -> None:
    of = with_sink(profile(), 1, 2, 7)
    (cells,) = plots.sink_map(of).data
    assert cells.z[1][2] == pytest.approx(0.9)
    assert cells.customdata[1][2][0] == 7
    (cells,) = plots.sink_map(of, 3, "contribution").data
    assert torch.allclose(torch.tensor(cells.z), of.contribution[..., 3])
    received, value, written, key = plots.head_profile(of, 1, 2).data
    assert list(received.y) == pytest.approx(of.received[1, 2].tolist())
    for trace, norms in ((value, of.value_norm), (written, of.written_norm), (key, of.key_norm)):
        own = norms[1, 2]
        assert list(trace.y) == pytest.approx((own / own.median()).tolist(), rel=1e-5)
    lines = plots.hidden_norms(of).data
    assert list(lines[0].y) == pytest.approx(of.hidden_norm[:, 0].tolist())
    assert list(lines[-1].y) == pytest.approx(of.hidden_norm.median(-1).values.tolist())


@pytest.mark.parametrize(
    ("draw", "told"),
    [
        (lambda of: plots.sink_map(of, 20), "position: value is 20; accepted are 0 to 19"),
        (lambda of: plots.sink_map(of, measure="x"), "measure: value is 'x'; accepted are rec"),
        (lambda of: plots.head_profile(of, 3, 0), "layer: value is 3; accepted are 0 to 2"),
        (lambda of: plots.head_profile(of, 0, -1), "head: value is -1; accepted are 0 to 3"),
    ],
)
def test_figures_refuse_what_is_not_there(draw: Any, told: str) -> None:
    with pytest.raises(HeadwayError, match=told):
        draw(profile())


def test_report_writes_the_page(tmp_path: Path) -> None:
    path = profile().report(tmp_path / "sinks.html")
    assert path == tmp_path / "sinks.html"
    assert headline(profile()) in path.read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["sinks.html"]
