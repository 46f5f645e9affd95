"""The whole product with STT_ENGINE=nemo and the recogniser of twenty words: what callers say is understood."""

import asyncio
import json
import random
import sys

import numpy as np
import pytest
import soxr

pytest.importorskip("nemo", reason="NeMo is not installed: make install-nemo")

from bus.events import Final
from bus.keys import session_key
from bus.streams import Bus, connector
from gateway.client import Call
from tests.product import running_product
from tests.words20 import HELD_OUT, MODEL
from tests.words20.speech import say, sequence

pytestmark = [pytest.mark.nemo, pytest.mark.end_to_end]

CALLS = 20
AT_ONCE = 5
HEARD = "conversation.item.input_audio_transcription.completed"


def sentences():
    """Words and who says them: none follows itself, all voices are ones the model has never heard."""
    chance = random.Random(20)
    for _ in range(CALLS):
        words = sequence(chance, 5, repeats=False)
        samples = say(" ".join(words), chance.choice(HELD_OUT), chance.randint(140, 180), chance.randint(40, 60))
        quiet = np.zeros(8_000, np.float32)
        samples = np.concatenate([quiet, samples * chance.uniform(0.4, 0.9), quiet])
        yield words, (soxr.resample(samples, 16_000, 24_000) * 32767).astype(np.int16)


async def understood(product, pcm):
    """What the product says that a caller said, and the call's name."""
    async with Call(product.extended) as call:
        await call.say(pcm)
        heard = await call.wait_for(HEARD)
        return heard["transcript"].split(), call.session_id


@pytest.mark.parametrize("context", ["70,13", "70,6", "70,1", "70,0"])
async def test_what_callers_say_is_understood(tmp_path, context):
    """From the client through gateway, Redis and worker: 95 % of the words, the first and the last of each among them.

    With the words come their times and how sure the model is.
    """
    from tests.workers.stt.nemo_world import word_errors

    settings = {
        # Calls that are being ended count as well as the AT_ONCE that are going on.
        "STT_ENGINE": "nemo", "STT_MODEL": str(MODEL), "STT_ATT_CONTEXT": context, "STT_PYTHON": sys.executable,
        "STT_CAPACITY": "32", "STT_THREADS": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    said = list(sentences())
    with running_product(tmp_path, **settings) as product:
        free = asyncio.Semaphore(AT_ONCE)

        async def one(pcm):
            async with free:
                return await understood(product, pcm)

        heard = await asyncio.gather(*(one(pcm) for _, pcm in said))
        bus = Bus(connector(product.redis_url))
        finals = [
            entry.event
            for _, session in heard
            for entry in await bus.replay(session_key(session, "transcript"))
            if isinstance(entry.event, Final)
        ]
        await bus.close()
    pairs = [(words, text) for (words, _), (text, _) in zip(said, heard, strict=True)]
    count = sum(len(words) for words, _ in pairs)
    assert sum(word_errors(*pair) for pair in pairs) <= 0.05 * count, pairs
    for end in (0, -1):
        assert sum(text[end:][:1] != words[end:][:1] for words, text in pairs) <= 0.05 * CALLS, pairs
    with_words = [(final, json.loads(final.words)) for final in finals if final.text]
    assert len(with_words) >= CALLS
    for final, words in with_words:
        assert [word["word"] for word in words] == final.text.split()
        assert all(final.start <= word["start"] < word["end"] for word in words)
        assert 0.3 < final.confidence <= 1
