"""What the pages say exists: links, commands, targets, settings. ``make docs`` checks the anchors besides."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from bargein.command import COMMANDS
from bargein.configuration import SECTIONS, variables

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")], key=str)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
SETTINGS = {variable.name.upper() for section in SECTIONS for _, variable in variables(section)}
OTHERS = {
    "ALIVE_FILE", "BARGEIN_API_KEY", "CREDENTIALS_DIRECTORY", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE",
    "OMP_NUM_THREADS", "OTEL_EXPORTER_OTLP_ENDPOINT", "YOUR_KEY",
}  # fmt: skip
"""Variables that clients and other programs read, and a word to replace."""

pages = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


@pages
def test_every_link_leads_to_a_file(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for path in re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / path).exists(), path


@pages
def test_every_command_exists(page):
    """Modules after ``python -m``, targets after ``make``, commands after ``bargein``."""
    text = page.read_text()
    code = "\n".join(re.findall(r"`([^`\n]+)`", text) + re.findall(r"^```.*?\n(.*?)^```$", text, re.M | re.S))
    for module in re.findall(r"python -m ([\w.]+)", code):
        assert find_spec(module) is not None, module
    for target in re.findall(r"^(?:\$ )?make ([a-z-]+)", code, re.M):
        assert target in TARGETS, target
    for command in re.findall(r"^(?:\$ )?bargein ([a-z]+)", code, re.M):
        assert command in COMMANDS, command


@pages
def test_every_setting_exists(page):
    """``NAME=value`` and names with an underscore, in code."""
    for code in re.findall(r"`([^`\n]+)`", page.read_text()):
        for name in re.findall(r"(?:^|\s)([A-Z][A-Z0-9]*_[A-Z0-9_]+)(?==|$)", code):
            assert name in SETTINGS | OTHERS, name


def test_every_page_is_in_the_site():
    listed = set(re.findall(r"([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= listed
