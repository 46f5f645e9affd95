"""docs/turns.md says what the code does."""

import re
from pathlib import Path

from gateway.turns import TRANSITIONS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "turns.md"


def test_the_pages_table_is_the_codes_table():
    """Every row of the page is a transition of the code, and the other way round."""
    rows = re.findall(r"^\| ([A-Z]+) \| (.+?) \| ([A-Z]+) \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [(before.name, cause.value, after.name) for (before, cause), after in TRANSITIONS.items()]
