"""What ``GET /metrics`` shows of every process, and that the dashboard asks for nothing else."""

import asyncio
import json
import re
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bus.leases import Work
from bus.offers import SessionOffer, TurnOffer
from bus.server import free_port
from bus.streams import Bus, connector
from bus.tallies import COUNTS, queue, tallies
from gateway.client import Call, Unreachable
from gateway.scrape import scrape
from tests.bus.fake_server import fake_connector
from tests.engines import ScriptedTts
from tests.gateway.realtime_client import voice
from tests.stack import running_stack

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "bargein.json"
PARTS = re.compile(r"_(bucket|sum|count)$")


def samples(text):
    """name -> [(labels, value), ...]"""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


async def scraped(stack):
    async with httpx.AsyncClient(base_url=stack.http) as http:
        return samples((await http.get("/metrics")).text)


@pytest.fixture
async def after_a_call():
    """What is shown after a call with one interruption, once the workers have told."""
    async with running_stack(end_of_turn_ms=300) as stack:
        question = np.concatenate([np.frombuffer(voice(0.6), "<i2"), np.zeros(12_000, np.int16)])
        async with Call(f"{stack.ws}&extensions=bargein") as call:
            await call.say(question)
            await call.reply_started()
            await call.say(question)
            await call.reply()
            await call.reply()
        async with asyncio.timeout(20):
            while True:
                found = await scraped(stack)
                completed = {labels["stage"]: n for labels, n in found["bargein_worker_completed_total"]}
                if completed == {"stt": 1, "llm": 2, "tts": 2}:
                    break
                await asyncio.sleep(0.1)
        yield found


async def test_every_process_is_seen_at_one_target(after_a_call):
    """Calls, turns and their spans from the gateway; claims, cancels and time from each worker; empty queues."""
    found = after_a_call
    assert found["bargein_redis_up"] == [({}, 1)]
    assert found["bargein_calls_total"] == [({}, 1)]
    turns = {labels["outcome"]: n for labels, n in found["bargein_turns_total"]}
    assert (turns["done"], turns["cancelled"]) == (1, 1)
    spans = {labels["span"]: n for labels, n in found["bargein_span_seconds_count"]}
    assert spans == {"transcribe": 2, "think": 2, "compose": 2, "voice": 2, "deliver": 2}
    claims = {labels["stage"]: (labels["engine"], n) for labels, n in found["bargein_worker_claims_total"]}
    assert claims == {"stt": ("scripted", 1), "llm": ("scripted", 2), "tts": ("scripted", 2)}
    busy = {labels["stage"]: n for labels, n in found["bargein_worker_busy_seconds_total"]}
    assert busy["stt"] > 1
    assert {labels["stage"]: n for labels, n in found["bargein_queue_waiting"]} == {"stt": 0, "llm": 0, "tts": 0}
    for name in COUNTS:
        assert len(found[f"bargein_worker_{name}_total"]) == 3


async def test_the_dashboard_asks_for_what_is_there(after_a_call):
    """Every name in every query is exposed, with the labels it is grouped by; no two panels lie over each other."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells
        for target in panel["targets"]:
            names = re.findall(r"bargein_[a-z_]+", target["expr"])
            assert names, target["expr"]
            for name in names:
                assert name in after_a_call, f"{panel['title']}: {name} is not exposed"
            labels = {label for name in names for found, _ in after_a_call[name] for label in found}
            wanted = re.findall(r"by \(([^)]*)\)", target["expr"]) + re.findall(r"{{(\w+)}}", target["legendFormat"])
            asked = {label.strip() for group in wanted for label in group.split(",")}
            assert asked <= labels, f"{panel['title']}: {asked - labels}"
            assert target["expr"].count("(") == target["expr"].count(")")


async def test_a_queue_that_nobody_serves_grows_old():
    """Offers without a worker are counted with the age of the oldest; a claimed one is in work."""
    bus = Bus(fake_connector())
    assert (await queue(bus, "llm")).waiting == 0
    work, worker = Work(bus, "llm"), Work(bus, "llm", "w1")
    await work.offer(TurnOffer("s0-0000beef", 1, "0-0"))
    await work.offer(TurnOffer("s0-0000beef", 2, "0-0"))
    assert await worker.claim(0, block=0.1)
    await asyncio.sleep(0.05)
    found = await queue(bus, "llm")
    assert (found.waiting, found.in_work) == (1, 1) and 0.04 < found.oldest < 5
    await Work(bus, "stt").offer(SessionOffer("s0-0000beef"))
    shown = samples((await scrape(bus)).decode())
    assert ({"stage": "stt"}, 1) in shown["bargein_queue_waiting"]
    assert await tallies(bus, "llm") == []
    await worker.close()
    await bus.close()


async def test_without_redis_the_scrape_still_answers():
    bus = Bus(connector(f"redis://127.0.0.1:{free_port()}/0"))
    assert samples((await scrape(bus)).decode())["bargein_redis_up"] == [({}, 0)]
    await bus.close()


class Broken(ScriptedTts):
    async def speak(self, text, voice, language, cancel):
        raise RuntimeError("the model is broken")
        yield


async def test_what_fails_is_counted_on_both_sides():
    """A voice that fails: an error of the worker's, a failed turn of the gateway's; a refused caller is counted too."""
    async with (
        running_stack(tts=Broken(), greeting="Hello.", max_sessions=1) as stack,
        Call(f"{stack.ws}&extensions=bargein") as call,
    ):
        assert (await call.reply()).status == "failed"
        with pytest.raises(Unreachable, match="every line is busy"):
            await Call(f"{stack.ws}&extensions=bargein").__aenter__()
        found, errors = {}, 0
        async with asyncio.timeout(20):
            while not errors:
                found = await scraped(stack)
                errors = sum(n for _, n in found["bargein_worker_errors_total"])
                await asyncio.sleep(0.1)
    assert {labels["stage"] for labels, n in found["bargein_turn_failures_total"] if n} == {"tts"}
    assert {labels["code"] for labels, n in found["bargein_refused_total"] if n} == {"unavailable"}
