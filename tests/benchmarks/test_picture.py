"""Figures as JSON and as a picture: whole, well-formed, and offered by every benchmark."""

import argparse
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.picture import Bars, Lines, Picture, Spreads, add_options, save, ticks

SVG = "{http://www.w3.org/2000/svg}"
FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NO_BENCHMARKS = {"live_check", "model_server"}
"""Commands that measure nothing: a check, and a server."""


def drawn(*panels):
    """The picture's elements, read back."""
    return ElementTree.fromstring(Picture("A <heading> & more", list(panels)).svg())


def texts(root):
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def test_curves_lie_between_the_axes_in_the_order_of_their_places():
    root = drawn(Lines("Time (ms)", {"a": [(1, 0.0), (5, 50.0), (50, 100.0)], "b": [(5, 20.0)]}, "calls"))
    first, second = (line.get("points") for line in root.iter(f"{SVG}polyline"))
    points = [tuple(map(float, point.split(","))) for point in first.split()]
    assert points[0][0] < points[1][0] < points[2][0] and points[0][1] > points[1][1] > points[2][1]
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.2)
    assert float(second.split(",")[0]) == points[1][0]
    assert {"1", "5", "50", "100", "a", "b", "calls", "A <heading> & more"} <= set(texts(root))


def test_what_is_beyond_the_scale_stays_in_the_panel():
    root = drawn(Lines("Time", {"a": [(1, 10.0), (2, 9000.0)]}, most=100.0))
    (line,) = root.iter(f"{SVG}polyline")
    assert float(line.get("points").split(",")[-1]) >= 30


def test_a_curve_looks_the_same_in_every_panel_and_is_explained_once():
    root = drawn(Lines("one", {"a": [(1, 1)], "b": [(1, 2)]}), Lines("two", {"b": [(1, 1)]}), Lines("three", {"b": []}))
    colours = [line.get("stroke") for line in root.iter(f"{SVG}polyline")]
    assert colours[0] != colours[1] and colours[1:] == [colours[1]] * 3 and texts(root).count("b") == 1


def test_a_distribution_is_its_median_p95_and_p99():
    root = drawn(Spreads("Held", {"held": [float(each) for each in range(1, 101)], "never": []}))
    assert {"50.5 / 95 / 99", "Held (ms; p50, p95, p99)"} <= set(texts(root)) and "never" not in texts(root)


def test_bars_are_as_long_as_their_values():
    root = drawn(Bars("CPU", {"one": 10.0, "two": 20.0, "none": 0.0}, "%"))
    one, two, none = (float(bar.get("width")) for bar in root.iter(f"{SVG}rect"))
    assert two == pytest.approx(2 * one, abs=0.2) and none == 0 and {"20", "CPU (%)"} <= set(texts(root))


@pytest.mark.parametrize("panel", [Lines("l", {}), Lines("l", {"a": []}, even=False), Bars("b", {}), Spreads("s", {})])
def test_nothing_measured_is_an_empty_panel(panel):
    assert panel.title in "".join(texts(drawn(panel)))


@pytest.mark.parametrize("most", [0.0, 0.004, 1.0, 7.0, 99.0, 100.0, 12345.0])
def test_ticks_are_few_round_and_cover_everything(most):
    marks = ticks(most)
    assert marks[0] == 0 and marks[-1] >= most and 2 <= len(marks) <= 7
    assert {f"{mark:e}"[0] for mark in marks[1:2]} <= {"1", "2", "5"}


def test_files_are_written_where_they_are_asked_for(tmp_path):
    parser = argparse.ArgumentParser()
    add_options(parser)
    asked = parser.parse_args(["--json", str(tmp_path / "a.json"), "--picture", str(tmp_path / "a.svg")])
    save(asked, {"rows": [1, 2]}, Picture("x", [Bars("b", {"a": 1.0})]))
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["rows"] == [1, 2] and "cores" in told["machine"] and re.match(r"\d{4}-\d\d-\d\dT", told["at"])
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag == f"{SVG}svg"
    save(parser.parse_args([]), {}, Picture("x"))
    assert len(list(tmp_path.iterdir())) == 2


def test_every_benchmark_leaves_json_and_a_picture():
    commands = [file for file in FOLDER.glob("*.py") if "__main__" in file.read_text()]
    assert len(commands) > 8
    for file in [*commands, FOLDER / "peers" / "__main__.py"]:
        offers = "add_options(" in file.read_text() and "save(" in file.read_text()
        assert offers or file.stem in NO_BENCHMARKS, file.name
