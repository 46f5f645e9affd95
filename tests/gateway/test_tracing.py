"""Spans of a call with an interruption, from the gateway and from every worker, in one trace a turn."""

import json
import sys

import numpy as np
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bus import tracing
from bus.events import TurnRecord
from bus.tracing import trace_of
from gateway.client import Call
from tests.gateway.realtime_client import voice
from tests.stack import running_stack


@pytest.fixture
def exporter():
    made = InMemorySpanExporter()
    tracing.use(SimpleSpanProcessor(made))
    yield made
    tracing.use(None)


async def test_every_stage_of_a_turn_is_in_its_trace(exporter):
    """The turn's span has the id that session and turn give; its waterfall and every worker's lease hang below it."""
    async with running_stack(end_of_turn_ms=300) as stack:
        question = np.concatenate([np.frombuffer(voice(0.6), "<i2"), np.zeros(12_000, np.int16)])
        async with Call(f"{stack.ws}&extensions=bargein") as call:
            await call.say(question)
            await call.reply_started()
            await call.say(question)
            await call.reply()
            await call.reply()
            session = call.session_id
    found = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.context.trace_id, []).append(span)
    assert set(found) == {trace_of(session, turn)[0] for turn in (0, 1, 2)}
    for turn, ending in ((1, "turn cancelled"), (2, "turn done")):
        trace_id, span_id = trace_of(session, turn)
        spans = {span.name: span for span in found[trace_id]}
        root = spans.pop(ending)
        assert root.context.span_id == span_id and root.parent is None
        assert {"listen", "transcribe", "think", "speak", "llm lease", "tts lease"} <= set(spans)
        assert ("stop:tts" in spans) is (turn == 1)
        assert all(span.parent.span_id == span_id for span in spans.values())
        assert [event.name for event in root.events][0] == "onset"
        for name in ("listen", "think", "speak"):
            assert root.start_time <= spans[name].start_time <= spans[name].end_time <= root.end_time
        lease = spans["llm lease"]
        assert abs(lease.start_time - spans["think"].start_time) < 1e9
        assert lease.attributes["bargein.engine"] == "scripted" and lease.attributes["bargein.fence"] == 1
    assert [span.name for span in found[trace_of(session, 0)[0]]] == ["stt lease"]
    everything = " ".join(span.to_json() for spans in found.values() for span in spans)
    assert "hello there" not in everything and "Five" not in everything


def test_off_it_does_nothing(exporter):
    """Where it was not asked for, a settled turn and an ended lease leave no span."""
    record = TurnRecord(1, 0, "done", "", 0, '[["turn",1,""],["done",2,""]]')
    tracing.use(None)
    tracing.turn("s0-0000beef", record)
    tracing.lease("s0-0000beef", 1, "llm", 0.1, {})
    assert exporter.get_finished_spans() == ()
    tracing.use(SimpleSpanProcessor(exporter))
    tracing.turn("s0-0000beef", record)
    assert len(exporter.get_finished_spans()) == 1


def test_where_it_is_not_installed_that_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(tracing.NoTracing, match=r"pip install 'bargein\[tracing\]'"):
        tracing.start("bargein-test")


def test_a_failed_turn_tells_who_failed_and_not_what_was_said(exporter):
    steps = json.dumps([["turn", 5.0, ""], ["failed", 9.0, "llm: secret words"]])
    tracing.turn("s0-0000beef", TurnRecord(3, 0, "failed", "llm: secret words", 0, steps))
    (span,) = exporter.get_finished_spans()
    assert span.attributes["bargein.reason"] == "llm" and "secret" not in span.to_json()
    assert span.end_time - span.start_time == pytest.approx(4e6, abs=1e3)
