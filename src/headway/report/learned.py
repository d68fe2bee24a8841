"""What mechanisms learned: taps, temperatures and weights of every layer, head and seed."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from headway.report.figures import Figure, as_data
from headway.report.results import Results
from headway.report.rows import Nested
from headway.report.style import BASELINE_COLOUR, arm_styles, label, layout

ROW_HEIGHT = 38
FRAME_HEIGHT = 80
SPREAD = 0.32
"""Half of the height within a row over which its heads are spread."""
WORDS = {"kv_shift": "KV shift"}
"""Parts of parameter names that read otherwise than with spaces for underscores."""

Index = tuple[int, ...]
Cells = list[tuple[Index, float | None]]


@dataclass(frozen=True)
class Point:
    """One learned number.

    `row` names the line of the figure it stands in, `place` between -1 and 1 its height there,
    `element` the head or other part of the parameter it belongs to.
    """

    row: str
    place: float
    element: str
    seed: int
    value: float


@dataclass(frozen=True)
class ParameterName:
    """`layers.0.kv_shift.key taps` taken apart: layer, readable name, words for its columns."""

    layer: str
    title: str
    is_taps: bool
    columns: tuple[str, ...]


def learned_figures(results: Results) -> list[Figure]:
    """A figure for every learned parameter of every arm; layers are rows within it."""
    gathered: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for row in results.learned:
        for key, value in row.values.items():
            name = parse_name(key)
            gathered[row.arm, name.title] += points(name, value, row.seed, head_counts(results))
    ordered = sorted(gathered.items(), key=lambda item: results.arms.index(item[0][0]))
    return [
        learned_figure(f"learned-{number}", arm, title, found, results.arms)
        for number, ((arm, title), found) in enumerate(ordered)
        if found
    ]


def head_counts(results: Results) -> set[int]:
    """How many heads a layer of the trained model has."""
    named = ("num_attention_heads", "num_key_value_heads")
    values = (results.run.settings.get(name) for name in named)
    return {value for value in values if isinstance(value, int)}


def parse_name(key: str) -> ParameterName:
    """Take a parameter's name apart; a name without a layer belongs to the whole model."""
    parts = key.split(".")
    layer = "model"
    if len(parts) > 2 and parts[0] == "layers" and parts[1].isdigit():
        layer, parts = f"layer {parts[1]}", parts[2:]
    last = parts[-1]
    return ParameterName(
        layer=layer,
        title=", ".join(WORDS.get(part, part.replace("_", " ")) for part in parts),
        is_taps="taps" in last.split() or "kv_shift" in parts[:-1],
        columns=tuple(word.strip() for word in last.split(" ", 1)[-1].split(",")),
    )


def points(name: ParameterName, value: Nested, seed: int, heads: set[int]) -> list[Point]:
    """All numbers of one parameter of one run."""
    cells = list(flatten(value))
    sizes = shape([index for index, _ in cells])
    axis = column_axis(name, sizes)
    return [
        Point(
            row=", ".join(part for part in (name.layer, column(name, index, axis)) if part),
            place=place(index, sizes, axis),
            element=element(index, sizes, axis, heads),
            seed=seed,
            value=number,
        )
        for index, number in cells
        if number is not None
    ]


def flatten(value: Nested, index: Index = ()) -> Iterator[tuple[Index, float | None]]:
    """Every number of nested lists with its index."""
    if not isinstance(value, list):
        yield index, value
        return
    for number, item in enumerate(value):
        yield from flatten(item, (*index, number))


def shape(indices: list[Index]) -> Index:
    """Sizes of the nested lists that have these indices."""
    depth = max((len(index) for index in indices), default=0)
    return tuple(
        1 + max(index[axis] for index in indices if len(index) > axis) for axis in range(depth)
    )


def column_axis(name: ParameterName, sizes: Index) -> int | None:
    """The axis whose entries have a meaning of their own: the taps, or what the name lists."""
    if name.is_taps and sizes:
        return len(sizes) - 1
    if len(name.columns) > 1 and sizes and sizes[0] == len(name.columns):
        return 0
    return None


def column(name: ParameterName, index: Index, axis: int | None) -> str:
    """What an entry along the column axis means."""
    if axis is None:
        return ""
    if not name.is_taps:
        return name.columns[index[axis]]
    return "current" if index[axis] == 0 else f"{index[axis]} back"


def others(index: Index, axis: int | None) -> Index:
    """An index or shape without the column axis."""
    return tuple(number for along, number in enumerate(index) if along != axis)


def place(index: Index, sizes: Index, axis: int | None) -> float:
    """Where in its row an element stands, from -1 to 1; a lone element stands in the middle."""
    flat, total = 0, 1
    for number, size in zip(others(index, axis), others(sizes, axis), strict=True):
        flat, total = flat * size + number, total * size
    return (2 * flat + 1) / total - 1


def element(index: Index, sizes: Index, axis: int | None, heads: set[int]) -> str:
    """Which part of the parameter an element is: the head where an axis is as long as heads are."""
    told = [
        f"{'head' if size in heads else 'element'} {number}"
        for number, size in zip(others(index, axis), others(sizes, axis), strict=True)
        if size > 1
    ]
    return ", ".join(told)


def learned_figure(
    identity: str, arm: str, title: str, found: list[Point], arms: Sequence[str]
) -> Figure:
    """Every head of every seed as a dot, a row for each layer and tap with a bar at its mean."""
    import plotly.graph_objects as go

    rows = list(dict.fromkeys(point.row for point in sorted(found, key=layer_number)))
    look = layout("learned value", "", FRAME_HEIGHT + ROW_HEIGHT * len(rows))
    look["yaxis"] |= {
        "tickvals": list(range(len(rows))),
        "ticktext": [label(row) for row in rows],
        "range": [len(rows) - 0.5, -0.5],
        "showgrid": False,
        "ticks": "",
        "fixedrange": True,
    }
    look["xaxis"] |= {"nticks": 4}
    figure = go.Figure(layout=look)
    colour = arm_styles(arms)[arm].colour
    figure.add_trace(go.Scatter(**dots(found, rows, colour)))
    figure.add_trace(go.Scatter(**means(found, rows)))
    return Figure(identity, f"{arm}: {title}", "", as_data(figure))


def layer_number(point: Point) -> int:
    """The layer a row belongs to; -1 for parameters of the whole model."""
    layer = point.row.split(",")[0].removeprefix("layer ")
    return int(layer) if layer.isdigit() else -1


def dots(found: list[Point], rows: list[str], colour: str) -> dict[str, Any]:
    """A dot for every learned number."""
    told = [f"{point.row}, {point.element}".rstrip(", ") for point in found]
    return {
        "x": [point.value for point in found],
        "y": [rows.index(point.row) + SPREAD * point.place for point in found],
        "customdata": [[label(text), point.seed] for text, point in zip(told, found, strict=True)],
        "mode": "markers",
        "marker": {"color": colour, "size": 7, "opacity": 0.75},
        "hovertemplate": "%{customdata[0]}<br>seed %{customdata[1]}: %{x:.4f}<extra></extra>",
    }


def means(found: list[Point], rows: list[str]) -> dict[str, Any]:
    """A bar at the mean of each row."""
    values = [fmean(point.value for point in found if point.row == row) for row in rows]
    return {
        "x": values,
        "y": list(range(len(rows))),
        "mode": "markers",
        "marker": {"symbol": "line-ns-open", "size": 24, "color": BASELINE_COLOUR},
        "hovertemplate": "mean %{x:.4f}<extra></extra>",
    }
