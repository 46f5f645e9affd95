"""What a benchmark leaves behind: its figures as JSON (``--json FILE``), and a picture of them (``--picture FILE``).

A picture is an SVG of small panels that reads on a light and on a dark page.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.figures import machine, percentile

WIDTH, HEIGHT = 380, 220
"""Of a panel."""
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 44, 34
ACROSS = 2
"""Panels side by side."""
BAR = 22
NAMES, TOLD = 132, 124
"""Room for the names before bars, and for what is told behind them."""
COLOURS = ("#2f81f7", "#1a9e8f", "#e0762e", "#c2549d", "#8a6fd6", "#b08800", "#d1495b", "#7a8793")
"""Each reads on white and on black."""
STYLE = """
text { font: 11px system-ui, sans-serif; fill: #30363d }
.title { font-weight: 600; font-size: 13px } .axis { stroke: #8b949e; fill: none } .grid { stroke: #8b949e40 }
@media (prefers-color-scheme: dark) { text { fill: #d7dde4 } }
"""


@dataclass
class Lines:
    """Curves over the same places: name -> [(x, y)]. Places are spaced evenly, in the order of x."""

    title: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    x: str = ""
    most: float | None = None
    """The top of the scale; what is beyond it leaves the panel."""
    dashed: frozenset[str] = frozenset()
    """Curves that share the colour of the one before. A curve of the same name looks the same in every panel."""
    even: bool = True
    """False: x is a scale of its own."""

    @property
    def height(self) -> float:
        return HEIGHT


@dataclass
class Bars:
    """One bar each: name -> value."""

    title: str
    bars: Mapping[str, float]
    unit: str = ""

    @property
    def height(self) -> float:
        return TOP + BAR * len(self.bars) + 12


@dataclass
class Spreads:
    """One distribution each: a bar to the median, a line to p95, a dot at p99."""

    title: str
    values: Mapping[str, Sequence[float]]
    unit: str = "ms"

    @property
    def height(self) -> float:
        return TOP + BAR * len(self.values) + 12


Panel = Lines | Bars | Spreads


@dataclass
class Picture:
    """Panels with a heading."""

    heading: str
    panels: list[Panel] = field(default_factory=list)

    def svg(self) -> str:
        """The whole drawing."""
        rows = [self.panels[at : at + ACROSS] for at in range(0, len(self.panels), ACROSS)]
        strokes = _strokes(self.panels)
        drawn, y = [f'<text class="title" x="10" y="20">{escape(self.heading)}</text>'], 30.0
        told: set[str] = set()
        for row in rows:
            names = list(dict.fromkeys(name for panel in row if isinstance(panel, Lines) for name in panel.curves))
            if not told.issuperset(names):  # curves that are explained above need no words again
                told |= set(names)
                drawn += [_legend(name, strokes[name], 16 + 118 * (at % 6), y + 16 * (at // 6))
                          for at, name in enumerate(names)]  # fmt: skip
                y += 16 * math.ceil(len(names) / 6)
            for place, panel in enumerate(row):
                drawn.append(f'<g transform="translate({place * WIDTH} {y:g})">{_inner(panel, strokes)}</g>')
            y += max(panel.height for panel in row)
        wide = ACROSS * WIDTH
        size = f'width="{wide}" height="{y:g}" viewBox="0 0 {wide} {y:g}"'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>{"".join(drawn)}</svg>\n'


def _strokes(panels: Sequence[Panel]) -> dict[str, str]:
    """How each curve is drawn, in all panels alike: name -> attributes."""
    strokes: dict[str, str] = {}
    colour = -1
    for panel in (panel for panel in panels if isinstance(panel, Lines)):
        for name in (name for name in panel.curves if name not in strokes):
            dash = name in panel.dashed
            colour += not dash or colour < 0
            strokes[name] = f'stroke="{COLOURS[colour % len(COLOURS)]}" stroke-width="2"'
            strokes[name] += ' stroke-dasharray="5 3"' if dash else ""
    return strokes


def _legend(name: str, stroke: str, x: float, y: float) -> str:
    return f'<path {stroke} d="M{x:g} {y + 6:g}h18"/><text x="{x + 23:g}" y="{y + 10:g}">{escape(name)}</text>'


def ticks(most: float) -> list[float]:
    """Three to six round numbers from 0 to at least ``most``."""
    if most <= 0:
        return [0.0, 1.0]
    step = 10.0 ** math.floor(math.log10(most / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if most / (step * factor) <= 5)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def _lines(panel: Lines, strokes: Mapping[str, str]) -> str:
    places = sorted({x for curve in panel.curves.values() for x, _ in curve})
    values = [y for curve in panel.curves.values() for _, y in curve]
    marks = ticks(panel.most or max(values, default=0.0))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def across(x: float) -> float:
        share = places.index(x) / max(1, len(places) - 1) if panel.even else x / (places[-1] or 1)
        return LEFT + wide * share

    def up(y: float) -> float:
        return TOP + high * (1 - min(y, marks[-1] * 1.02) / marks[-1])

    drawn = [f'<text class="title" x="10" y="16">{escape(panel.title)}</text>']
    for mark in marks:
        drawn.append(f'<path class="grid" d="M{LEFT} {up(mark):.1f}h{wide}"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{up(mark) + 4:.1f}" text-anchor="end">{mark:g}</text>')
    for x in places if panel.even or not places else [mark for mark in ticks(places[-1]) if mark <= places[-1]]:
        drawn.append(f'<text x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{x:g}</text>')
    drawn.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(panel.x)}</text>')
    for name, curve in panel.curves.items():
        points = [(across(x), up(y)) for x, y in curve]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        drawn.append(f'<polyline fill="none" {strokes[name]} points="{path}"/>')
        if panel.even:
            drawn += [f'<circle r="1.6" fill="none" {strokes[name]} cx="{x:.1f}" cy="{y:.1f}"/>' for x, y in points]
    return "".join(drawn)


def _bars(panel: Bars) -> str:
    title = f"{panel.title} ({panel.unit})" if panel.unit else panel.title
    return _rows(title, {name: (value,) for name, value in panel.bars.items()})


def _spreads(panel: Spreads) -> str:
    cut = {name: list(values) for name, values in panel.values.items() if values}
    shares = (0.5, 0.95, 0.99)
    rows = {name: tuple(percentile(values, share) for share in shares) for name, values in cut.items()}
    told = "; ".join(filter(None, (panel.unit, "p50, p95, p99")))
    return _rows(f"{panel.title} ({told})", rows)


def _rows(title: str, rows: Mapping[str, tuple[float, ...]]) -> str:
    """A bar to the first of each row's values, a line to the second, a dot at the third."""
    most = max((max(values) for values in rows.values()), default=0.0) or 1.0
    wide = WIDTH - NAMES - TOLD
    drawn = [f'<text class="title" x="10" y="16">{escape(title)}</text>']
    for number, (name, values) in enumerate(rows.items()):
        y = TOP - 16 + BAR * number
        ends = [wide * max(0.0, value) / most for value in values]
        drawn.append(f'<text x="{NAMES - 6}" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        drawn.append(f'<rect fill="{COLOURS[0]}" x="{NAMES}" y="{y}" height="15" width="{ends[0]:.1f}"/>')
        for end in ends[1:2]:
            drawn.append(f'<path stroke="{COLOURS[2]}" stroke-width="2" d="M{NAMES} {y + 7.5}h{end:.1f}"/>')
        for end in ends[2:3]:
            drawn.append(f'<circle fill="{COLOURS[2]}" r="3" cx="{NAMES + end:.1f}" cy="{y + 7.5}"/>')
        told = " / ".join(f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in values)
        drawn.append(f'<text x="{NAMES + 8 + max(ends):.1f}" y="{y + 12}">{told}</text>')
    return "".join(drawn)


def _inner(panel: Panel, strokes: Mapping[str, str]) -> str:
    if isinstance(panel, Lines):
        return _lines(panel, strokes)
    return _bars(panel) if isinstance(panel, Bars) else _spreads(panel)


def add_options(parser: argparse.ArgumentParser) -> None:
    """--json FILE and --picture FILE."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw them to this file, an SVG")


def save(options: argparse.Namespace, measured: Mapping[str, Any], picture: Picture) -> None:
    """Write what was asked for. The JSON also says on what machine and when."""
    if options.json:
        at = time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())
        told = {"machine": machine(), "at": at, **measured}
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    if options.picture:
        options.picture.write_text(picture.svg())
