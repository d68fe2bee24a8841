"""The page as text: what it says, that names cannot break it, that it asks for nothing."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from headway.errors import HeadwayError
from headway.report.cells import Table, context_table, cost_table, main_table
from headway.report.figures import context_figures, loss_figures, power_axis, result_figures
from headway.report.learned import learned_figures, parse_name, points
from headway.report.page import (
    Section,
    described,
    fill_page,
    page_sections,
    render,
    shown,
    write_report,
)
from headway.report.results import read_results
from headway.report.style import COLOURS, DASHES, MARKERS, arm_styles, label, tick_label
from headway.report.summary import summarise

HOSTILE = "</script><img src=x onerror=alert(1)>%{x}"

HEAD = {"headline": "", "remarks": [], "device": "", "started": "", "command": "", "name": ""}


class Parsed(HTMLParser):
    """Tags with their attributes, and the text of each script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.text += data


@pytest.fixture(scope="module")
def page(drawn_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    folder = tmp_path_factory.mktemp("page")
    for name in ("settings.json", "metrics.jsonl"):
        (folder / name).write_bytes((drawn_results / name).read_bytes())
    path = write_report(folder)
    assert path == folder / "report.html"
    assert {file.name for file in folder.iterdir()} == {
        "settings.json",
        "metrics.jsonl",
        "report.html",
    }
    return Parsed(path.read_text(encoding="utf-8"))


def test_page_asks_for_nothing(page: Parsed) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "base", "audio", "video")
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:"), (tag, name, value)
    policy = next(a for t, a in page.tags if t == "meta" and "http-equiv" in a)["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_plotly_is_there_once(page: Parsed) -> None:
    assert sum("plotly.js v" in script[:200] for script in page.scripts) == 1


def test_page_says_what_the_summary_says(page: Parsed, drawn_results: Path) -> None:
    summary = summarise(drawn_results)
    assert summary["headline"] in page.text
    assert summary["command"] in page.text
    for remark in summary["remarks"]:
        assert remark in page.text
    for arm in summary["arms"].values():
        assert arm["verdict"] in page.text
        assert f"{arm['validation_loss_mean']:.4f}" in page.text
    for name in summary["settings"]:
        assert name in page.text


def test_every_plot_has_its_place(page: Parsed) -> None:
    plots = json.loads(page.scripts[1])
    places = [a["id"] for tag, a in page.tags if tag == "div" and a.get("class") == "plot"]
    assert [plot["id"] for plot in plots] == places
    assert len(set(places)) == len(places) >= 8 + 3


def test_hostile_names_stay_text(make_results: Callable[..., Path]) -> None:
    folder = make_results(arms=("vanilla", HOSTILE), effects={}, seeds=2)
    path = folder / "settings.json"
    settings = json.loads(path.read_text()) | {"command": HOSTILE, "device": HOSTILE}
    settings["corpus"][HOSTILE] = HOSTILE
    path.write_text(json.dumps(settings))
    page = Parsed(write_report(folder).read_text(encoding="utf-8"))
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert len(page.scripts) == 3
    assert page.text.count(HOSTILE) >= 6
    assert any("&#123;x}" in json.dumps(plot) for plot in json.loads(page.scripts[1]))


def test_what_is_missing_is_said(make_results: Callable[..., Path]) -> None:
    folder = make_results(arms=("vanilla",), seeds=1)
    (folder / "metrics.jsonl").write_text("")
    page = Parsed(write_report(folder).read_text(encoding="utf-8"))
    results = read_results(folder)
    for section in page_sections(results, summarise(folder)):
        assert not section.figures
        assert section.nothing in page.text
    assert json.loads(page.scripts[1]) == []


def test_no_page_of_a_broken_folder(make_results: Callable[..., Path]) -> None:
    folder = make_results(seeds=1)
    (folder / "metrics.jsonl").write_text("broken\n")
    with pytest.raises(HeadwayError):
        write_report(folder)
    assert not (folder / "report.html").exists()


def traces(figure: Any) -> list[dict[str, Any]]:
    """The traces of a figure as plain data."""
    data: list[dict[str, Any]] = figure.plot["data"]
    return data


def test_forest_shows_mean_interval_and_seeds(drawn_results: Path) -> None:
    summary = summarise(drawn_results)
    (forest,) = result_figures(summary)
    arm = summary["arms"]["kv_shift"]
    dots, mean = (trace for trace in traces(forest) if trace["meta"] == 1)
    assert dots["x"] == list(arm["seed_differences"].values())
    assert mean["x"] == [arm["difference_mean"]]
    assert mean["x"][0] + mean["error_x"]["array"][0] == pytest.approx(arm["difference_high"])
    assert mean["x"][0] - mean["error_x"]["arrayminus"][0] == pytest.approx(arm["difference_low"])


def test_loss_curve_is_the_seed_mean_in_its_band(drawn_results: Path) -> None:
    results = read_results(drawn_results)
    validation, difference, training = loss_figures(results)
    line = next(t for t in traces(validation) if t["meta"] == 3 and "hovertemplate" in t)
    kept = [row for row in results.evals if row.arm == "selective" and row.seed != 2]
    first = [row.validation_loss for row in kept if row.tokens == line["x"][0]]
    assert len(first) == 4
    assert None not in first
    assert line["y"][0] == pytest.approx(sum(filter(None, first)) / 4)
    assert line["customdata"][0] == [min(filter(None, first)), max(filter(None, first)), 4]
    area = next(t for t in traces(validation) if t["meta"] == 3 and "fill" in t)
    assert len(area["x"]) == 2 * len(line["x"])
    assert area["x"][0] == area["x"][-1]
    assert 0 not in {trace["meta"] for trace in traces(difference)}
    trained = next(t for t in traces(training) if t["meta"] == 3 and "hovertemplate" in t)
    assert {seeds for _, _, seeds in trained["customdata"]} == {4}


def test_context_figures_leave_out_what_was_not_measured(make_results: Callable[..., Path]) -> None:
    folder = make_results(arms=("vanilla",), seeds=1)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in lines:
        if row["kind"] == "eval":
            row |= {"repeat_accuracy": None, "prefix_scores": None}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    assert context_figures(read_results(folder))[-1].plot["data"][-1]["x"][0] == 1
    ids = [figure.id for figure in context_figures(read_results(folder))]
    assert ids == ["in-context-gain", "position-loss"]


def test_power_axis() -> None:
    assert power_axis([1, 127])["tickvals"] == [1, 4, 16, 64, 256]


def test_learned_values_keep_layer_tap_head_and_seed(drawn_results: Path) -> None:
    results = read_results(drawn_results)
    figure = next(f for f in learned_figures(results) if f.title == "kv_shift: KV shift, key taps")
    assert figure.plot["layout"]["yaxis"]["ticktext"] == [
        "layer 0, current",
        "layer 0, 1 back",
        "layer 1, current",
        "layer 1, 1 back",
    ]
    dots = traces(figure)[0]
    row = next(row for row in results.learned if row.arm == "kv_shift" and row.seed == 3)
    value: Any = row.values["layers.1.kv_shift.key taps"]
    told = ["layer 1, 1 back, head 2", 3]
    assert dots["x"][dots["customdata"].index(told)] == value[2][1]


def test_names_of_learned_parameters() -> None:
    name = parse_name("layers.12.residual_stream.value own, source")
    assert (name.layer, name.title) == ("layer 12", "residual stream, value own, source")
    found = points(name, [[1.0, 2.0], [3.0, None]], seed=0, heads={2})
    assert [(point.row, point.element, point.value) for point in found] == [
        ("layer 12, own", "head 0", 1.0),
        ("layer 12, own", "head 1", 2.0),
        ("layer 12, source", "head 0", 3.0),
    ]
    (lone,) = points(parse_name("temperature"), 0.5, seed=0, heads={4})
    assert (lone.row, lone.element, lone.place) == ("model", "", 0.0)
    assert points(parse_name("empty"), [], seed=0, heads=set()) == []


def test_settings_are_told_in_words() -> None:
    told = described([{"name": "kv_shift", "targets": ["key", "value"]}, {"name": "b", "on": True}])
    assert told == "kv_shift (targets = key, value) + b (on = yes)"
    assert described([]) == "no mechanism"
    assert [shown(value) for value in (None, False, 12345, 4e-3)] == [
        "not set",
        "no",
        "12,345",
        "0.004",
    ]


def test_arms_look_apart() -> None:
    arms = ["vanilla", *map(str, range(3 * len(COLOURS)))]
    styles = arm_styles(arms)
    for seen in ("dash", "marker"):
        assert len({(style.colour, getattr(style, seen)) for style in styles.values()}) == len(arms)


def test_the_legend_shows_dash_mark_and_colour_of_every_arm(
    make_results: Callable[..., Path],
) -> None:
    arms = ("vanilla", *(f"arm {number}" for number in range(3 * len(COLOURS))))
    results = read_results(make_results(arms=arms, effects={}, seeds=1))
    (validation, *_) = loss_figures(results)
    lines = {t["meta"]: t for t in traces(validation) if "hovertemplate" in t}
    page = Parsed(render(results))
    swatches = [a for tag, a in page.tags if tag == "svg"]
    drawn = [a for tag, a in page.tags if tag == "path" and (a["class"] or "").startswith("line")]
    marks = [a for tag, a in page.tags if tag == "path" and (a["class"] or "").startswith("mark")]
    shown = list(zip(swatches, drawn, marks, strict=True))
    assert len(shown) == len(arms)
    for number, (swatch, line, mark) in enumerate(shown):
        trace = lines[number]
        assert swatch["style"] == f"color: {trace['line']['color']}"
        assert line["stroke-dasharray"] == DASHES[trace["line"]["dash"]]
        symbol, _, hollow = trace["marker"]["symbol"].partition("-open")
        assert mark["d"] == MARKERS[symbol + hollow]
        assert ("hollow" in (mark["class"] or "")) == (number == 0)


def test_cells_of_many_columns_name_their_own(page: Parsed, drawn_results: Path) -> None:
    tables = [main_table, context_table, cost_table]
    made = [table(summarise(drawn_results)) for table in tables]
    assert min(len(table.columns) for table in made) > 5
    told = [attributes["data-label"] for tag, attributes in page.tags if tag == "td"]
    assert told == [name for table in made for _ in table.rows for name in table.columns[1:]]
    classes = [a["class"] for tag, a in page.tags if tag == "figure" and "class" in a]
    assert classes == ["table cards"] * 3


def test_a_number_alone_heads_a_card_with_its_columns_name() -> None:
    rows = (("12", *"abcde"), ("arm 1", *"abcde"))
    section = Section("s", "S", "", tables=(Table("T", ("layer", *"vwxyz"), rows),))
    page = Parsed(fill_page(HEAD, [section], [], []))
    told = [a["data-label"] for tag, a in page.tags if tag == "span" and "data-label" in a]
    assert told == ["layer"]


def test_a_table_of_few_columns_stays_one_and_names_are_escaped() -> None:
    columns = ("arm", HOSTILE, "x", "y", "z")
    section = Section("s", "S", "", tables=(Table("T", columns, (("a", "1", "2", "3", ""),)),))
    page = Parsed(fill_page(HEAD, [section], [], []))
    assert [a["class"] for tag, a in page.tags if tag == "figure"] == ["table"]
    assert [a["data-label"] for tag, a in page.tags if tag == "td"] == list(columns[1:])
    assert not [tag for tag, _ in page.tags if tag == "img"]


@pytest.mark.parametrize("background", ["#ffffff", "#1a1e23"])
def test_colours_are_legible(background: str) -> None:
    def luminance(colour: str) -> float:
        parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for style in arm_styles(["vanilla", *map(str, range(len(COLOURS)))]).values():
        light, dark = sorted((luminance(style.colour), luminance(background)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3, style.colour


def test_labels() -> None:
    assert label("<b>&%{x}") == "&lt;b&gt;&amp;%&#123;x}"
    assert tick_label("kv_shift+selective") == "kv_shift+<br>selective"
    assert max(map(len, tick_label("long" * 20).split("<br>"))) <= 20
