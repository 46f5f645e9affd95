"""Chatterbox (Resemble AI, MIT): the production voice, in an environment of its own (``make install-chatterbox``).

24 kHz. Its first sound comes after 15 speech tokens (0.6 s of speech, of which 0.48 s are heard), not after the
sentence; a cancel stops the model before its next block. Alignment is estimated, rather late than early. A sentence
spoken again gives the same samples while one copy of the model serves the process (``repeatable``).

A model speaks one sentence at a time; sentences of several sessions take turns. While nobody waits for it, it does not
run ahead of its listener by more than the piece it has begun (2 s at most).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

from pydantic import Field

from bus.cancel import CancelToken
from bus.settings import BusSettings, load
from workers.engines import EngineError
from workers.tts.engine import Chunk, Waste
from workers.tts.engines import chatterbox_model
from workers.tts.engines.chatterbox_abort import Watch
from workers.tts.engines.chatterbox_model import BUILT_IN, ChatterboxModel
from workers.tts.engines.chatterbox_stream import RATE, SAMPLES
from workers.tts.engines.threaded import Speaking
from workers.tts.normalise import normalise
from workers.tts.words import SpokenWords

READY = "I am ready when you are, and this sentence is long enough to try every piece."


class ChatterboxSettings(BusSettings):
    """Which model, whose voices, and how it speaks."""

    chatterbox_variant: Literal["english", "multilingual", "turbo"] = "english"
    """Which of the published models."""
    chatterbox_dir: Path | None = None
    """A folder with the variant's weights; absent: downloaded from Hugging Face on first use."""
    chatterbox_device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    """Where it computes: auto, cpu, cuda, cuda:1 or mps; auto takes a GPU where there is one."""
    chatterbox_voices: Path | None = None
    """A folder of audio files, 6 to 10 s of one speaker each (Turbo: more than 5 s); their names are the voices'."""
    chatterbox_cache: Path = Path(".bargein/voices")
    """Where what is computed of a voice is kept."""
    chatterbox_temperature: float = Field(default=0.8, gt=0, le=5)
    """How much chance there is in how it speaks."""
    chatterbox_cfg_weight: float = Field(default=0.5, gt=0, le=5)
    """How closely the text is followed; 0 fails in version 0.1.7. Not with Turbo."""
    chatterbox_exaggeration: float = Field(default=0.5, ge=0, le=2)
    """How lively; not with Turbo."""
    chatterbox_seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Where that chance begins: with one seed a sentence is spoken twice alike."""
    chatterbox_max_tokens: int = Field(default=1000, ge=25, le=1000)
    """Tokens (25 a second) after which a sentence is cut off: a model may fail to find its end."""
    chatterbox_threads: int = Field(default=0, ge=0, le=256)
    """torch's threads on a CPU; 0: one. More than there are idle cores is many times slower."""
    tts_voice: str = ""
    """The voice of sessions that choose none; empty: the model's own."""
    tts_models: int = Field(default=1, ge=1, le=16)
    """Copies of the model; each takes the memory of one."""
    tts_capacity: int = Field(default=0, ge=0, le=1000)
    """How many turns one process speaks; 0: four for each copy of the model."""


