"""The promises of the whole, under delays, losses, deaths and sleep: an hour of calls, and what it covered.

A seed that fails prints its schedule. ``python -m tests.simulation SEED`` replays it, to the microsecond.
"""

import faulthandler
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from gateway.turns import TRANSITIONS
from tests.simulation.report import covered, failed
from tests.simulation.world import Plan, World

HOUR = Plan(slots=14, seconds=58.0, trouble=(0.15, 1.4))
SEEDS = range(1, 6)


def run(seed):
    return World(seed, HOUR).run()


@pytest.fixture(scope="module")
def outcomes():
    """The worlds of SEEDS, each with the plan HOUR, as many at a time as there are processors."""
    faulthandler.cancel_dump_traceback_later()  # this takes longer than a test may
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(SEEDS)), mp_context=get_context("spawn")) as pool:
        return list(pool.map(run, SEEDS))


def test_an_hour_of_calls_keeps_every_promise(outcomes, capsys):
    """No stale frame, no cancel of a later turn, every turn ended, every word transcribed once, history as heard,
    nothing waits for ever, no fenced entry accepted: see ``checks.py`` and ``client.py``."""
    with capsys.disabled():
        print()
        print(covered(outcomes))
    broken = [outcome for outcome in outcomes if outcome.failure]
    assert not broken, failed(broken[0])


def test_the_hour_covers_what_it_should(outcomes):
    """At least an hour of calls, 2,000 barge-ins, 200 deaths, and every transition of the table."""
    transitions = sum((outcome.transitions for outcome in outcomes), Counter())
    counts = sum((outcome.counts for outcome in outcomes), Counter())
    assert sum(outcome.session_seconds for outcome in outcomes) >= 3600
    assert sum(outcome.barge_ins for outcome in outcomes) >= 2000
    assert counts["deaths"] >= 200
    assert all(counts[f"deaths: {stage}"] >= 20 for stage in ("stt", "llm", "tts"))
    assert counts["deaths: gateway"] >= 10
    assert counts["refused: fenced"] and counts["refused: cancelled"]
    assert {key for key in TRANSITIONS if not transitions[key]} == set()


def test_the_same_seed_gives_the_same_log():
    """A failing seed can be replayed: not one event differs, nor the time of one, nor a frame."""
    plan = Plan(slots=3, seconds=8.0, call=(6.0, 8.0), trouble=(0.1, 1.0))
    first, second, other = (World(seed, plan).run() for seed in (5, 5, 6))
    assert first.log == second.log
    assert first.digest == second.digest != other.digest
