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

from benchmarks.figures import machine

WIDTH, HEIGHT = 380, 220
"""Of a panel."""
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 44, 34
ACROSS = 2
"""Panels side by side."""
BAR = 22
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
    """Curves that share the colour of the one before."""
    even: bool = True
    """False: x is a scale of its own."""

    @property
    def height(self) -> float:
        return HEIGHT + 14 * math.ceil(len(self.curves) / 2)


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
class Picture:
    """Panels with a heading."""

    heading: str
    panels: list[Lines | Bars] = field(default_factory=list)

    def svg(self) -> str:
        """The whole drawing."""
        rows = [self.panels[at : at + ACROSS] for at in range(0, len(self.panels), ACROSS)]
        drawn, y = [f'<text class="title" x="10" y="20">{escape(self.heading)}</text>'], 30.0
        for row in rows:
            for place, panel in enumerate(row):
                inner = _lines(panel) if isinstance(panel, Lines) else _bars(panel)
                drawn.append(f'<g transform="translate({place * WIDTH} {y:g})">{inner}</g>')
            y += max(panel.height for panel in row)
        across = min(ACROSS, max(1, len(self.panels)))
        size = f'width="{across * WIDTH}" height="{y:g}" viewBox="0 0 {across * WIDTH} {y:g}"'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>{"".join(drawn)}</svg>\n'


def ticks(most: float) -> list[float]:
    """Three to six round numbers from 0 to at least ``most``."""
    if most <= 0:
        return [0.0, 1.0]
    step = 10.0 ** math.floor(math.log10(most / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if most / (step * factor) <= 5)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def _lines(panel: Lines) -> str:
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
    for x in places if panel.even else [mark for mark in ticks(max(places, default=1)) if mark <= places[-1]]:
        drawn.append(f'<text x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{x:g}</text>')
    drawn.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(panel.x)}</text>')
    colour = -1
    for number, (name, curve) in enumerate(panel.curves.items()):
        colour += name not in panel.dashed or colour < 0
        stroke = f'stroke="{COLOURS[colour % len(COLOURS)]}"'
        dash = ' stroke-dasharray="5 3"' if name in panel.dashed else ""
        points = [(across(x), up(y)) for x, y in curve]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        drawn.append(f'<polyline fill="none" stroke-width="2" {stroke}{dash} points="{path}"/>')
        if panel.even and not dash:
            fill = stroke.replace("stroke", "fill")
            drawn += [f'<circle r="2.6" {fill} cx="{x:.1f}" cy="{y:.1f}"/>' for x, y in points]
        left, top = LEFT + (number % 2) * wide / 2, HEIGHT + 4 + 14 * (number // 2)
        drawn.append(f'<path stroke-width="2" {stroke}{dash} d="M{left:g} {top - 4}h18"/>')
        drawn.append(f'<text x="{left + 24:g}" y="{top}">{escape(name)}</text>')
    return "".join(drawn)


def _bars(panel: Bars) -> str:
    most = max(panel.bars.values(), default=0.0) or 1.0
    wide = WIDTH - 200
    drawn = [f'<text class="title" x="10" y="16">{escape(panel.title)}</text>']
    for number, (name, value) in enumerate(panel.bars.items()):
        y = TOP - 16 + BAR * number
        drawn.append(f'<text x="126" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        drawn.append(f'<rect fill="{COLOURS[0]}" x="132" y="{y}" height="15" width="{wide * value / most:.1f}"/>')
        told = f"{value:.4g} {panel.unit}".strip()
        drawn.append(f'<text x="{138 + wide * value / most:.1f}" y="{y + 12}">{escape(told)}</text>')
    return "".join(drawn)


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
