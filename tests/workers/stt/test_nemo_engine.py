"""The engine as the worker uses it: many sessions at once, pauses, hang-ups, takeovers."""

import asyncio

import pytest

nemo_world = pytest.importorskip("tests.workers.stt.nemo_world", reason="NeMo is not installed: make install-nemo")

from bus.events import Final, Partial
from bus.streams import Bus, connector
from tests.words20 import MODEL
from tests.workers.stt.nemo_world import CONTEXTS, flushed, live, model, speech, spoken, word_errors
from tests.workers.stt.stt_world import Caller, stt_worker
from workers.engines import EngineError, find
from workers.stt.engines.nemo import Nemo, NemoSettings

pytestmark = pytest.mark.nemo

FRAME = 640
"""Bytes of 20 ms."""
SILENCE = bytes(2 * 16_000)


@pytest.fixture
def set_env(monkeypatch, tmp_path):
    """Sets variables of the engine; no ``.env`` file reaches it."""
    monkeypatch.chdir(tmp_path)

    def set_variables(**values):
        for name, value in ({"stt_model": MODEL, "stt_threads": 1, "stt_device": "cpu"} | values).items():
            monkeypatch.setenv(name.upper(), str(value))

    return set_variables


@pytest.fixture(params=["70,13", "70,0"])
async def engine(request, set_env):
    set_env(stt_att_context=request.param, stt_capacity=24)
    engine = find("stt", "nemo")
    await engine.load()
    return engine


async def heard(recognizer, pcm):
    """The final text, and the texts on the way to it."""
    await recognizer.begin()
    partial = [await recognizer.feed(pcm[at : at + FRAME]) for at in range(0, len(pcm), FRAME)]
    return await recognizer.flush(), partial


async def test_sessions_at_once_hear_what_each_would_alone(engine):
    """24 calls on one engine, three of which hang up early, in mid-step: text as of the model alone."""
    loaded = model(tuple(engine.settings.context))
    hang_ups = {3: 10, 9: 40, 20: 90}

    async def call(number, utterance):
        await asyncio.sleep(0.003 * (number % 7))
        recognizer = await engine.open("en-US")
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(heard(recognizer, utterance.pcm))
                if number in hang_ups:
                    for _ in range(hang_ups[number]):
                        await asyncio.sleep(0)
                    listening.cancel()
            return listening.result()[0] if not listening.cancelled() else None
        finally:
            await recognizer.close()

    texts = await asyncio.gather(*(call(number, each) for number, each in enumerate(speech())))
    for number, (text, each) in enumerate(zip(texts, speech(), strict=True)):
        session = loaded.open()
        live(loaded, session, each.pcm)
        alone = flushed(loaded, session)
        loaded.close(session)
        assert text == alone or (text is None and number in hang_ups)
    assert texts.count(None) == len(hang_ups)
    assert len(engine._model._free) == 24 and not engine.listening


async def test_a_pause_that_is_taken_back_loses_and_doubles_nothing(engine):
    """A flush in the middle, then more: the text is that of all the audio, the same as without the pause."""
    first, second = spoken("hello seven"), spoken("cancel three", before=0.1)
    recognizer, other = await engine.open("en-US"), await engine.open("en-US")
    text, _ = await heard(recognizer, first)
    assert text == "hello seven"
    after = [await recognizer.feed(second[at : at + FRAME]) for at in range(0, len(second), FRAME)]
    assert all(each.startswith("hello seven") for each in after), "a flush's words do not disappear again"
    assert await recognizer.flush() == "hello seven cancel three"
    assert (await heard(other, first + second))[0] == "hello seven cancel three"
    assert [word.text for word in recognizer.details().words] == ["hello", "seven", "cancel", "three"]
    await recognizer.close()
    await other.close()


async def test_an_utterance_forgets_the_words_of_the_one_before(engine):
    recognizer = await engine.open("en-US")
    assert (await heard(recognizer, spoken("goodbye two")))[0] == "goodbye two"
    assert (await heard(recognizer, spoken("help")))[0] == "help"
    assert (await heard(recognizer, SILENCE))[0] == ""
    await recognizer.begin()
    assert await recognizer.flush() == ""
    await recognizer.close()


async def test_what_was_not_flushed_leaves_nothing_behind(engine):
    recognizer = await engine.open("en-US")
    await recognizer.begin()
    await recognizer.feed(spoken("repeat nine"))
    assert (await heard(recognizer, spoken("yes")))[0] == "yes"
    await recognizer.close()


