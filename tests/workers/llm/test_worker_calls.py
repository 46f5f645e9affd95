"""Function calls on their way through the LLM worker: published once, whole, in the order of the model's words."""

import pytest_asyncio

from bus.events import ReplyEnd, Sentence, ToolCall
from bus.leases import Work
from tests.bus.fake_server import fake_connector
from tests.workers.llm.llm_world import Engine, World
from workers.engines import EngineError
from workers.llm.tools import Call, Finish
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
