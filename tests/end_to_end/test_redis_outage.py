"""Calls while Redis restarts, freezes, forgets, or fails over: a real server, the whole product in one process."""

import asyncio

import pytest

from bus.connect import connector
from bus.events import MicAudio, ReplyEnd
from bus.history import read
from bus.keys import new_session, session_key
from bus.leases import Work
from bus.offers import TurnOffer
from bus.streams import Bus
from tests.engines import ScriptedLlm, ScriptedStt, ScriptedTts
from tests.gateway.realtime_client import client, voice
from tests.servers import Server, replica, sentinel, servers, wire
from tests.stack import running_stack

pytestmark = pytest.mark.real

PERSISTENT = ("appendonly yes", "appendfsync always")
ANSWER = " ".join(f"Number {n} of the story." for n in range(1, 9))


@pytest.fixture
def made():
    with servers() as made:
        yield made


def stack(url, **options):
    options.setdefault("llm", ScriptedLlm(ANSWER, pace=0.05))
    options.setdefault("tts", ScriptedTts(pace=0.03))
    options.setdefault("stt", ScriptedStt([f"question {n}" for n in range(1, 9)]))
    return running_stack(make_client=connector(url) if isinstance(url, str) else url, **options)


async def microphone(running):
    """The audio of the only session: (first sample, samples) of each entry, those that stand twice once."""
    (session,) = running.sessions
    entries = [entry.event for entry in await running.bus.replay(session_key(session, "mic"))]
    return [(event.offset, len(event.pcm) // 2) for event in entries if isinstance(event, MicAudio)]


def contiguous(audio):
    return all(start + samples == following for (start, samples), (following, _) in zip(audio, audio[1:], strict=False))


async def said(running):
    (session,) = running.sessions
    return [(message.role, message.text) for message in await read(running.bus, session)]


def check_whole(call, number):
    """The ``number``-th reply came whole, each sentence once, and each question was asked once."""
    done = call.all("response.done")
    assert [each["response"]["status"] for each in done] == ["completed"] * number, done[-1]["response"]
    assert done[-1]["response"]["output"][0]["content"][0]["transcript"] == ANSWER
    texts = [e["transcript"] for e in call.all("conversation.item.input_audio_transcription.completed")]
    assert texts == [f"question {n}" for n in range(1, number + 1)]
    assert not call.all("error")


async def test_work_that_ends_while_redis_is_away_is_done_once_what_it_wrote_stands(made, tmp_path):
    """The claim stays its worker's until then: nobody takes over what only its end is missing of."""
    server = Server(tmp_path / "redis", *PERSISTENT)
    made.append(server)
    bus = Bus(connector(server.url))
    session = new_session(1)
    work = Work(bus, "llm", "w1")
    await work.offer(TurnOffer(session, 1, "0-0"))
    lease = await work.claim(0)
    server.kill()
    end = bus.post_guarded(session, "reply", ReplyEnd(1, 1, "done", 0), stage="llm", turn=1, fence=lease.fence)
    completing = asyncio.create_task(work.complete(lease))
    async with asyncio.timeout(10):
        while not bus.away(0):
            await asyncio.sleep(0.01)
    assert not completing.done()
    await asyncio.to_thread(server.start)
    async with asyncio.timeout(20):
        assert await completing
    assert end.done() and [type(e.event) for e in await bus.replay(session_key(session, "reply"))] == [ReplyEnd]
    assert await bus.commands.xlen(lease.key) == 0
    await work.close()
    await bus.close()


@pytest.mark.parametrize("lines", [PERSISTENT, ()], ids=["persistent", "empty"])
async def test_a_restart_between_turns(made, tmp_path, lines):
    """What the caller says while Redis is away is answered when it is back, once; the conversation is remembered by a
    server that forgot it."""
    server = Server(tmp_path / "redis", *lines)
    made.append(server)
    async with stack(server.url, llm=ScriptedLlm(ANSWER)) as running, client(running.ws) as call:
        await call.speak()
        await call.get("response.done", limit=40)
        server.kill()
        await call.speak()
        await asyncio.to_thread(server.start)
        await call.get("response.done", 2, limit=60)
        check_whole(call, 2)
        users = ["question 1", "question 2"]
        assert await said(running) == [pair for text in users for pair in (("user", text), ("assistant", ANSWER))]
        assert running.llm.prompts[-1][1:] == [("user", users[0]), ("assistant", ANSWER), ("user", users[1])]
        assert contiguous(await microphone(running))
        await call.speak()
        await call.get("response.done", 3, limit=40)
        check_whole(call, 3)


@pytest.mark.parametrize("lines", [PERSISTENT, ()], ids=["persistent", "empty"])
async def test_a_restart_in_mid_reply(made, tmp_path, lines):
    """Redis is killed while the model writes and the voice speaks: the reply comes whole, and no word twice."""
    server = Server(tmp_path / "redis", *lines)
    made.append(server)
    async with stack(server.url) as running, client(running.ws) as call:
        await call.speak()
        await call.get("response.output_audio.delta", 20, limit=20)
        server.kill()
        await asyncio.sleep(1)
        await asyncio.to_thread(server.start)
        await call.get("response.done", limit=60)
        check_whole(call, 1)
        await call.speak()
        await call.get("response.done", 2, limit=60)
        check_whole(call, 2)
        assert contiguous(await microphone(running))


async def test_ten_seconds_of_freeze(made, tmp_path):
    """A server that stops answering and goes on: nothing is lost or doubled, and no healthy worker loses its work."""
    server = Server(tmp_path / "redis")
    made.append(server)
    async with stack(server.url) as running, client(running.ws) as call:
        await call.speak()
        await call.get("response.output_audio.delta", 20, limit=20)
        server.freeze()
        await call.audio(bytes(48_000 * 10), pace=0.0199)
        server.thaw()
        await call.get("response.done", limit=60)
        check_whole(call, 1)
        await call.speak()
        await call.get("response.done", 2, limit=60)
        check_whole(call, 2)
        assert contiguous(await microphone(running))


async def test_a_replica_that_lost_the_last_second(made, tmp_path):
    """Redis fails over to a replica that stopped following a second ago, in mid-reply: what it lacks is said again."""
    master = Server(tmp_path / "master")
    made.append(master)
    heir = replica(tmp_path / "heir", master)
    made.append(heir)
    async with wire(master.port) as line:
        url = f"redis://127.0.0.1:{line.port}/0"
        async with stack(url) as running, client(running.ws) as call:
            await call.speak()
            await call.get("response.output_audio.delta", 10, limit=20)
            heir.ask("REPLICAOF", "NO", "ONE")
            await asyncio.sleep(1)
            line.target = heir.port
            line.cut()
            master.kill()
            await call.get("response.done", limit=60)
            check_whole(call, 1)
            assert contiguous(await microphone(running))
            await call.speak()
            await call.get("response.done", 2, limit=60)
            check_whole(call, 2)
            assert contiguous(await microphone(running))


async def test_a_cancelled_turn_stays_cancelled(made, tmp_path):
    """The watermark was raised in the second that the new master lacks: it is raised there again."""
    master = Server(tmp_path / "master")
    made.append(master)
    heir = replica(tmp_path / "heir", master)
    made.append(heir)
    async with (
        wire(master.port) as line,
        stack(f"redis://127.0.0.1:{line.port}/0") as running,
        client(running.ws) as call,
    ):
        await call.speak()
        await call.get("response.output_audio.delta", 20, limit=20)
        (session,) = running.sessions
        heir.ask("REPLICAOF", "NO", "ONE")
        await call.send("response.cancel")
        await call.get("response.done", limit=10)
        async with asyncio.timeout(5):
            while master.ask("GET", session_key(session, "cancelled")) != b"1":
                await asyncio.sleep(0.01)
        assert heir.ask("GET", session_key(session, "cancelled")) is None
        line.target = heir.port
        line.cut()
        master.kill()
        async with asyncio.timeout(20):
            while heir.ask("GET", session_key(session, "cancelled")) != b"1":
                await asyncio.sleep(0.05)
        await call.speak()
        done = await call.get("response.done", 2, limit=60)
        assert done["response"]["status"] == "completed"


async def test_beyond_the_bound_the_caller_is_told(made, tmp_path):
    """Audio older than MIC_BUFFER_S is let go of; the client learns how much, and the session lives."""
    server = Server(tmp_path / "redis", *PERSISTENT)
    made.append(server)
    async with stack(server.url, mic_buffer_s=1.0) as running, client(running.ws) as call:
        await call.get("session.created")
        await call.audio(bytes(48_000))
        async with asyncio.timeout(5):
            while sum(samples for _, samples in await microphone(running)) < 12_000:
                await asyncio.sleep(0.01)
        server.kill()
        await call.audio(bytes(48_000 * 4))
        await asyncio.to_thread(server.start)
        await call.audio(bytes(48_000), pace=0.02)
        async with asyncio.timeout(30):
            while not call.all("error"):
                await call.audio(bytes(9600), pace=0.02)
        (error,) = call.all("error")
        assert (error["error"]["type"], error["error"]["code"]) == ("server_error", "audio_lost")
        lost = int(error["error"]["message"].split()[0])
        assert 2000 <= lost <= 6000
        audio = await microphone(running)
        gaps = [b - a - n for (a, n), (b, _) in zip(audio, audio[1:], strict=False) if a + n != b]
        assert len(gaps) == 1 and gaps[0] <= lost * 16 + 16  # what was on its way counts as lost, though it may stand
        await call.audio(voice(0.8) + bytes(48_000), pace=0.019)
        await call.get("response.done", limit=60)


async def test_sentinel_fails_over_in_mid_call(made, tmp_path):
    """kill -9 of the master that Sentinel watches: the call goes on with the new one, and nothing is doubled."""
    master = Server(tmp_path / "master")
    made.append(master)
    made.append(replica(tmp_path / "heir", master))
    watcher = sentinel(tmp_path / "sentinel", master, "voices")
    made.append(watcher)
    url = f"redis+sentinel://127.0.0.1:{watcher.port}/voices/0"
    async with stack(url) as running, client(running.ws) as call:
        await call.speak()
        await call.get("response.output_audio.delta", 20, limit=20)
        master.kill()
        await call.get("response.done", limit=60)
        check_whole(call, 1)
        await call.speak()
        await call.get("response.done", 2, limit=60)
        check_whole(call, 2)
        assert contiguous(await microphone(running))
