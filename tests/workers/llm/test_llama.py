"""The slots of a llama-server. What is said of both servers holds the stand-in to the real one (``-m slow``)."""

import asyncio
import json

import httpx
import pytest
import pytest_asyncio

from bus.cancel import CancelToken
from tests.workers.llm import llama_server
from tests.workers.llm.llama_stand_in import LlamaServer
from workers.llm.engine import ContextTooLong, Message
from workers.llm.engines import llama

SHORT = [Message("user", "Tell me a story, please.")]


def long(words):
    """A prompt that takes its time to be read."""
    return [Message("user", " ".join(f"babe {n}" for n in range(words // 2)))]


class Turn:
    """One turn asked of an engine, and what it has said so far."""

    def __init__(self, engine, messages=SHORT, session="s0-abcdef", number=1):
        self.engine, self.token = engine, CancelToken(session, number)
        self.said = []
        self._task = asyncio.create_task(self._read(messages))

    async def _read(self, messages):
        async for delta in self.engine.reply(messages, "en-US", self.token):
            self.said.append(delta)

    async def words(self, count):
        """Wait for so many deltas."""
        async with asyncio.timeout(60):
            while len(self.said) < count:
                assert not self._task.done(), self._task
                await asyncio.sleep(0.001)

    async def end(self):
        await self._task

    async def stop(self):
        """Close the stream, and what the engine saw then."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        return await self.engine.confirm_stopped(self.token)


async def slots(url):
    async with httpx.AsyncClient() as client:
        return (await client.get(f"{url}/slots")).json()


async def until(url, condition, limit=10.0):
    """The slots once ``condition`` of them holds."""
    async with asyncio.timeout(limit):
        while not condition(seen := await slots(url)):
            await asyncio.sleep(0.003)
        return seen


@pytest_asyncio.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.slow)])
async def server(request):
    """The address of a server with two slots, about 20 ms a token and 128 tokens of the prompt at a time."""
    if request.param == "real":
        with llama_server.running() as url:
            yield url
    else:
        async with LlamaServer(slots=2, token_s=0.02, batch=128, batch_s=0.3, context=16384) as stand_in:
            yield stand_in.url


# -- both servers -----------------------------------------------------------------------------------------------


async def test_a_slot_keeps_the_number_of_its_last_request(server, engine_for):
    """Never used: no task. Used: the task stays when the slot is idle again, which is how a new one is told."""
    assert all(slot["is_processing"] is False and "id_task" not in slot for slot in await slots(server))
    turn = Turn(await engine_for(server))
    await turn.words(2)
    (busy,) = [slot for slot in await slots(server) if slot["is_processing"]]
    await turn.stop()
    after = (await until(server, lambda seen: not seen[busy["id"]]["is_processing"]))[busy["id"]]
    assert after["id_task"] == busy["id_task"] and after["n_prompt_tokens"] > 0


async def test_a_generating_slot_is_seen_to_stop(server, engine_for):
    """After the first word: named, with its time, well within the limit; and it is true."""
    engine = await engine_for(server)
    for number in range(1, 6):
        turn = Turn(engine, number=number)
        await turn.words(3)
        seen = await turn.stop()
        assert seen.idle and seen.detail.startswith("slot ") and " idle after " in seen.detail
        assert not any(slot["is_processing"] for slot in await slots(server))


async def test_a_slot_that_reads_the_prompt_is_seen_to_stop(server, engine_for):
    """Before the first word, thanks to the progress that is sent with every batch."""
    turn = Turn(await engine_for(server, llm_first_token_s=60), long(1600))
    await until(server, lambda seen: any(slot["is_processing"] for slot in seen))
    await asyncio.sleep(0.1)
    seen = await turn.stop()
    assert turn.said == [] and seen.idle, seen
    assert not any(slot["is_processing"] for slot in await slots(server))


async def test_the_next_turn_is_sent_at_once_and_finds_the_cache(server, engine_for):
    """Pinned to the slot that is still being released: it waits for that one, and reads little of its prompt anew."""
    engine = await engine_for(server)
    first = Turn(engine, long(200))
    await first.words(2)
    first._task.cancel()
    await asyncio.gather(first._task, return_exceptions=True)
    second = Turn(engine, [*long(200), Message("assistant", first.said[0]), Message("user", "Go on.")], number=2)
    watching = asyncio.create_task(engine.confirm_stopped(first.token))
    await second.words(1)
    (busy,) = [slot for slot in await slots(server) if slot["is_processing"]]
    assert busy["n_prompt_tokens_cache"] > 100
    assert (await watching).idle
    assert (await second.stop()).idle


async def completion(url, **fields):
    """(lines of the stream, last timings) of one raw request."""
    body = {"messages": [{"role": "user", "content": "Hello there"}], "stream": True, "max_tokens": 5, **fields}
    async with (
        httpx.AsyncClient(timeout=30) as client,
        client.stream("POST", f"{url}/v1/chat/completions", json=body) as r,
    ):
        lines = [line async for line in r.aiter_lines() if line.startswith("data: ")]
    return [json.loads(line[6:]) if line != "data: [DONE]" else "[DONE]" for line in lines]


async def test_the_shapes_that_are_relied_on(server):
    """Progress comes with the first chunk, the timings with the last one, and [DONE] ends it."""
    chunks = await completion(server, return_progress=True, id_slot=1)
    assert "prompt_progress" in chunks[0] and chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1] == "[DONE]" and chunks[-2]["timings"]["cache_n"] == 0
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    again = await completion(server, return_progress=True, id_slot=1)
    assert again[-2]["timings"]["cache_n"] > 0
    other = await completion(server, id_slot=0)
    assert "prompt_progress" not in other[0] and other[-2]["timings"]["cache_n"] == 0
    assert [slot["id"] for slot in await slots(server)] == [0, 1]
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{server}/props")).json()["total_slots"] == 2
        assert (await client.get(f"{server}/nowhere")).status_code == 404


async def test_a_prompt_that_is_too_long_is_refused_as_such(server, engine_for):
    with pytest.raises(ContextTooLong):
        await Turn(await engine_for(server, llm_first_token_s=60), long(40_000)).end()


@pytest.mark.parametrize("polled", [False, True])
async def test_polling_keeps_a_server_from_noticing(server, polled):
    """Without progress a closed connection is noticed by a timer of one second, which every poll starts anew."""
    body = {"messages": [{"role": "user", "content": long(2400)[0].text}], "stream": True, "max_tokens": 50}
    async with httpx.AsyncClient(timeout=60) as client:
        asking = asyncio.create_task(client.post(f"{server}/v1/chat/completions", json=body))
        await until(server, lambda seen: any(slot["is_processing"] for slot in seen))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    if polled:
        with pytest.raises(TimeoutError):
            await until(server, lambda seen: not any(slot["is_processing"] for slot in seen), 1.8)
    else:
        await asyncio.sleep(1.05)
        await until(server, lambda seen: not any(slot["is_processing"] for slot in seen), 1.5)


@pytest.mark.slow
async def test_a_real_server_without_slots(engine_for):
    """Its own words for it: nothing is asked of it any more, and nothing is claimed."""
    with llama_server.running("--no-slots") as url:
        turn = Turn(await engine_for(url))
        await turn.words(1)
        assert (await turn.stop()).detail == "stream closed"


# -- the stand-in alone -----------------------------------------------------------------------------------------


def sent(server):
    """The completion requests' bodies."""
    return [request.body for request in server.requests if request.path == "/v1/chat/completions"]


async def test_a_server_without_slots_is_an_ordinary_one(engine_for):
    async with LlamaServer(endpoint=False) as server:
        turn = Turn(await engine_for(server.url))
        await turn.words(1)
        assert (await turn.stop()).detail == "stream closed"
        assert "id_slot" not in sent(server)[0] and "return_progress" not in sent(server)[0]


async def test_a_server_that_still_loads_is_recognised_later(engine_for):
    """At load it cannot be known; at the first turn that is answered it is."""
    async with LlamaServer() as server:
        server.loading = True
        engine = await engine_for(server.url)
        server.loading = False
        turn = Turn(engine)
        await turn.words(1)
        assert (await turn.stop()).idle
        assert sent(server)[0]["id_slot"] == 0


async def test_sessions_keep_their_slots_and_spread(engine_for):
    """As many sessions as slots: each has its own, turn after turn."""
    async with LlamaServer(slots=3, token_s=0.002) as server:
        engine = await engine_for(server.url, llm_max_tokens=3)
        for number in range(1, 4):
            for session in ("s0-aaaa", "s0-bbbb", "s0-cccc"):
                await Turn(engine, session=session, number=number).end()
        used = [body["id_slot"] for body in sent(server)]
        assert sorted(used[:3]) == [0, 1, 2] and used[:3] * 3 == used


async def test_more_sessions_than_slots_take_the_one_used_longest_ago(engine_for):
    """No slot out of range, whatever the number of sessions."""
    async with LlamaServer(slots=2, token_s=0.001) as server:
        engine = await engine_for(server.url, llm_max_tokens=1)
        for number in range(6):
            await Turn(engine, session=f"s0-aaaa{number}").end()
        used = [body["id_slot"] for body in sent(server)]
        assert set(used) == {0, 1} and used[:2] * 3 == used


async def test_a_slot_that_works_for_somebody_else_is_left_alone(engine_for):
    """Busy for another worker's session: a new one goes elsewhere; with every slot busy the server may choose."""
    async with LlamaServer(slots=2) as server:
        mine, others = await engine_for(server.url), await engine_for(server.url)
        first = Turn(others, session="s0-other1")
        await first.words(1)
        second = Turn(mine, session="s0-mine1")
        await second.words(1)
        third = Turn(mine, session="s0-mine2")
        await server.asked(3)
        bodies = sent(server)
        assert {bodies[0]["id_slot"], bodies[1]["id_slot"]} == {0, 1} and "id_slot" not in bodies[2]
        assert (await first.stop()).idle
        await third.words(1)
        assert (await third.stop()).detail == "stream closed"
        assert (await second.stop()).idle


async def test_what_is_not_seen_is_not_claimed(engine_for):
    """A slot that goes on is unconfirmed after 500 ms, never idle."""
    async with LlamaServer(token_s=0.01) as server:
        turn = Turn(await engine_for(server.url))
        await turn.words(2)
        server._token_s = 60
        await asyncio.sleep(0.02)
        began = asyncio.get_running_loop().time()
        seen = await turn.stop()
        took = asyncio.get_running_loop().time() - began
        assert (seen.idle, seen.detail) == (False, "unconfirmed after 500 ms")
        assert 0.5 <= took < 0.8


async def test_a_server_that_is_gone_is_not_claimed_to_be_idle(engine_for, monkeypatch):
    monkeypatch.setattr(llama, "LIMIT_SPEAKING", 0.1)
    async with LlamaServer() as server:
        turn = Turn(await engine_for(server.url))
        await turn.words(2)
    assert (await turn.stop()).detail in ("unconfirmed after 100 ms", "unconfirmed after 3000 ms")


async def test_a_queued_request_is_not_taken_for_the_one_before_it(engine_for, monkeypatch):
    """The slot works for another session all the while: nothing has been seen of this request."""
    monkeypatch.setattr(llama, "LIMIT_READING", 0.3)
    async with LlamaServer(slots=1) as server:
        engine = await engine_for(server.url)
        first = Turn(engine, session="s0-first1")
        await first.words(1)
        second = Turn(engine, session="s0-second")
        await server.asked(2)
        seen = await second.stop()
        assert (seen.idle, seen.detail) == (False, "unconfirmed after 300 ms")
        assert (await first.stop()).idle


async def test_a_queued_request_is_seen_when_its_turn_comes(engine_for):
    """Once the slot has taken it up and let it go, it is idle of it."""
    async with LlamaServer(slots=1, token_s=0.005) as server:
        engine = await engine_for(server.url, llm_max_tokens=40)
        first = Turn(engine, session="s0-first1")
        await first.words(1)
        second = Turn(engine, session="s0-second")
        await server.asked(2)
        seen = await second.stop()
        assert seen.idle and len(first.said) == 40


async def test_a_server_without_progress_is_left_alone_for_a_second(engine_for):
    """Where polls would keep it from noticing, none is sent before its timer has run out."""
    async with LlamaServer(progress=False, batch=16, batch_s=0.2, token_s=0.001) as server:
        engine = await engine_for(server.url, llm_max_tokens=3)
        await Turn(engine).end()
        turn = Turn(engine, long(400), number=2)
        await server.asked(2)
        await until(server.url, lambda seen: seen[0]["is_processing"])
        polls = len([request for request in server.requests if request.path == "/slots"])
        stopping = asyncio.create_task(turn.stop())
        await asyncio.sleep(1.0)
        assert len([request for request in server.requests if request.path == "/slots"]) == polls
        seen = await stopping
        assert seen.idle and 1000 < float(seen.detail.split()[-2]) < 2000


async def test_a_cancel_before_anything_was_sent_claims_nothing(engine_for):
    """No request, nothing to watch: at once, not after the limit."""
    async with LlamaServer() as server:
        engine = await engine_for(server.url)
        token = CancelToken("s0-abcdef", 1)
        async with asyncio.timeout(0.5):
            assert (await engine.confirm_stopped(token)).detail == "stream closed"


async def test_many_cancels_at_once(engine_for):
    """Every session's slot is watched by itself, and all are seen to stop."""
    async with LlamaServer(slots=8) as server:
        engine = await engine_for(server.url)
        turns = [Turn(engine, session=f"s0-aaaa{number}") for number in range(8)]
        for turn in turns:
            await turn.words(2)
        assert sorted(body["id_slot"] for body in sent(server)) == list(range(8))
        seen = await asyncio.gather(*(turn.stop() for turn in turns))
        assert all(one.idle for one in seen) and len({one.detail.split()[1] for one in seen}) == 8
