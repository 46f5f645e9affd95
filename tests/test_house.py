"""The house keeps its order: who imports whom, how long a file may be, whose words mean what."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("bargein", "bus", "gateway", "workers", "benchmarks", "tests")
FILES = sorted(path for room in ("bargein", "bus", "gateway", "workers") for path in (ROOT / room).rglob("*.py"))
ENGINES = [path for path in FILES if path.parent.name == "engines"]
LONGEST = 400
"""Lines of a file."""
MAY_IMPORT = {"bus": {"bus"}, "gateway": {"bus", "gateway"}, "workers": {"bus", "workers"}}
FOR_ENGINES = {"bus.cancel", "bus.foreign", "bus.settings", "workers.engines", "workers.servers"}
"""What any engine may know of us, besides its own stage's folder: no session, no stream, no lease."""
OUTSIDE_ENGINES = {"workers.tts.worker", "workers.stt.worker", "workers.llm.worker", "workers.llm.prompt"}
"""Of a stage's folder, what knows sessions."""


def module(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path):
    """Every module of ours that a file imports, also within functions and for types only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            name = node.module or ""
            inner = {f"{name}.{alias.name}" for alias in node.names}
            found |= {each for each in inner if (ROOT / each.replace(".", "/")).with_suffix(".py").exists()} or {name}
    return {name for name in found if name.partition(".")[0] in ROOMS}


files = pytest.mark.parametrize("path", FILES, ids=[module(path) for path in FILES])


@files
def test_arrows_run_downward(path):
    """``bus`` imports neither gateway nor workers, those never each other, and nobody what only tests or measures."""
    room = path.relative_to(ROOT).parts[0]
    allowed = MAY_IMPORT.get(room, {"bargein", "bus", "gateway", "workers"})
    assert {name.partition(".")[0] for name in imported(path)} <= allowed


@pytest.mark.parametrize("path", ENGINES, ids=[module(path) for path in ENGINES])
def test_an_engine_knows_its_stage_only(path):
    """An engine imports its stage's folder, what every engine shares, and nothing of sessions, streams or leases."""
    stage = module(path).rpartition(".engines")[0]
    for name in imported(path) - FOR_ENGINES:
        assert name.startswith(stage) and name not in OUTSIDE_ENGINES, name


def test_the_turn_logic_is_pure():
    """What decides imports no I/O, no clock and no bus but its events."""
    for name in ("conductor", "duplex", "turns", "floor", "inputs", "moves", "rerun"):
        tree = ast.parse((ROOT / "gateway" / f"{name}.py").read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not names & {"asyncio", "time", "random", "socket", "redis", "logging"}, name
        assert not {each for each in names if each.startswith("bus.")} - {"bus.foreign"}, name


def test_no_file_is_too_long():
    """One noun a file: what needs more than 400 lines is two."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.js", "*.css", "*.sh"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a checkout")
    long = {
        name: lines
        for name in listed.stdout.split()
        if (lines := len((ROOT / name).read_text().splitlines())) > LONGEST
    }
    assert long == {}


@files
def test_nothing_is_left_to_do_in_a_comment(path):
    """What is left undone stands in an issue, or is said to be so in the docs."""
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", path.read_text())


@files
def test_every_module_says_what_it_is(path):
    """A docstring first; what is empty needs none."""
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text))
