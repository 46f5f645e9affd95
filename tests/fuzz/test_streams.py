"""A session whose streams somebody else writes into: gateway and workers live, and the next call is served."""

import asyncio
import dataclasses
import random

import pytest
from redis.exceptions import ResponseError

from bus.events import CancelRequested, EndRequested, HungUp
from bus.keys import CANCEL_CHANNEL, SESSION_STREAMS, session_key, work_key, worker_key, workers_index
from bus.wire import STREAMS, TYPES, encode
from tests.engines import ScriptedLlm
from tests.fuzz.garbage import EXAMPLES, JUNK
from tests.gateway.realtime_client import client
from tests.stack import running_stack

SEEDS = range(max(3, EXAMPLES // 100))
ENTRIES = 300
"""Hostile entries of each seed."""
WORDS = [
    b"", b"0", b"1", b"2", b"-1", b"99999999999", b"9" * 30, b"nan", b"x", b"\xff", b"{}", b"[[", b"done", b"failed",
    b"s9-abcd", b"s0-ABCD", b"0-0", b"1-x", b"a" * 2000,
    *(str(each).encode("utf-8", "replace") for each in JUNK),
]  # fmt: skip
NUMBERS = [b"0", b"1", b"2", b"3", b"-1", b"16000", b"99999999"]
"""What a number is in most fields, so that many entries can be read."""
ANNOUNCED = [*WORDS, b'{"session": "x", "turn": 1e999}', b"[" * 100_000]


def entry(rng, session):
    """The fields of an entry of some type, most of them hostile."""
    kind = rng.choice(list(TYPES.values()))
    names = [field.name for field in dataclasses.fields(kind) if field.name != "at"]
    fields = {b"type": kind.type.encode()}
    for name in names:
        if rng.random() < 0.98:
            fields[name.encode()] = rng.choice(NUMBERS) if rng.random() < 0.7 else rng.choice(WORDS)
    if b"session" in fields and rng.random() < 0.5:
        fields[b"session"] = session.encode()
    if b"pcm" in fields:
        fields[b"pcm"] = rng.randbytes(rng.choice((0, 2, 7, 640)))
    for name, often in ((b"fence", 0.3), (b"by", 0.3), (b"seq", 0.3)):
        if rng.random() < often:
            fields[name] = rng.choice(WORDS)
    return fields


async def write(bus, rng, session):
    """One hostile write: an entry of a session's stream or a work stream, an announcement, a worker that is none."""
    kind, commands = rng.random(), bus.commands
    try:
        if kind < 0.7:
            await commands.xadd(session_key(session, rng.choice(SESSION_STREAMS)), entry(rng, session))
        elif kind < 0.85:
            await commands.xadd(work_key(0, rng.choice(("stt", "llm", "tts"))), entry(rng, session))
        elif kind < 0.95:
            await commands.publish(CANCEL_CHANNEL, rng.choice(ANNOUNCED))
        else:
            stage = rng.choice(("stt", "llm", "tts"))
            await commands.zadd(workers_index(stage), {"nobody": bus.now() + 500})
            await commands.hset(worker_key(stage, "nobody"), mapping={"capacity": rng.choice(WORDS), "load": "1"})
            await commands.pexpire(worker_key(stage, "nobody"), 500)
    except ResponseError:
        pass  # the server itself would not have it


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_call_whose_streams_are_written_into(seed, caplog):
    """Whatever stands on them, no loop of the gateway's or of a worker's ends, and another call is answered."""
    rng = random.Random(seed)
    async with running_stack(llm=ScriptedLlm(answer="One two three four. " * 20)) as stack:
        async with client(stack.ws) as call:
            await call.get("session.created")
            (session,) = stack.sessions
            await call.speak(seconds=0.8)
            await call.get("response.created")
            for _ in range(ENTRIES):
                await write(stack.bus, rng, session)
            await asyncio.gather(*(stack.bus.last_id(session_key(session, name)) for name in SESSION_STREAMS))
        async with asyncio.timeout(30):
            while await stack.bus.commands.exists(*(worker_key(stage, "nobody") for stage in ("stt", "llm", "tts"))):
                await asyncio.sleep(0.01)
        async with client(stack.ws) as call:
            await call.speak(seconds=0.8)
            assert (await call.get("response.output_audio.delta"))["delta"]
    ended = [record.getMessage() for record in caplog.records if "never retrieved" in record.getMessage()]
    assert ended == []


async def test_an_event_of_every_type_is_read_by_every_reader():
    """Any event on any stream: what does not belong there changes nothing, an end or a cancel neither, and the call is
    answered."""
    async with running_stack() as stack, client(stack.ws) as call:
        await call.get("session.created")
        (session,) = stack.sessions
        ending = (HungUp, EndRequested, CancelRequested)
        for kind in TYPES.values():
            values = {"int": 1, "float": 0.5, "bool": True, "str": "x", "bytes": b"\0\0"}
            fields = {field.name: values[str(field.type)] for field in dataclasses.fields(kind) if field.name != "at"}
            made = kind(**({**fields, "rate": 16_000} if "rate" in fields else fields))
            for name in SESSION_STREAMS:
                if kind not in ending or kind not in STREAMS[name]:
                    await stack.bus.commands.xadd(session_key(session, name), encode(made, 1))
        await call.speak(seconds=0.8)
        assert (await call.get("response.done"))["response"]["status"] == "completed"
