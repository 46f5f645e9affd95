import asyncio
import re

import pytest
import pytest_asyncio

from bus.cancel import Cancelled
from bus.events import ReplyBegun, ReplyEnd, Sentence
from bus.keys import session_key
from bus.leases import Work
from tests.bus.fake_server import fake_connector
from tests.workers.llm.llama_stand_in import LlamaServer
from tests.workers.llm.llm_world import SORRY, Engine, Watched, World
from workers.engines import EngineError
from workers.llm import worker as worker_module
from workers.llm.engine import ContextTooLong, Observed
from workers.llm.prompt import SUMMARISE, SUMMARY, ContextSettings
from workers.llm.worker import FallbackSettings
from workers.runtime import Life


@pytest_asyncio.fixture
async def world():
    world = World(fake_connector())
    yield world
    await world.bus.close()


def texts(events):
    return [event.text for event in events if isinstance(event, Sentence)]


async def test_a_turn_is_answered_from_the_conversation(world):
    """Sentences in order, then the end with their number and the deltas; the model saw what was heard."""
    await world.bus.configure(world.session, {"instructions": "Be kind.", "language": "en-US"})
    engine = Engine(["One two", ". Three ", "four. ", "Five"], ["Yes."])
    async with world.worker(engine):
        await world.offer(1, ("user", "Hello"))
        *sentences, end = await world.written(1)
        assert [(s.index, s.text) for s in sentences] == [(0, "One two."), (1, "Three four."), (2, "Five")]
        assert (end.reason, end.sentences, end.tokens, end.error) == ("done", 3, 4, "")
        await world.offer(2, ("assistant", "One two."), ("user", "Stop"), instructions="Be brief.")
        await world.written(2)
        assert engine.prompts == [
            [("system", "Be kind."), ("user", "Hello")],
            [("system", "Be brief."), ("user", "Hello"), ("assistant", "One two."), ("user", "Stop")],
        ]
        assert engine.sessions == [world.session] * 2


async def test_a_turn_that_was_cancelled_before_its_offer_was_claimed_never_starts(world):
    """The model is not asked."""
    engine = Engine(["Yes."])
    await world.offer(1, ("user", "Hello"))
    await world.cancel(1)
    async with world.worker(engine):
        assert (await world.ack(1)).outcome == "never_started"
        assert engine.prompts == []


async def test_the_first_token_is_told_once_and_first(world):
    """It comes before the first sentence, and not at all where the model wrote nothing."""
    async with world.worker(Engine(["One two. ", "Three four."])):
        await world.offer(1, ("user", "count"))
        await world.written(1)
    events = [entry.event for entry in await world.bus.replay(session_key(world.session, "reply"))]
    assert [type(event) for event in events] == [ReplyBegun, Sentence, Sentence, ReplyEnd]


async def test_a_cancelled_turn_says_what_it_wasted(world):
    """The iterator is closed, and the word says how many deltas and sentences there were, and how it stopped."""
    engine = Engine(["One. ", "Two. ", "Three", asyncio.Event()])
    async with world.worker(engine):
        await world.offer(1, ("user", "Hello"))
        await world.sentences(1, 2)
        await world.cancel(1)
        ack = await world.ack(1)
        assert (ack.stage, ack.outcome, ack.tokens, ack.last, ack.detail) == ("llm", "stopped", 3, 1, "stream closed")
        assert 0 <= ack.took < 1000 and engine.closed == 1


async def test_an_observed_stop_stands_in_the_acknowledgement(world):
    """What the engine saw, in its words; ``took`` counts until the server was seen idle."""
    engine = Watched(["One. ", "Two. ", asyncio.Event()], seen=Observed(True, "slot 2 idle after 34 ms"))
    async with world.worker(engine):
        await world.offer(1, ("user", "Hello"))
        await world.sentences(1, 1)
        await world.cancel(1)
        async with asyncio.timeout(5):
            while not engine.asked:
                await asyncio.sleep(0.001)
        assert engine.closed == 1 and engine.asked == [(world.session, 1)]
        await asyncio.sleep(0.05)
        engine.idle.set()
        ack = await world.ack(1)
        assert ack.detail == "slot 2 idle after 34 ms" and 50 <= ack.took < 1000


async def test_what_was_not_observed_counts_until_the_stream_was_closed(world):
    """Watching in vain does not make the stop look slow, nor confirmed."""
    engine = Watched(["One. ", "Two. ", asyncio.Event()], seen=Observed(False, "unconfirmed after 500 ms"))
    async with world.worker(engine):
        await world.offer(1, ("user", "Hello"))
        await world.sentences(1, 1)
        await world.cancel(1)
        asyncio.get_running_loop().call_later(0.3, engine.idle.set)
        ack = await world.ack(1)
        assert ack.detail == "unconfirmed after 500 ms" and ack.took < 250


