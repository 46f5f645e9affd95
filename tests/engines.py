"""Scripted engines for tests: quick, deterministic, and as strict as the interfaces demand."""

from __future__ import annotations

import asyncio

import numpy as np

from workers.engines import EngineError
from workers.llm.tools import Finish, Request
from workers.tts.engine import Chunk


class ScriptedStt:
    """Every utterance is understood as ``text`` (a list is used up, one per utterance)."""

    name = "scripted"
    capacity = 8

    def __init__(self, text="hello there"):
        self.texts = [text] if isinstance(text, str) else list(text)
        self.heard: list[int] = []
        """Samples fed per utterance."""

    async def load(self):
        pass

    async def open(self, language):
        if language.startswith("xx"):
            raise EngineError("this engine does not speak xx; choose another STT_ENGINE")
        return _ScriptedRecognizer(self)


class _ScriptedRecognizer:
    def __init__(self, engine):
        self.engine = engine
        self.text = ""

    async def begin(self):
        texts = self.engine.texts
        self.text = texts.pop(0) if len(texts) > 1 else texts[0]
        self.engine.heard.append(0)

    async def feed(self, pcm):
        assert len(pcm) % 2 == 0
        self.engine.heard[-1] += len(pcm) // 2
        return " ".join(self.text.split()[:1]) if self.engine.heard[-1] > 4000 else ""

    async def flush(self):
        return self.text

    async def close(self):
        pass


class ScriptedLlm:
    """Streams ``answer`` word by word; ``prompts`` holds what it was asked, ``closed`` how often it was cut short."""

    name = "scripted"
    capacity = 8

    def __init__(self, answer="One two three four. Five six seven eight.", pace=0.0):
        self.answer = answer
        self.pace = pace
        self.prompts: list[list[tuple[str, str]]] = []
        self.closed = 0
        self.fail_after: int | None = None

    async def load(self):
        pass

    async def reply(self, messages, language, cancel):
        self.prompts.append([(message.role, message.text) for message in messages])
        whole = False
        try:
            for number, word in enumerate(self.answer.split(" ")):
                if number == self.fail_after:
                    raise EngineError("the model server answered 500")
                await asyncio.sleep(self.pace)
                yield word + " "
            whole = True
        finally:
            self.closed += not whole


class CallingLlm(ScriptedLlm):
    """Calls functions: ``script`` says for each turn what it yields, words or calls; without one it answers."""

    def __init__(self, *script, answer="One two three four. Five six seven eight.", pace=0.0):
        super().__init__(answer, pace)
        self.script = list(script)
        self.requests: list[Request] = []
        self.messages: list[list] = []

    async def respond(self, messages, language, cancel, request):
        self.requests.append(request)
        self.messages.append(list(messages))
        script = self.script.pop(0) if self.script else None
        if script is None:
            async for delta in self.reply(messages, language, cancel):
                yield delta
        else:
            self.prompts.append([(message.role, message.text) for message in messages])
            for piece in script:
                await asyncio.sleep(self.pace)
                yield piece
        yield Finish("stop", 100, 10)


class ScriptedTts:
    """Speaks each word as 200 ms of a rising tone, in chunks of 50 ms, with exact alignment."""

    name = "scripted"
    capacity = 8
    rate = 24_000
    repeatable = True
    voices = ("tone",)

    def __init__(self, pace=0.0):
        self.pace = pace
        self.spoken: list[str] = []
        self.cut = 0

    async def load(self):
        pass

    async def speak(self, text, voice, language, cancel):
        self.spoken.append(text)
        whole = False
        try:
            words = text.split(" ")
            for number, word in enumerate(words):
                for part in range(4):
                    await asyncio.sleep(self.pace)
                    cancel.check()
                    wave = 8000 * np.sin(2 * np.pi * (300 + 20 * number) * np.arange(1200) / self.rate)
                    done = word + ("" if number == len(words) - 1 else " ")
                    yield Chunk(wave.astype("<i2").tobytes(), done if part == 3 else "", True)
            whole = True
        finally:
            self.cut += not whole


class MoodyTts(ScriptedTts):
    """The same at the pace of real speech, as a voice that never says a sentence twice alike."""

    repeatable = False

    def __init__(self):
        super().__init__(pace=0.05)
