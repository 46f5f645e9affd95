"""The table of a turn's transitions, and that docs/turns.md says what the code does."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.turns import TRANSITIONS, Cause, ForbiddenTransition, Turn, TurnState

PAGE = Path(__file__).resolve().parents[2] / "docs" / "turns.md"


def test_the_pages_table_is_the_codes_table():
    """Every row of the page is a transition of the code, and the other way round."""
    rows = re.findall(r"^\| ([A-Z]+) \| (.+?) \| ([A-Z]+) \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [(before.name, cause.value, after.name) for (before, cause), after in TRANSITIONS.items()]


@pytest.mark.parametrize("state", TurnState)
@pytest.mark.parametrize("cause", Cause)
def test_only_the_transitions_of_the_table_exist(state, cause):
    """Every pair of state and cause either is in the table or is refused by name."""
    turn = Turn(1, 0, state)
    if (state, cause) in TRANSITIONS:
        assert turn.go(cause) == replace(turn, state=TRANSITIONS[state, cause])
    else:
        with pytest.raises(ForbiddenTransition, match=state.value):
            turn.go(cause)


def test_every_end_is_an_end():
    """From every state an end can be reached, and no way leads out of an end."""
    ends = {TurnState.DONE, TurnState.CANCELLED, TurnState.FAILED}
    assert not [state for state, _ in TRANSITIONS if state in ends]
    reached = set(ends)
    for _ in TurnState:
        reached |= {state for (state, _), after in TRANSITIONS.items() if after in reached}
    assert reached == set(TurnState)