async def test_a_closed_session_says_so_and_bad_audio_leaves_it_alive(engine):
    recognizer = await engine.open("en-US")
    await recognizer.begin()
    with pytest.raises(ValueError, match="3 bytes"):
        await recognizer.feed(b"abc")
    assert (await heard(recognizer, spoken("zero")))[0] == "zero"
    await recognizer.close()
    await recognizer.close()
    with pytest.raises(EngineError, match="closed"):
        await recognizer.feed(bytes(FRAME))


async def test_a_step_that_fails_is_an_engine_error_and_the_next_works(engine, monkeypatch):
    recognizer = await engine.open("en-US")
    await recognizer.begin()

    def fail(jobs):
        raise RuntimeError("CUDA out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(engine._model, "step", fail)
        with pytest.raises(EngineError, match="nemo failed: RuntimeError: CUDA out of memory"):
            await recognizer.flush()
    assert (await heard(recognizer, spoken("four")))[0] == "four"
    await recognizer.close()


@pytest.mark.parametrize("context", [",".join(map(str, each)) for each in CONTEXTS])
async def test_a_takeover_changes_no_text(set_env, redis_url, context):
    """A worker dies in mid-utterance; the next hears 5.6 s of context, then all of it: the text is the undisturbed one.

    Nothing is said twice.
    """
    set_env(stt_att_context=context, stt_capacity=2)
    engine = Nemo()
    earlier, utterances = spoken("start seven"), [spoken("hello two goodbye"), spoken("cancel five")]
    make_client = connector(redis_url)

    async def call(session, dies):
        bus = Bus(make_client)
        caller = Caller(bus, session)
        async with stt_worker(make_client, engine) as kill:
            await caller.offer()
            await caller.audio(SILENCE)
            await caller.start(before=1600)
            await caller.audio(earlier)
            await caller.pause()
            await caller.final()
            await caller.end()
            await caller.audio(SILENCE + bytes(3 * len(SILENCE)))
            await caller.start(before=1600)
            await caller.audio(utterances[0])
            await caller.pause()
            await caller.final()
            await caller.resume()
            await caller.audio(utterances[1][: len(utterances[1]) // 2])
            if dies:
                kill()
            else:
                await rest(caller)
        if dies:
            async with stt_worker(make_client, engine):
                await rest(caller)
        said = await caller.transcript()
        await bus.close()
        return said

    async def rest(caller):
        await caller.audio(utterances[1][len(utterances[1]) // 2 :])
        await caller.pause()
        await caller.final()
        await caller.end()
        await caller.hang_up()

    undisturbed, taken_over = await call("s0-aaaaaa", False), await call("s0-bbbbbb", True)
    finals = [
        [(each.utterance, each.revision, each.text) for each in said if isinstance(each, Final)]
        for said in (undisturbed, taken_over)
    ]
    assert finals[0] == finals[1]
    assert finals[0][-1] == (2, 1, "hello two goodbye cancel five")
    assert engine.context == 5.6 * 16_000
    assert all("seven" not in each.text for each in taken_over if isinstance(each, Partial) and each.utterance == 2)


async def test_the_capacity_is_measured_where_none_is_set(set_env):
    set_env(stt_att_context="70,13")
    engine = Nemo()
    await engine.load()
    assert 1 <= engine.capacity <= 32


async def test_what_was_said_is_understood(engine):
    """At least 95 % of the words of voices that the model has never heard, one after the other in one call."""
    recognizer, pairs = await engine.open("en-US"), []
    for each in speech(seed=12, count=40):
        pairs.append((each.text.split(), (await heard(recognizer, each.pcm))[0].split()))
    await recognizer.close()
    said = sum(len(words) for words, _ in pairs)
    assert sum(word_errors(*pair) for pair in pairs) <= 0.05 * said


def test_a_wrong_context_is_named_at_start(set_env, capsys):
    set_env(stt_att_context="70")
    with pytest.raises(SystemExit):
        Nemo()
    assert "STT_ATT_CONTEXT=70: expected two numbers such as 70,13" in capsys.readouterr().err


def test_the_vocabulary_comes_from_both_places(set_env, tmp_path):
    (tmp_path / "words.txt").write_text("Brooklyn  Bridge\n\nstop\n")
    set_env(stt_vocabulary="stop, start ", stt_vocabulary_file=tmp_path / "words.txt")
    assert NemoSettings().phrases() == ["stop", "start", "Brooklyn Bridge"]
    set_env(stt_vocabulary_file=tmp_path / "none.txt")
    with pytest.raises(EngineError, match=r"STT_VOCABULARY_FILE=.*none.txt: cannot be read"):
        NemoSettings().phrases()