async def test_watching_a_stop_delays_no_turn(world):
    """Even with a capacity of one: the next turn is answered while the first is still being watched."""
    hold = asyncio.Event()
    engine = Watched(["One. ", "Two. ", hold], ["Yes."], seen=Observed(True, "slot 0 idle after 9 ms"), capacity=1)
    async with world.worker(engine):
        await world.offer(1, ("user", "Hello"))
        await world.sentences(1, 1)
        await world.cancel(1)
        await world.offer(2, ("user", "And?"))
        assert texts(await world.written(2)) == ["Yes."]
        assert await world.bus.replay(session_key(world.session, "acks")) == []
        engine.idle.set()
        assert (await world.ack(1)).detail == "slot 0 idle after 9 ms"


async def test_a_watch_that_fails_or_is_cut_off_is_still_an_acknowledgement(world):
    """The stream was closed: that much is certain, also from a worker that is ending."""
    engine = Watched(["One. ", "Two. ", asyncio.Event()], seen=RuntimeError("a bug"))
    engine.idle.set()
    async with world.worker(engine):
        await world.offer(1, ("user", "Hello"))
        await world.sentences(1, 1)
        await world.cancel(1)
        assert (await world.ack(1)).detail == "stream closed"
    engine = Watched(["One. ", "Two. ", asyncio.Event()], seen=None)
    async with world.worker(engine, Life(drain=0.1)):
        await world.offer(2, ("user", "Hello"))
        await world.sentences(2, 1)
        await world.cancel(2)
        async with asyncio.timeout(5):
            while not engine.asked:
                await asyncio.sleep(0.001)
    assert (await world.ack(2)).detail == "stream closed"


@pytest.mark.parametrize("error", [EngineError("answered 500"), KeyError("a bug"), OSError("disk"), TimeoutError("t")])
async def test_a_turn_that_fails_before_a_word_speaks_the_fallback(world, error):
    """Whatever broke: one sentence that can be spoken, and an end that says it failed and why."""
    engine = Engine([error], ["Yes."])
    async with world.worker(engine):
        await world.offer(1, ("user", "Hello"))
        sentence, end = await world.written(1)
        assert (sentence.index, sentence.text) == (0, SORRY)
        assert (end.reason, end.sentences) == ("failed", 1) and str(error).strip("'") in end.error
        await world.offer(2, ("user", "Again"))
        assert texts(await world.written(2)) == ["Yes."]
        assert len(engine.prompts) == 2


async def test_an_empty_fallback_says_nothing(world):
    async with world.worker(Engine([EngineError("answered 500")]), fallback=""):
        await world.offer(1, ("user", "Hello"))
        (end,) = await world.written(1)
        assert (end.reason, end.sentences) == ("failed", 0)


async def test_what_was_said_before_a_failure_stands_without_a_fallback(world):
    """The half sentence too: the caller hears how far it got."""
    async with world.worker(Engine(["One two. ", "Three fo", EngineError("broke off")])):
        await world.offer(1, ("user", "Hello"))
        *sentences, end = await world.written(1)
        assert texts(sentences) == ["One two.", "Three fo"]
        assert (end.reason, end.sentences, end.error) == ("failed", 2, "broke off")


async def test_an_engine_that_notices_the_cancel_itself_is_no_failure(world):
    """``bus.cancel.Cancelled`` out of an engine ends the turn as cancelled; nothing is said."""

    class Checking(Engine):
        async def reply(self, messages, language, cancel):
            self.prompts.append(messages)
            yield "One. "
            yield "Two. "
            await cancel.wait()
            raise Cancelled

    async with world.worker(Checking()):
        await world.offer(1, ("user", "Hello"))
        await world.sentences(1, 1)
        await world.cancel(1)
        assert (await world.ack(1)).outcome == "stopped"
        assert not any(
            isinstance(e.event, ReplyEnd) for e in await world.bus.replay(session_key(world.session, "reply"))
        )


async def test_a_turn_that_kills_workers_ends_with_the_fallback(world):
    """Given up before anything was said: the caller is told."""
    engine = Engine()
    async with world.worker(engine, Life(deliveries=0)):
        await world.offer(1, ("user", "Hello"))
        sentence, end = await world.written(1)
        assert sentence.text == SORRY and end.reason == "failed" and end.sentences == 1
        assert "given up" in end.error and engine.prompts == []


async def test_a_turn_given_up_after_something_was_said_keeps_it(world):
    """The end counts the sentences that a dead worker had written; no fallback is added."""
    await world.offer(1, ("user", "Hello"))
    dead = Work(world.bus, "llm", "dead")
    lease = await dead.claim(0)
    sentence = Sentence(1, lease.fence, 0, "One.")
    await world.bus.post_guarded(world.session, "reply", sentence, stage="llm", turn=1, fence=lease.fence)
    async with world.worker(Engine(), Life(lease=0.2, deliveries=1)):
        *sentences, end = await world.written(1)
        assert texts(sentences) == ["One."] and (end.reason, end.sentences) == ("failed", 1)
    await dead.close()


