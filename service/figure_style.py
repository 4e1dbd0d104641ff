"""How all figures look: one font, one palette that colour-blind readers can tell apart, axes, panels, hover texts.

A figure is a plain document, ``{"data": [...], "layout": {...}}``: what Plotly draws in a browser and ``plotly.graph_objects.Figure``
takes in a notebook.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

Json = dict[str, Any]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, MUTED, GRID, PAPER = "#1f2328", "#656d76", "#e7e9ec", "#ffffff"
PRIMARY, SECONDARY, TERTIARY = "#0072b2", "#d55e00", "#009e73"
PALETTE = (PRIMARY, SECONDARY, TERTIARY, "#cc79a7", "#e69f00", "#56b4e9", "#4b4b4b", "#8c6d31", "#882255", "#44aa99")
"""Okabe and Ito's colours for the first six, then four that keep apart from them."""

JOB_COLOURS = (PRIMARY, SECONDARY)
"""Of a job, and of the one it is compared with."""

SHADES = ("#3b0f70", "#31688e", "#1f9e89", "#8fbc3f")
"""For things in an order: dark is early, light is late; the dark end of viridis, since its yellow is lost on white."""

INTENSITY = ((0.0, "#f4f8fb"), (0.5, "#7fb2d6"), (1.0, "#0b4f7d"))
"""For the cells of a matrix."""

LINE_LENGTH = 88
"""Characters of a subtitle's line: what a page of 600 pixels shows."""


def figure(data: Sequence[Json], title: str, subtitle: str = "", *, height: int = 480, **layout: Any) -> Json:
    """The document of a figure. Titles are text: what looks like markup in them is shown as it is."""
    lines = wrapped(subtitle) if subtitle else []
    small = "".join(f'<br><span style="font-size:13px;color:{MUTED}">{escape(line)}</span>' for line in lines)
    common = {
        "title": {"text": f"<b>{escape(title)}</b>{small}", "x": 0, "xref": "paper", "y": 1, "yref": "container", "yanchor": "top"}
        | {"pad": {"t": 18}, "font": {"size": 18}},
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "height": height,
        "margin": {"l": 76, "r": 40, "t": 60 + 21 * len(lines), "b": 72},
        "modebar": {"orientation": "v"},  # beside the panels: across the top it would cover the title of a narrow page
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": MUTED, "font": {"family": FONT, "size": 13, "color": INK}, "align": "left"},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom", "font": {"size": 12}},
    }
    return {"data": list(data), "layout": common | layout}


def axis(title: str, **options: Any) -> Json:
    """An axis with its title and unit."""
    lines = {"gridcolor": GRID, "linecolor": MUTED, "showline": True, "zeroline": False, "ticks": "outside", "tickcolor": MUTED}
    return {"title": {"text": escape(title), "standoff": 8, "font": {"size": 13}}, "automargin": True, "ticklen": 4} | lines | options


def log_axis(title: str, values: Iterable[float | None], **options: Any) -> Json:
    """A logarithmic axis that shows all of ``values``; the fewer decades they span, the finer its ticks."""
    found = [math.log10(value) for value in values if value is not None and value > 0]
    low, high = (min(found), max(found)) if found else (-1.0, 0.0)
    margin, span = 0.04 * (high - low) + 0.02, high - low
    ticks: Json = {"minexponent": 4, "tickformat": "~g"}
    if span > 2.5:
        ticks = {"dtick": math.ceil(span / 8), "exponentformat": "power"}
    elif span > 0.7:
        ticks |= {"dtick": "D2"}
    return axis(title, type="log", range=[low - margin, high + margin], **ticks, **options)


def line(x: Sequence[Any], y: Sequence[Any], name: str, colour: str, hover: str, **options: Any) -> Json:
    """A curve. ``hover`` is a Plotly template for its points."""
    trace = {
        "type": "scatter",
        "mode": "lines",
        "x": list(x),
        "y": list(y),
        "name": escape(name),
        "hovertemplate": hover + "<extra></extra>",
    }
    style = {"color": colour, "width": 2} | options.pop("line", {})
    return trace | {"line": style} | options


def markers(x: Sequence[Any], y: Sequence[Any], name: str, colour: str, hover: str, **options: Any) -> Json:
    """Points without a line between them."""
    trace = {"type": "scatter", "mode": "markers", "x": list(x), "y": list(y), "name": escape(name)}
    style = {"color": colour, "size": 9} | options.pop("marker", {})
    return trace | {"hovertemplate": hover + "<extra></extra>", "marker": style} | options


def side_by_side(count: int, *, gap: float = 0.09) -> list[list[float]]:
    """The horizontal domains of ``count`` panels of equal width."""
    width = (1 - gap * (count - 1)) / count
    return [[index * (width + gap), index * (width + gap) + width] for index in range(count)]


def panel_title(text: str, domain: Sequence[float], *, y: float = 1.0, lift: int = 6) -> Json:
    """An annotation that stands over a panel, at its left edge."""
    place = {"x": domain[0], "xref": "paper", "xanchor": "left", "y": y, "yref": "paper", "yanchor": "bottom", "yshift": lift}
    return {"text": escape(text), "showarrow": False, "align": "left", "font": {"size": 13, "color": INK}} | place


def numbered(name: str, number: int) -> str:
    """The name of axis ``number``, from 1, as layouts (xaxis, xaxis2, …) and traces (x, x2, …) know it."""
    return name if number == 1 else f"{name}{number}"


def on_panel(number: int) -> Json:
    """Puts a trace on the axes of panel ``number``."""
    return {"xaxis": numbered("x", number), "yaxis": numbered("y", number)}


def shades(count: int) -> list[str]:
    """``count`` colours in an order, from dark to light."""
    if count == 1:
        return [PRIMARY]
    return [_between(index * (len(SHADES) - 1) / (count - 1)) for index in range(count)]


def wrapped(text: str, length: int = LINE_LENGTH) -> list[str]:
    """The text in lines of at most ``length`` characters, broken between words."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > length:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def _between(place: float) -> str:
    """The colour at ``place`` on the way through ``SHADES``."""
    index = min(int(place), len(SHADES) - 2)
    first, second = (tuple(int(SHADES[i][start : start + 2], 16) for start in (1, 3, 5)) for i in (index, index + 1))
    share = place - index
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(first, second, strict=True))
