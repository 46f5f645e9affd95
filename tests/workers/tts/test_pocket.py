"""The real pocket-tts with a small model of random weights: what it says is noise, how it behaves is not."""

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pocket_tts", reason="pocket-tts is not installed here: make test-chatterbox")

import pocket_tts
import pytest_asyncio
import sentencepiece
import soundfile
import soxr
import yaml

from bus.cancel import Cancelled, CancelToken
from workers.engines import EngineError, find
from workers.tts.engines.espeak import Library
from workers.tts.engines.pocket import Pocket

pytestmark = [pytest.mark.chatterbox, pytest.mark.asyncio(loop_scope="module")]

SENTENCE = "She climbed the steps, lit the lamp, and waited for the ship."


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A model of the package's smallest size without weights, a tokenizer of these sentences, and one voice."""
    folder = tmp_path_factory.mktemp("pocket")
    with (folder / "tokenizer.model").open("wb") as file:
        lines = [SENTENCE, "Nobody was there to see it burn.", "I am ready when you are."] * 20
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=file, vocab_size=60, hard_vocab_limit=False, minloglevel=2
        )
    size = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model")).vocab_size()
    config = yaml.safe_load((Path(pocket_tts.__file__).parent / "config" / "english_2m_2026-10.yaml").read_text())
    config = {name: value for name, value in config.items() if not name.startswith("weights_path")}
    table = config["flow_lm"]["lookup_table"]
    table |= {"n_bins": size, "tokenizer": "sentencepiece", "tokenizer_path": str(folder / "tokenizer.model")}
    (folder / "model.yaml").write_text(yaml.safe_dump(config))
    voices = folder / "voices"
    voices.mkdir()
    espeak, pcm = Library.get(), bytearray()
    text = "One night a storm came up."
    espeak.synthesise(text, espeak.languages["en-us"], 160, lambda part, words: pcm.extend(part) or True)
    speech = soxr.resample(np.frombuffer(pcm, "<i2").astype(np.float32) / 32_768, espeak.rate, 24_000)
    soundfile.write(voices / "anna.wav", speech, 24_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCKET_CONFIG", str(folder / "model.yaml"))
        patch.setenv("POCKET_VOICES", str(voices))
        patch.setenv("POCKET_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
        yield patch


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(settings):
    made = find("tts", "pocket")
    await made.load()
    return made


def token():
    return CancelToken("s0-abcdef", 1)


async def say(engine, text=SENTENCE, cancel=None, voice=""):
    async with asyncio.timeout(120):
        return [chunk async for chunk in engine.speak(text, voice, "en-US", cancel or token())]


async def test_a_sentence_in_chunks(engine):
    """Of at most 60 ms, with all of the sentence's text as it was written."""
    chunks = await say(engine, "She **climbed** the steps.")
    assert sum(len(chunk.pcm) for chunk in chunks) > 2 * engine.rate * 0.2
    assert max(len(chunk.pcm) for chunk in chunks) <= 2 * engine.rate * 60 // 1000
    assert "".join(chunk.text for chunk in chunks) == "She **climbed** the steps."


async def test_a_cancel_ends_the_generation(engine):
    """No chunk follows; the next sentence is spoken."""
    cancel, chunks = token(), []
    with pytest.raises(Cancelled):
        async for chunk in engine.speak(SENTENCE, "", "en-US", cancel):
            chunks.append(chunk)
            cancel.cancel()
    assert len(chunks) == 1
    assert engine.wasted(cancel).samples > 0
    assert await say(engine)


async def test_several_sessions_take_turns(engine):
    """Two sentences at once, and a listener who leaves: the model is free again each time."""
    stream = engine.speak(SENTENCE, "", "en-US", token())
    await anext(stream)
    waiting = asyncio.create_task(say(engine))
    await stream.aclose()
    assert await waiting
    assert engine._asked == 0


async def test_voices_there_are_not(engine):
    assert engine.voices == ("anna",)
    with pytest.raises(EngineError, match=r"no voice 'zoe'; expected one of anna"):
        await say(engine, voice="zoe")


async def test_what_cannot_be_loaded_is_said(settings, tmp_path):
    """A folder that is not there, a model that is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCKET_VOICES", str(tmp_path / "nowhere"))
        with pytest.raises(EngineError, match="no such folder; expected one with voices"):
            await Pocket().load()
        patch.setenv("POCKET_CONFIG", str(tmp_path / "none.yaml"))
        with pytest.raises(EngineError, match=r"pocket-tts cannot load .*none\.yaml"):
            await Pocket().load()
