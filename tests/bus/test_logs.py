"""What a log line says: its session and turn, whoever writes it, and nothing that was said."""

import asyncio
import io
import json
import logging
import sys
import types

import pytest

from bus.logs import JsonLines, TextLines, concern
from tests.gateway.realtime_client import client, voice
from tests.stack import running_stack

SESSION = "s0-4f1c09aa31d2"


@pytest.fixture
def lines():
    """The root logger's lines from INFO on, as JSON objects."""
    stream = io.StringIO()
    handler, root = logging.StreamHandler(stream), logging.getLogger()
    handler.setFormatter(JsonLines())
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(before)


def record(message, *arguments, **fields):
    made = logging.LogRecord("engine", logging.WARNING, "", 1, message, arguments, None)
    vars(made).update(fields)
    return made


async def test_a_task_that_works_for_a_turn_is_named_by_what_it_calls():
    """Also by tasks it starts; another task's lines stay without."""

    async def engine():
        return TextLines().format(record("asked once more")), json.loads(JsonLines().format(record("asked once more")))

    async def served():
        concern(SESSION, 3)
        return await asyncio.create_task(engine())

    text, line = await asyncio.create_task(served())
    assert text.endswith(f"WARNING engine {SESSION}/3: asked once more")
    assert (line["session"], line["turn"], line["level"], line["logger"]) == (SESSION, 3, "WARNING", "engine")
    text, line = await asyncio.create_task(engine())
    assert text.endswith("WARNING engine: asked once more")
    assert "session" not in line and "turn" not in line


def test_a_session_that_the_message_names_is_the_lines_session():
    """In text it is not said twice."""
    made = record("%s: turn %d failed", SESSION, 2, turn=2)
    assert TextLines().format(made).endswith(f"WARNING engine: {SESSION}: turn 2 failed")
    line = json.loads(JsonLines().format(made))
    assert (line["session"], line["turn"]) == (SESSION, 2)


def test_an_object_is_one_line_whatever_is_in_it():
    """Line breaks, quotes and a traceback stay within their strings."""
    try:
        raise ValueError('a "bad"\nthing')
    except ValueError:
        made = record("two\nlines")
        made.exc_info = sys.exc_info()
    text = JsonLines().format(made)
    assert "\n" not in text
    line = json.loads(text)
    assert line["message"] == "two\nlines" and "ValueError" in line["error"] and line["time"].endswith("+00:00")


async def test_a_call_is_told_in_a_few_lines_without_its_words(lines):
    """It begins, each turn ends, it ends: each line with its session, a turn's with the turn; nobody's words."""
    async with running_stack() as stack:
        async with client(stack.ws) as call:
            await call.audio(voice(0.6) + bytes(48_000))
            await call.get("response.done")
        async with asyncio.timeout(10):
            while stack.sessions:
                await asyncio.sleep(0.01)
        [session] = {line["session"] for line in lines() if line["logger"].startswith("gateway") and "session" in line}
        [turn] = [line for line in lines() if "turn 1 done" in line["message"]]
    assert (turn["session"], turn["turn"], turn["level"]) == (session, 1, "INFO")
    told = [line["message"] for line in lines() if line.get("session") == session]
    assert "begins" in told[0] and "ended" in told[-1]
    assert not [line for line in lines() if "hello there" in line["message"] or "One two" in line["message"]]


def test_a_module_that_was_started_goes_by_its_name(monkeypatch):
    """``python -m gateway.app`` logs as gateway.app."""
    monkeypatch.setitem(
        sys.modules, "__main__", types.SimpleNamespace(__spec__=types.SimpleNamespace(name="gateway.app"))
    )
    made = record("begins")
    made.name = "__main__"
    assert json.loads(JsonLines().format(made))["logger"] == "gateway.app"
    assert TextLines().format(made).endswith("WARNING gateway.app: begins")
