"""The table and the page of a long text read in several ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headway.files import write_atomically
from headway.report import words
from headway.report.cells import Table
from headway.report.figures import CURVE_HEIGHT, Figure, as_data
from headway.report.page import Section, fill_page, legend, pairs
from headway.report.style import label, layout
from headway.studies.streaming import verdict

PAGE = "report.html"


def stream_table(results: dict[str, Any]) -> Table:
    """One row a way of reading."""
    held = max(way["sees"] or 0 for way in results["ways"])
    return Table(
        title=f"{results['model']['name']}: perplexity behind token {held:,}",
        columns=(
            "way",
            "kept",
            "a token sees",
            "perplexity",
            "ratio to recompute",
            "tokens/s",
            "cache",
        ),
        rows=tuple(_row(way) for way in results["ways"]),
    )


def _row(way: dict[str, Any]) -> tuple[str, ...]:
    sees = "all" if way["sees"] is None else f"{way['sees']:,}"
    if way["reason"]:
        return way["way"], "-", sees, way["reason"], "-", "-", "-"
    return (
        way["way"],
        _listed(way["kept"]),
        sees,
        _number(way["perplexity"]),
        words.MISSING if way["ratio"] is None else f"{way['ratio']:.3f}",
        f"{way['tokens_per_second']:,.0f}",
        "-" if way["cache_bytes"] is None else _bytes(way["cache_bytes"]),
    )


def _listed(positions: list[int]) -> str:
    if len(positions) > 4 and positions == list(range(len(positions))):
        return f"0 to {len(positions) - 1}"
    return " ".join(map(str, positions)) or "-"


def _number(value: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{value:.4g}" if value < 1e6 else f"{value:.2e}"


def _bytes(size: int) -> str:
    return f"{size / 2**10:,.0f} KiB" if size < words.MEBIBYTE else f"{size / 2**20:,.1f} MiB"


def write_stream_page(folder: Path, results: dict[str, Any]) -> Path:
    """Write `report.html` into a results folder in one step; the path that was written."""
    return write_atomically(folder / PAGE, render_stream(results))


def render_stream(results: dict[str, Any]) -> str:
    """The page as HTML; it asks nothing of the network."""
    names = [way["way"] for way in results["ways"]]
    head = {
        "kind": "stream",
        "facts": "What was read",
        "name": results["model"]["name"],
        "headline": verdict(results),
        "remarks": remarks(results),
        "device": results["device"],
        "started": results["started"],
        "command": results["command"],
    }
    section = Section(
        "stream",
        "Perplexity along the text",
        "All ways but 'full' let a token see equally many tokens. 'recompute' reads each window as "
        "a text of its own; the others read every token once.",
        (curve(results, names),),
        (stream_table(results),),
    )
    about = {key: results[key] for key in ("model", "tokens", "first_token", "kept", "stride")}
    facts = [
        ("Read", pairs(about)),
        ("Settings", pairs(results["settings"])),
        ("Versions", pairs(results["versions"])),
    ]
    return fill_page(head, [section], legend(names), facts)


def remarks(results: dict[str, Any]) -> list[str]:
    """What the table alone does not say."""
    said = [f"The text begins with the token {results['first_token']!r}."]
    if not results["kept"] and results["settings"]["keep"] == "auto":
        said.append("No waiver was found in the first tokens, so none was kept.")
    if results["stride"] > 1:
        said.append(
            f"'recompute' was computed at every {results['stride']}th token; tokens between see up "
            f"to {results['stride'] - 1} fewer."
        )
    return said


def curve(results: dict[str, Any], names: list[str]) -> Figure:
    """Perplexity in bins along the text, on a logarithmic axis."""
    import plotly.graph_objects as go

    look = layout("token", "perplexity", CURVE_HEIGHT + 80)
    look["yaxis"] |= {"type": "log"}
    figure = go.Figure(layout=look)
    for number, (name, style) in enumerate(legend(names)):
        line = results["ways"][number]["curve"]
        figure.add_trace(
            go.Scatter(
                x=line["token"],
                y=line["perplexity"],
                mode="lines",
                line={"color": style.colour, "dash": style.dash, "width": 2},
                hovertemplate=f"<b>{label(name)}</b><br>token %{{x:,}}: %{{y:.4g}}<extra></extra>",
                meta=number,
            )
        )
    context, data = results["model"]["context"], as_data(figure)
    if context and context < results["tokens"]:
        data["layout"]["shapes"] = [
            {
                "type": "line",
                "x0": context,
                "x1": context,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "line": {"color": "#7d828a", "dash": "dot", "width": 1},
            }
        ]
    return Figure(
        "stream-perplexity",
        "Perplexity along the text",
        "Each point is the mean over an equal part of the text. Dotted: the trained context.",
        data,
    )
