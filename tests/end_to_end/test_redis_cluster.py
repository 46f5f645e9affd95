"""Calls on a Redis Cluster: three real nodes, sessions on several shards, a node that dies."""

import asyncio
from contextlib import AsyncExitStack

import pytest
import soundfile

from bus.cancel import CancelGuard, listen, raise_watermark
from bus.connect import connector
from bus.events import MicAudio
from bus.keys import live_key, new_session, session_key, shard_of
from bus.settings import load
from bus.streams import Bus
from tests.end_to_end.test_redis_outage import check_whole, contiguous, stack
from tests.gateway.realtime_client import client
from tests.servers import cluster, servers
from workers.jobs.queue import JobSettings
from workers.jobs.recording import record

pytestmark = pytest.mark.real

SHARDS = 16


@pytest.fixture
def nodes(tmp_path):
    with servers() as made:
        cluster(made, tmp_path)
        yield made


def address(nodes):
    return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in nodes[:2])}"


async def holders(bus, sessions):
    """The ports of the nodes on which sessions' keys are."""
    return {bus.commands.get_node_from_key(live_key(shard_of(session))).port for session in sessions}


async def test_calls_on_several_nodes(nodes):
    """The same code on a cluster: calls on at least two nodes at a time, each answered whole, and a barge-in."""
    async with stack(address(nodes), shards=SHARDS) as running, AsyncExitStack() as open_calls:
        calls = []
        while len(calls) < 2 or len(await holders(running.bus, running.sessions)) < 2:
            call = await open_calls.enter_async_context(client(running.ws))
            await call.get("session.created")
            calls.append(call)
            assert len(calls) < 8
        running.stt.texts = ["question 1"]
        await asyncio.gather(*(call.speak() for call in calls))
        await asyncio.gather(*(call.get("response.done", limit=40) for call in calls))
        for call in calls:
            check_whole(call, 1)
        await asyncio.gather(*(call.speak() for call in calls))
        await asyncio.gather(*(call.get("response.created", 2) for call in calls))
        await asyncio.gather(*(call.get("response.output_audio.delta", 10) for call in calls))
        await asyncio.gather(*(call.send("response.cancel") for call in calls))
        for call in calls:
            done = await call.get("response.done", 2)
            assert done["response"]["status"] == "cancelled"
        for session in running.sessions:
            async with asyncio.timeout(10):
                while await running.bus.commands.get(session_key(session, "cancelled")) != b"2":
                    await asyncio.sleep(0.02)


async def test_a_cancel_is_heard_from_every_node(nodes):
    """An announcement reaches a listener on one node from the scripts of all shards."""
    make = connector(address(nodes))
    gateway, worker, guard = Bus(make, shards=SHARDS), Bus(make, shards=SHARDS), CancelGuard()
    sessions = [f"s{shard}-{new_session(1)[3:]}" for shard in range(SHARDS)]
    tokens = [guard.token(session, 1) for session in sessions]
    listening = asyncio.create_task(listen(worker, guard))
    try:
        first = guard.token(sessions[0], 9)
        async with asyncio.timeout(10):
            turn = 8
            while not first.cancelled:
                turn += 1
                await raise_watermark(gateway, sessions[0], turn, "are you there?")
                await asyncio.sleep(0.01)
            await asyncio.gather(*(raise_watermark(gateway, session, 1, "test") for session in sessions))
            await asyncio.gather(*(token.wait() for token in tokens))
        assert len(await holders(gateway, sessions)) == 3
    finally:
        listening.cancel()
        await asyncio.gather(gateway.close(), worker.close())


async def test_a_recording_from_a_cluster(nodes, tmp_path, monkeypatch):
    """The job reads a call from the cluster, and its own queue is on a server that is none."""
    make, session = connector(address(nodes)), new_session(SHARDS)
    bus = Bus(make, shards=SHARDS)
    try:
        await bus.publish(session_key(session, "mic"), MicAudio(0, b"\1\0" * 1600))
    finally:
        await bus.close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", address(nodes))
    with pytest.raises(SystemExit):
        load(JobSettings)
    monkeypatch.setenv("JOBS_REDIS_URL", "redis://127.0.0.1:1/0")
    written = await asyncio.to_thread(record, session)
    assert soundfile.info(written).frames == 1600


async def test_a_node_dies_in_mid_call(tmp_path):
    """kill -9 of the master that holds a call: its replica takes over, and the call goes on."""
    with servers() as made:
        cluster(made, tmp_path, replicas=1)
        async with stack(address(made), shards=SHARDS) as running, client(running.ws) as call:
            await call.speak()
            await call.get("response.output_audio.delta", 20, limit=20)
            (port,) = await holders(running.bus, running.sessions)
            next(node for node in made if node.port == port).kill()
            await call.get("response.done", limit=90)
            check_whole(call, 1)
            await call.speak()
            await call.get("response.done", 2, limit=60)
            check_whole(call, 2)
            (session,) = running.sessions
            entries = await running.bus.replay(session_key(session, "mic"))
            audio = [(e.event.offset, len(e.event.pcm) // 2) for e in entries if e.event.type == "audio"]
            assert contiguous(audio)
