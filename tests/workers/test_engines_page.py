"""docs/engines.md: its engines, saved as it says and found by their names, take a call."""

import re
import sys
from pathlib import Path

import pytest

from bus.cancel import Cancelled, CancelToken
from tests.gateway.realtime_client import client
from tests.stack import running_stack
from workers.engines import find

PAGE = Path(__file__).resolve().parents[2] / "docs" / "engines.md"
(CODE,) = re.findall(r"```python toys\n(.*?)```", PAGE.read_text(), re.S)
NAMED = re.search(r"STT_ENGINE=(\S+) LLM_ENGINE=(\S+) TTS_ENGINE=(\S+)", PAGE.read_text())


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Each stage's engine, by the name that the page gives it."""
    (tmp_path / "toys.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "toys", raising=False)
    yield {stage: find(stage, name) for stage, name in zip(("stt", "llm", "tts"), NAMED.groups(), strict=True)}
    sys.modules.pop("toys", None)


async def test_they_take_a_call(toys):
    """What was spoken is heard, thought about and answered, in the words of these three."""
    async with running_stack(**toys) as stack, client(stack.ws) as call:
        await call.speak(seconds=1.0)
        done = (await call.get("response.done"))["response"]
        (content,) = done["output"][0]["content"]
        assert re.fullmatch(r"You said: I spoke for (0\.\d|1\.[01]) seconds\.", content["transcript"].strip())
        assert len(call.audio_of(done["id"])) > 24_000


async def test_their_voice_keeps_text_and_sound_together_and_stops(toys):
    """Chunks of 60 ms at most, whose texts joined are the sentence; none after the cancel."""
    text, token = "One  two three.", CancelToken("s0-0", 1)
    chunks = [chunk async for chunk in toys["tts"].speak(text, "", "en-US", token)]
    assert "".join(chunk.text for chunk in chunks) == text
    assert max(len(chunk.pcm) for chunk in chunks) <= 2 * toys["tts"].rate * 60 // 1000
    speaking = toys["tts"].speak(text, "", "en-US", token)
    await anext(speaking)
    token.cancel()
    with pytest.raises(Cancelled):
        await anext(speaking)
