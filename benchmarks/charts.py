"""Bars with their spread as one SVG file and as a table: what README shows of a campaign. Needs no browser and no library."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from benchmarks.compare import Spread
from service.figure_style import FONT, GRID, INK, MUTED, PAPER, PRIMARY

OTHER = "#b8bec6"
"""Of every bar that is not ours."""

WIDTH, LABEL_WIDTH, VALUE_WIDTH, ROW, HEAD = 860, 240, 96, 24, 64


@dataclass(frozen=True)
class Bar:
    """One arm of a panel."""

    label: str
    spread: Spread
    is_ours: bool = False


@dataclass(frozen=True)
class Panel:
    """The arms of one case on a scale of their own, from 0."""

    title: str
    bars: tuple[Bar, ...]


def draw(path: Path, title: str, subtitle: str, panels: Sequence[Panel]) -> None:
    """Writes the chart."""
    height = HEAD + sum((len(panel.bars) + 2) * ROW for panel in panels)
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    text = f'font-family="{escape(FONT)}" font-size="13" fill="{INK}" role="img" aria-label="{escape(title)}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {text}>',
        f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>',
        f'<text x="16" y="28" font-size="18" font-weight="bold">{escape(title)}</text>',
        f'<text x="16" y="49" fill="{MUTED}">{escape(subtitle)}</text>',
    ]
    top = HEAD
    for panel in panels:
        parts += _panel(panel, top)
        top += (len(panel.bars) + 2) * ROW
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


def _panel(panel: Panel, top: int) -> list[str]:
    left, right = 16 + LABEL_WIDTH, WIDTH - VALUE_WIDTH
    largest = max((bar.spread.upper_quartile for bar in panel.bars), default=1.0) or 1.0
    scale = (right - left) / largest
    bottom = top + (len(panel.bars) + 1) * ROW
    parts = [
        f'<text x="16" y="{top + 17}" font-weight="bold">{escape(panel.title)}</text>',
        f'<line x1="{left}" x2="{left}" y1="{top + ROW}" y2="{bottom}" stroke="{GRID}"/>',
    ]
    for row, bar in enumerate(panel.bars, 1):
        y, spread = top + row * ROW, bar.spread
        colour, middle = PRIMARY if bar.is_ours else OTHER, y + ROW / 2
        low, high = left + spread.lower_quartile * scale, left + spread.upper_quartile * scale
        parts += [
            f'<text x="{left - 8}" y="{middle + 4.5}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect x="{left}" y="{y + 4}" width="{spread.median * scale:.1f}" height="{ROW - 8}" fill="{colour}"/>',
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="{INK}"/>',
            f'<text x="{max(high, left + spread.median * scale) + 6:.1f}" y="{middle + 4.5}">{shown(spread.median)}</text>',
        ]
    return parts


def shown(value: float) -> str:
    """A number with three digits that count, and separators between thousands."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def shown_spread(spread: Spread | None) -> str:
    """Median and quartiles."""
    if spread is None:
        return "-"
    return f"{shown(spread.median)} ({shown(spread.lower_quartile)} to {shown(spread.upper_quartile)})"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that reads well in a terminal and as Markdown."""
    widths = [max(len(row[column]) for row in (headers, *rows)) for column in range(len(headers))]
    rule = ["-" * width for width in widths]
    lines = [headers, rule, *rows]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines)
