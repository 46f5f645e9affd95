"""Function calls on their way through the LLM worker: pieces as they come, each call published once, whole."""

import pytest_asyncio

from bus.events import ReplyEnd, Sentence, ToolArguments, ToolCall
from bus.leases import Work
from tests.bus.fake_server import fake_connector
from tests.workers.llm.llm_world import Engine, World
from workers.engines import EngineError
from workers.llm.tools import Call, CallPiece, Finish
from workers.runtime import Life

PARIS, ROME = Call("0", "weather", '{"city":"Paris"}'), Call("0", "weather", '{"city":"Rome"}')


class Calling(Engine):
    """Plays also calls."""

    async def respond(self, messages, language, cancel, request):
        async for part in self.reply(messages, language, cancel):
            yield part
        yield Finish("length", 40, 7)


@pytest_asyncio.fixture
async def world():
    world = World(fake_connector())
    yield world
    await world.bus.close()


async def test_words_come_before_the_calls_that_follow_them(world):
    """An unfinished sentence is said before the call; ids are the turn's own; the server's counts stand at the end."""
    async with world.worker(Calling(["Let me ", "see", PARIS, ROME])):
        await world.offer(1, ("user", "Weather?"))
        events = await world.written(1)
    assert [type(event) for event in events] == [Sentence, ToolCall, ToolCall, ReplyEnd]
    assert events[0].text == "Let me see"
    assert [(each.index, each.arguments) for each in events[1:3]] == [(0, PARIS.arguments), (1, ROME.arguments)]
    assert [each.call_id for each in events[1:3]] == ["call_s0_abcdef_1_0", "call_s0_abcdef_1_1"]
    end = events[3]
    assert (end.reason, end.sentences, end.tokens, end.prompt_tokens, end.finish) == ("done", 1, 7, 40, "length")


async def test_a_call_that_was_published_is_never_generated_again(world):
    """The worker that takes the turn over ends it: what was called stands, and what comes of it is another turn."""
    await world.offer(1, ("user", "Weather?"))
    dead = Work(world.bus, "llm", "dead")
    lease = await dead.claim(0)
    call = ToolCall(1, lease.fence, 0, "call_1", "weather", "{}")
    await world.bus.post_guarded(world.session, "reply", call, stage="llm", turn=1, fence=lease.fence)
    engine = Calling(["never said"])
    async with world.worker(engine, Life(lease=0.2)):
        *before, end = await world.written(1)
    assert [each.call_id for each in before] == ["call_1"]
    assert (end.reason, engine.prompts) == ("done", [])
    await dead.close()


async def test_a_failure_after_a_call_speaks_no_fallback(world):
    """The call is under way: an apology would be about nothing."""
    async with world.worker(Calling([PARIS, EngineError("it broke off")])):
        await world.offer(1, ("user", "Weather?"))
        *before, end = await world.written(1)
    assert [type(event) for event in before] == [ToolCall]
    assert (end.reason, end.error) == ("failed", "it broke off")


def half(number=0, start=0, text='{"city":'):
    return CallPiece(number, "weather", start, text)


def calls_of(events):
    return [(each.index, each.call_id) for each in events if isinstance(each, ToolCall)]


async def test_pieces_of_a_call_are_told_under_the_names_it_will_have(world):
    """The words before it are out when it begins, though their sentence has no end."""
    async with world.worker(Calling(["Let me see", half(), half(start=8, text='"Paris"}'), PARIS])):
        await world.offer(1, ("user", "Weather?"))
        sentence, first, second, call, _ = await world.written(1)
    assert sentence.text == "Let me see" and (first.start, second.start) == (0, 8)
    assert first.text + second.text == call.arguments
    assert {(each.index, each.call_id, each.name) for each in (first, second, call)} == {
        (0, "call_s0_abcdef_1_0", "weather")
    }


async def test_a_call_that_is_begun_anew_is_another(world):
    """The engine asked its server once more: the half call keeps its names, and nothing comes of it."""
    async with world.worker(Calling([half(), half(), half(start=8, text='"Rome"}'), ROME])):
        await world.offer(1, ("user", "Weather?"))
        events = await world.written(1)
    pieces = [each for each in events if isinstance(each, ToolArguments)]
    assert [each.index for each in pieces] == [0, 1, 1]
    assert calls_of(events) == [(1, "call_s0_abcdef_1_1")]


async def test_the_worker_that_takes_over_half_a_call_makes_one_of_its_own(world):
    """Nothing was published that stands: the turn is asked again, and no name is used for two calls."""
    await world.offer(1, ("user", "Weather?"))
    dead = Work(world.bus, "llm", "dead")
    lease = await dead.claim(0)
    piece = ToolArguments(1, lease.fence, 0, "call_s0_abcdef_1_0", "weather", 0, '{"ci')
    await world.bus.post_guarded(world.session, "reply", piece, stage="llm", turn=1, fence=lease.fence)
    async with world.worker(Calling([half(), PARIS]), Life(lease=0.2)):
        *events, end = await world.written(1)
    assert end.reason == "done" and calls_of(events) == [(1, "call_s0_abcdef_1_1")]
    assert [each.index for each in events if isinstance(each, ToolArguments)] == [0, 1]
    await dead.close()