async def test_a_prompt_that_is_too_long_is_halved_and_sent_once_more(world):
    """The older half of the exchanges leaves, once; a second refusal fails the turn."""
    refusal = ContextTooLong("answered 400: exceeds the available context size")
    said = [("user", "One"), ("assistant", "1"), ("user", "Two"), ("assistant", "2"), ("user", "Three")]
    engine = Engine([refusal], ["Yes."], [refusal], [refusal], [refusal])
    async with world.worker(engine):
        await world.offer(1, *said, instructions="Be brief.")
        assert texts(await world.written(1)) == ["Yes."]
        assert engine.prompts == [[("system", "Be brief."), *said], [("system", "Be brief."), said[-1]]]
        await world.offer(2, ("user", "Four"))
        assert texts(await world.written(2)) == [SORRY] and len(engine.prompts) == 4


async def test_a_single_question_that_is_too_long_is_not_sent_again(world):
    engine = Engine([ContextTooLong("answered 400: context")])
    async with world.worker(engine):
        await world.offer(1, ("user", "One"))
        assert (await world.written(1))[-1].error == "answered 400: context" and len(engine.prompts) == 1


LONG = [("user" if n % 2 == 0 else "assistant", f"line {n} ".ljust(40, "x")) for n in range(10)]


def limited(policy):
    return ContextSettings(_env_file=None, llm_context_tokens=70, llm_context_policy=policy)


async def test_the_context_limit_drops_the_oldest(world):
    engine = Engine(["Yes."])
    async with world.worker(engine, context=limited("drop")):
        await world.offer(1, *LONG, ("user", "now"))
        await world.written(1)
        assert engine.prompts == [[*LONG[4:], ("user", "now")]]


async def test_the_context_limit_summarises_with_the_same_model(world):
    """Asked as a session of its own, so that the conversation's cache stays; its deltas are not the turn's."""
    engine = Engine(["They spoke ", "of lines."], ["Yes."])
    async with world.worker(engine, context=limited("summarise")):
        await world.offer(1, *LONG, ("user", "now"))
        sentence, end = await world.written(1)
        assert (sentence.text, end.sentences, end.tokens) == ("Yes.", 1, 1)
        assert engine.prompts[0][0] == ("system", SUMMARISE)
        assert engine.prompts[1] == [("system", SUMMARY + "They spoke of lines."), *LONG[8:], ("user", "now")]
        assert engine.sessions[0] != engine.sessions[1] == world.session


@pytest.mark.parametrize("play", [[EngineError("500")], ["  "], [asyncio.Event()], [ContextTooLong("400: context")]])
async def test_a_summary_that_fails_or_is_late_costs_the_oldest_only(world, play, monkeypatch):
    """The turn is answered from what fits."""
    monkeypatch.setattr(worker_module, "SUMMARY_S", 0.1)
    engine = Engine(play, ["Yes."])
    async with world.worker(engine, context=limited("summarise")):
        await world.offer(1, *LONG, ("user", "now"))
        assert texts(await world.written(1)) == ["Yes."]
        assert engine.prompts[1] == [*LONG[4:], ("user", "now")]
        assert engine.closed == (0 if play == ["  "] else 1)


async def test_a_cancel_stops_a_summary_too(world):
    engine = Engine([asyncio.Event()])
    async with world.worker(engine, context=limited("summarise")):
        await world.offer(1, *LONG, ("user", "now"))
        async with asyncio.timeout(5):
            while not engine.prompts:
                await asyncio.sleep(0.001)
        await world.cancel(1)
        ack = await world.ack(1)
        assert (ack.outcome, ack.tokens, ack.last) == ("stopped", 0, -1) and engine.closed == 1


async def test_a_llama_servers_slot_stands_in_the_acknowledgement(world, engine_for):
    """From the cancel to the idle slot through the real engine; the next turn has its slot and its cache."""
    async with LlamaServer(slots=4) as server, world.worker(await engine_for(server.url)):
        await world.offer(1, ("user", "Tell me a story"))
        await server.asked(1)
        async with asyncio.timeout(5):
            while not any(slot.job and slot.job.decoded > 3 for slot in server.slots):
                await asyncio.sleep(0.002)
        await world.cancel(1)
        ack = await world.ack(1)
        slot, idle = re.fullmatch(r"slot (\d) idle after (\d+) ms", ack.detail).groups()
        assert server.slots[int(slot)].job is None and len(server.released) == 1
        assert int(idle) - 1 <= ack.took < int(idle) + 250 and ack.tokens > 1
        await world.offer(2, ("assistant", "w1"), ("user", "Stop"))
        again = await server.asked(2)
        assert again.body["id_slot"] == int(slot)
        await world.cancel(2)
        assert (await world.ack(2)).detail.startswith(f"slot {slot} idle after")


def test_an_empty_fallback_in_the_environment_means_none(monkeypatch, tmp_path):
    """Here empty is a value: it switches the fallback off."""
    monkeypatch.chdir(tmp_path)
    assert FallbackSettings().fallback_text.startswith("Sorry")
    monkeypatch.setenv("FALLBACK_TEXT", "")
    assert FallbackSettings().fallback_text == ""
