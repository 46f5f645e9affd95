"""Calls of the simulation, run through the turn logic again from nothing but their inputs streams."""

from dataclasses import replace
from unittest.mock import patch

import pytest

from bus.events import Input
from bus.keys import session_key
from gateway import rerun as module
from gateway.inputs import CloseTurn, Hold, Settle
from gateway.journal import CLOSING, RESUMED, RULES, read_rules
from gateway.rerun import fates, rerun
from tests.simulation import world
from tests.simulation.audio import Murmurs
from tests.simulation.world import Plan, World

PLAN = Plan(slots=27, seconds=60.0, call=(4.0, 8.0), trouble=(0.3, 2.0), travels=0.6)


@pytest.fixture(scope="module")
def calls():
    """(journal, records) of 100 calls or more."""
    found, after_call = [], world.after_call

    async def keep(simulated, bus, session, *rest, **options):
        await after_call(simulated, bus, session, *rest, **options)
        kept = [
            [entry.event for entry in await bus.replay(session_key(session, name))] for name in ("inputs", "records")
        ]
        found.append(kept)

    with patch.object(world, "after_call", keep):
        outcome = World(11, PLAN).run()
    assert outcome.failure is None
    assert len(found) >= 100
    return found


@pytest.fixture(autouse=True)
def murmurs(monkeypatch):
    """The backchannels of the simulation have no end, so no stream holds them."""
    monkeypatch.setattr(module, "read_rules", lambda entry: replace(read_rules(entry), backchannels=Murmurs()))


def test_every_decision_is_the_same_bit_for_bit(calls):
    """100 calls with deaths, delays and losses: every action, with every time in it, is decided again."""
    runs = [rerun(journal) for journal, _ in calls]
    assert [run.difference for run in runs] == [None] * len(calls)
    assert sum(run.decisions for run in runs) == sum(
        entry.name not in (RULES, CLOSING, RESUMED) for journal, _ in calls for entry in journal
    )
    assert sum(bool(entry.actions) for journal, _ in calls for entry in journal) > 2000
    assert sum(len(run.turns) for run in runs) > 200
    assert sum(entry.name == RESUMED for journal, _ in calls for entry in journal) >= 10


def test_the_same_rules_give_every_turn_the_fate_it_had(calls):
    """With timers of its own a turn ends as its record says, held as often.

    The record of a turn that another gateway took up holds the steps since then; its fate tells of all.
    """
    compared = resumed = 0
    for journal, records in calls:
        run = rerun(journal)
        done = {fate.turn: fate for fate in fates(run)}
        for record in records:
            fate = done[record.turn]
            before, since = _holds(journal, run.moments, record.turn)
            assert (fate.outcome, fate.reason) == (record.outcome, record.reason)
            assert fate.holds == before + since
            assert record.steps.count('["held"') == since
            compared += 1
            resumed += before > 0
    assert compared > 200
    assert resumed > 0


def _holds(journal, moments, turn):
    """How often a turn was held: before the gateway that wrote its record had the session, and since."""
    before = since = 0
    for moment, entry in zip(moments, journal, strict=True):
        if entry.name == RESUMED:
            before, since = before + since, 0
        since += sum(isinstance(action, Hold) and action.turn == turn for action in moment.actions)
        if any(isinstance(action, CloseTurn | Settle) and action.turn == turn for action in moment.actions):
            break
    return before, since


def test_nobody_is_interrupted_where_nobody_may(calls):
    """Half duplex: no turn is held, and none is cancelled by speech."""
    full = [fate for journal, _ in calls for fate in fates(rerun(journal))]
    half = [
        fate
        for journal, _ in calls
        for fate in fates(rerun(journal), lambda rules: replace(rules, may_interrupt=False))
    ]
    assert sum(fate.reason == "turn_detected" for fate in full) > 50
    assert sum(fate.holds for fate in half) == 0
    assert all(fate.reason != "turn_detected" for fate in half)


def test_one_changed_decision_is_found(calls):
    """A recording in which one action differs is told apart, at the entry that differs."""
    journal, _ = calls[0]
    index = next(n for n, entry in enumerate(journal) if '"SetTimer"' in entry.actions)
    entry = journal[index]
    at = entry.actions.rindex('"at":') + 5
    changed = Input(entry.name, entry.data, entry.actions[:at] + "9" + entry.actions[at:])
    found = rerun([*journal[:index], changed, *journal[index + 1 :]]).difference
    assert found is not None and found.index == index and found.decided == entry.actions