class Chatterbox:
    """Implements ``workers.tts.engine.TtsEngine``."""

    name = "chatterbox"
    rate = RATE

    def __init__(self) -> None:
        self.settings = load(ChatterboxSettings)
        self.capacity = self.settings.tts_capacity or 4 * self.settings.tts_models
        self.voices: tuple[str, ...] = ()
        # Copies of the model share torch's generator.
        self.repeatable = self.settings.tts_models == 1
        self.models: list[ChatterboxModel] = []
        self._free: asyncio.Queue[tuple[ChatterboxModel, ThreadPoolExecutor]] = asyncio.Queue()
        self._waiting = 0
        """Sentences that wait for a model."""
        self._waste: WeakKeyDictionary[CancelToken, Waste] = WeakKeyDictionary()

    def make_model(self) -> Any:
        """The library's model, from the settings."""
        settings = self.settings
        return chatterbox_model.load(settings.chatterbox_variant, settings.chatterbox_dir, settings.chatterbox_device)

    async def load(self) -> None:
        """Load every copy, make the voices, and speak a whole sentence with each. Raises EngineError."""
        loop = asyncio.get_running_loop()
        for number in range(self.settings.tts_models):
            thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"chatterbox-{number}")
            model = await loop.run_in_executor(thread, self._load_one)
            self.models.append(model)
            self._free.put_nowait((model, thread))
        self.voices = tuple(sorted(self.models[0].voices))
        self.find_voice("")

    def _load_one(self) -> ChatterboxModel:
        settings = self.settings
        torch, _ = chatterbox_model.libraries(settings.chatterbox_variant)
        torch.set_num_threads(settings.chatterbox_threads or 1)
        options = {"temperature": settings.chatterbox_temperature}
        if settings.chatterbox_variant != "turbo":
            options["cfg_weight"] = settings.chatterbox_cfg_weight
            options["exaggeration"] = settings.chatterbox_exaggeration
        model = ChatterboxModel(self.make_model(), settings.chatterbox_variant, options)
        if settings.chatterbox_voices is not None:
            model.prepare(settings.chatterbox_voices, settings.chatterbox_cache)
        if not model.voices:
            raise EngineError("these weights bring no voice; CHATTERBOX_VOICES names a folder with one or more")
        voice = next(iter(model.voices))
        limit = min(settings.chatterbox_max_tokens, 150)
        model.speak(READY, voice, "en", seed=0, limit=limit, watch=Watch(lambda: True), emit=lambda sound, last: None)
        return model

    def find_voice(self, voice: str) -> str:
        """The name of a voice; "" is TTS_VOICE, else the weights' own, else the first. Raises EngineError."""
        wanted = voice or self.settings.tts_voice
        if not wanted:
            return BUILT_IN if BUILT_IN in self.voices else self.voices[0]
        if wanted not in self.voices:
            raise EngineError(f"chatterbox has no voice {wanted[:60]!r}; expected one of {', '.join(self.voices)}")
        return wanted

    def find_language(self, language: str) -> str:
        """The model's name for a BCP-47 tag. Raises EngineError."""
        short, known = language.replace("_", "-").partition("-")[0].lower(), self.models[0].languages
        if short not in known:
            more = "" if len(known) > 1 else "; CHATTERBOX_VARIANT=multilingual speaks more"
            raise EngineError(f"chatterbox does not speak {language[:40]!r}; expected {', '.join(known)}{more}")
        return short

    def wasted(self, cancel: CancelToken) -> Waste:
        """What a cancelled turn has cost in the models."""
        return self._waste.get(cancel, Waste())

    async def speak(self, text: str, voice: str, language: str, cancel: CancelToken) -> AsyncIterator[Chunk]:
        """Synthesise one sentence; see ``workers.tts.engine``."""
        cancel.check()
        name, spoken_in = self.find_voice(voice), self.find_language(language)
        said = normalise(text, language)
        if not said.has_words:
            yield Chunk(b"", text, exact=False)
            return
        self._waiting += 1
        try:
            model, thread = await self._free.get()
        finally:
            self._waiting -= 1
        speaking = Speaking(self.name, RATE, cancel, hurried=lambda: self._waiting > 0)
        watch = Watch(speaking.is_wanted)
        speak = functools.partial(
            model.speak, said.text, name, spoken_in,
            seed=self.settings.chatterbox_seed, limit=self.settings.chatterbox_max_tokens,
            watch=watch, emit=speaking.give,
        )  # fmt: skip
        left = asyncio.wrap_future(thread.submit(speaking.run, speak))
        # However this ends, the model is free only once its thread has left it.
        left.add_done_callback(lambda done: self._free.put_nowait((model, thread)))
        words = SpokenWords(text)
        try:
            async with aclosing(speaking.chunks()) as chunks:
                async for pcm, last in chunks:
                    seconds = None if watch.total is None else watch.total * SAMPLES / RATE
                    told = words.rest() if last else words.until(speaking.taken / RATE, seconds)
                    yield Chunk(pcm, told, exact=False)
            cancel.check()
            if speaking.error is not None:
                raise speaking.error
            if rest := words.rest():
                yield Chunk(b"", rest, exact=False)  # nothing was sampled
        finally:
            speaking.close()
            await asyncio.wait({left})
            if cancel.cancelled:
                lost = Waste(watch.late, watch.sampled - watch.voiced, speaking.made - speaking.taken)
                self._waste[cancel] = self.wasted(cancel) + lost
