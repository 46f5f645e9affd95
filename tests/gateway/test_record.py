"""What is kept of each turn, and what Prometheus is told of it."""

import asyncio
import json

import httpx
import numpy as np
import pytest

from bus.events import Stopped, TurnRecord
from bus.keys import session_key
from gateway.client import Call
from gateway.metrics import Metrics
from gateway.record import Recorder
from tests.engines import ScriptedTts
from tests.gateway.realtime_client import voice
from tests.stack import running_stack


@pytest.fixture
def records():
    return []


@pytest.fixture
def recorder(records):
    return Recorder(records.append)


def names(record):
    return [name for name, _, _ in json.loads(record.steps)]


def test_a_record_begins_with_the_utterance_that_led_to_the_turn(recorder, records):
    """Onset, end and text of the caller's question stand in the answer's record, and in no other."""
    recorder.spoke(1, ("onset", 10.0, ""))
    recorder.spoke(1, ("end_of_speech", 900.0, ""))
    recorder.spoke(2, ("onset", 2000.0, ""))
    recorder.opened(1, 1)
    recorder.step(1, ("first_out", 1400.04, ""))
    recorder.closed(1, "done", "", 800)
    recorder.settled(1)
    recorder.opened(2, 2)
    recorder.settled(2)
    assert [names(record) for record in records] == [["onset", "end_of_speech", "first_out"], ["onset"]]
    assert json.loads(records[0].steps)[-1] == ["first_out", 1400.0, ""]
    assert (records[0].outcome, records[0].heard, records[0].unanswered) == ("done", 800, "")


def test_a_turn_has_one_record(recorder, records):
    """What comes after a turn is settled changes nothing; what is not settled at the end is written as it stands."""
    recorder.opened(1, 0)
    recorder.closed(1, "cancelled", "turn_detected", 300)
    recorder.stopped(1, Stopped(1, "tts", "stopped", samples=480))
    recorder.stopped(1, Stopped(1, "llm", "stopped", tokens=7))
    recorder.settled(1, ["playback"])
    recorder.settled(1)
    recorder.step(1, ("done", 1.0, ""))
    recorder.opened(2, 0)
    recorder.flush()
    recorder.flush()
    assert [(r.turn, r.outcome, r.unanswered, r.samples, r.tokens) for r in records] == [
        (1, "cancelled", "playback", 480, 7),
        (2, "", "", 0, 0),
    ]


def test_a_question_that_was_nothing_leaves_no_trace(recorder, records):
    recorder.spoke(1, ("onset", 10.0, ""))
    recorder.forget(1)
    recorder.opened(1, 1)
    recorder.settled(1)
    assert names(records[0]) == []


def counted(metrics):
    """name{labels} -> value of every sample."""
    lines = [line for line in metrics.text().decode().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_metrics_are_computed_from_records():
    """A backchannel, an interruption that was taken back, and one that was not and that the model did not answer."""
    metrics = Metrics(lambda: 3)
    steps = [
        ["onset", 0, ""], ["end_of_speech", 1000, ""], ["turn", 1010, ""], ["first_out", 1700, ""],
        ["silent", 1800, "come back"], ["onset", 3000, ""], ["held", 3001, ""], ["silent", 3012, ""],
        ["backchannel", 3390, ""], ["resumed", 3400, ""],
        ["onset", 4000, ""], ["held", 4001, ""], ["resumed", 4200, ""],
        ["onset", 5000, ""], ["held", 5001, ""], ["silent", 5009, ""], ["silent", 5020, ""], ["cancelled", 5450, ""],
        ["stopped:playback", 5450, "stopped"], ["stopped:tts", 5458, "stopped, 2 ms"], ["late:llm", 7450, ""],
    ]  # fmt: skip
    metrics.record(TurnRecord(1, 1, "cancelled", "turn_detected", 3300, json.dumps(steps), "llm", 48_000, 0))
    found = counted(metrics)
    assert found["bargein_sessions"] == 3
    assert found['bargein_turns_total{outcome="cancelled"}'] == 1
    holds = [
        found[f'bargein_holds_total{{outcome="{outcome}"}}'] for outcome in ("resumed", "backchannel", "cancelled")
    ]
    assert holds == [1, 1, 1]
    assert found["bargein_silence_seconds_count"] == 2
    assert found["bargein_silence_seconds_sum"] == pytest.approx(0.012 + 0.009)
    assert found['bargein_cancel_unanswered_total{stage="llm"}'] == 1
    assert found['bargein_cancel_unanswered_total{stage="tts"}'] == 0
    assert found["bargein_decision_seconds_sum"] == pytest.approx(0.45)
    assert found["bargein_response_seconds_sum"] == pytest.approx(0.7)
    assert found['bargein_cancel_stopped_seconds_sum{stage="tts"}'] == pytest.approx(0.008)
    assert found["bargein_unheard_samples_total"] == 48_000


class Deaf(ScriptedTts):
    """A voice that does not let go of its first turn until it is told to."""

    def __init__(self):
        super().__init__()
        self.let_go = asyncio.Event()

    async def speak(self, text, voice, language, cancel):
        first = not self.spoken
        async for chunk in super().speak(text, voice, language, cancel):
            yield chunk
        while first and not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                continue


async def test_a_stage_that_does_not_answer_is_named_and_the_call_goes_on():
    """The voice stays silent about its cancel: record and metric name it; the next turn is spoken meanwhile."""
    tts = Deaf()
    async with running_stack(tts=tts, end_of_turn_ms=300) as stack:
        try:
            await converse(stack)
        finally:
            tts.let_go.set()


async def converse(stack):
    async with Call(f"{stack.ws}&extensions=bargein") as call:
        question = np.concatenate([np.frombuffer(voice(0.6), "<i2"), np.zeros(12_000, np.int16)])
        await call.say(question)
        await call.reply_started()
        await call.say(question)
        assert (await call.reply()).status == "cancelled"
        following = await call.reply()
        assert following.status == "completed" and following.heard_ms > 500
        records = stack.bus.follow(session_key(call.session_id, "records"))
        async with asyncio.timeout(10):
            found = {}
            while len(found) < 2:
                record = (await anext(records)).event
                found[record.turn] = record
        assert found[1].outcome == "cancelled" and found[1].unanswered == "tts"
        assert found[2].outcome == "done" and found[2].unanswered == ""
        assert {"onset", "held", "cancelled", "stopped:playback", "stopped:llm", "late:tts"} <= set(names(found[1]))
        assert names(found[2])[0] == "onset"
        assert {"end_of_speech", "final_text", "turn", "first_out", "done"} <= set(names(found[2]))
        async with httpx.AsyncClient(base_url=stack.http) as http:
            scraped = (await http.get("/metrics")).text
        assert 'bargein_cancel_unanswered_total{stage="tts"} 1.0' in scraped
        assert "bargein_sessions 1.0" in scraped
