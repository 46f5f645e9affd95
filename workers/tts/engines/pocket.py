"""pocket-tts (Kyutai, MIT code; see its weights' own licence): 100 million parameters, made for CPUs.

24 kHz, the first sound after one frame of 80 ms. Its own ``stop`` event ends the generation before the next frame; what
had been generated is decoded to its end. The package needs torch: ``pip install pocket-tts`` into the environment that
TTS_PYTHON names. Weights come from Hugging Face on first use. Alignment is estimated; a sentence spoken again is not
the same.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from pydantic import Field

from bus.cancel import CancelToken
from bus.settings import BusSettings, load
from workers.engines import EngineError
from workers.tts.engine import Chunk, Waste
from workers.tts.engines.threaded import Speaking
from workers.tts.normalise import normalise
from workers.tts.words import SpokenWords

READY = "I am ready when you are."
VOICES = (".wav", ".safetensors")
"""Kinds of files that are voices."""


class PocketSettings(BusSettings):
    """Which model and whose voices."""

    pocket_language: str = "english"
    """One of the package's models, such as english, french, german_24l or english_7m_2026-10."""
    pocket_config: Path | None = None
    """A model of your own: its YAML file, in place of POCKET_LANGUAGE."""
    pocket_voices: Path | None = None
    """A folder of voices beside the package's: audio of one speaker, or states exported by pocket-tts."""
    pocket_threads: int = Field(default=2, ge=1, le=64)
    """torch's threads."""
    tts_voice: str = ""
    """The voice of sessions that choose none; empty: the package's default for the language."""
    tts_capacity: int = Field(default=2, ge=1, le=1000)
    """How many turns one process speaks; their sentences take turns with the one model."""


class Pocket:
    """Implements ``workers.tts.engine.TtsEngine``."""

    name = "pocket"
    rate = 24_000

    def __init__(self) -> None:
        self.settings = load(PocketSettings)
        self.capacity = self.settings.tts_capacity
        self.voices: tuple[str, ...] = ()
        self._model: Any = None
        self._sources: dict[str, str] = {}
        """What pocket-tts makes a voice of: its own name for it, or a file."""
        self._states: dict[str, Any] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pocket")
        self._asked = 0
        """Sentences that the model speaks, or is yet to speak."""
        self._waste: WeakKeyDictionary[CancelToken, Waste] = WeakKeyDictionary()

    async def load(self) -> None:
        """Load the model and the default voice, and speak a whole sentence. Raises EngineError."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._load)

    def _load(self) -> None:
        settings = self.settings
        try:
            torch, package = importlib.import_module("torch"), importlib.import_module("pocket_tts")
            known = importlib.import_module("pocket_tts.utils.utils")._ORIGINS_OF_PREDEFINED_VOICES
            defaults = importlib.import_module("pocket_tts.default_parameters")
        except ImportError as error:
            raise EngineError(
                f"pocket-tts is not installed here ({error}); pip install pocket-tts, and name that python: TTS_PYTHON"
            ) from error
        torch.set_num_threads(settings.pocket_threads)
        config = str(settings.pocket_config) if settings.pocket_config else None
        try:
            self._model = package.TTSModel.load_model(None if config else settings.pocket_language, config=config)
        except Exception as error:
            what = config or settings.pocket_language
            raise EngineError(f"pocket-tts cannot load {what}: {_said(error)}") from error
        self.rate = self._model.sample_rate
        if config is None:
            self._sources |= {name: name for name in known}
        if settings.pocket_voices is not None:
            if not settings.pocket_voices.is_dir():
                raise EngineError(f"POCKET_VOICES={settings.pocket_voices}: no such folder; expected one with voices")
            files = sorted(settings.pocket_voices.iterdir())
            self._sources |= {file.stem: str(file) for file in files if file.suffix.lower() in VOICES}
        if not self._sources:
            raise EngineError("POCKET_CONFIG has no voices of its own; POCKET_VOICES names a folder with one or more")
        self.voices = tuple(sorted(self._sources))
        usual = defaults.get_default_voice_for_language(settings.pocket_language)
        self._default = settings.tts_voice or (usual if usual in self._sources else self.voices[0])
        for _ in self._model.generate_audio_stream(self._state(self.find_voice("")), READY):
            pass

    def find_voice(self, voice: str) -> str:
        """The name of a voice; "" is TTS_VOICE, else the language's usual one. Raises EngineError."""
        wanted = voice or self._default
        if wanted not in self._sources:
            raise EngineError(f"pocket-tts has no voice {wanted[:60]!r}; expected one of {', '.join(self.voices)}")
        return wanted

    def _state(self, voice: str) -> Any:
        """The model's state after it has heard a voice; made once. In the model's thread. Raises EngineError."""
        if voice not in self._states:
            try:
                self._states[voice] = self._model.get_state_for_audio_prompt(self._sources[voice])
            except Exception as error:
                raise EngineError(f"pocket-tts cannot use the voice {voice}: {_said(error)}") from error
        return self._states[voice]

    def wasted(self, cancel: CancelToken) -> Waste:
        """What a cancelled turn has cost in the model."""
        return self._waste.get(cancel, Waste())

    async def speak(self, text: str, voice: str, language: str, cancel: CancelToken) -> AsyncIterator[Chunk]:
        """Synthesise one sentence; see ``workers.tts.engine``. The model's language is POCKET_LANGUAGE."""
        cancel.check()
        name, said = self.find_voice(voice), normalise(text, language)
        if not said.has_words:
            yield Chunk(b"", text, exact=False)
            return
        speaking = Speaking(self.name, self.rate, cancel, hurried=lambda: self._asked > 1)
        stop = threading.Event()
        cancel.on_cancel(stop.set)

        def work() -> None:
            for frame in self._model.generate_audio_stream(self._state(name), said.text, stop=stop):
                if not speaking.is_wanted():
                    stop.set()
                speaking.give(np.asarray(frame.float().cpu().numpy()), last=False)

        self._asked += 1
        left = asyncio.wrap_future(self._thread.submit(speaking.run, work))
        left.add_done_callback(lambda done: self._leave())
        words = SpokenWords(text)
        try:
            async with aclosing(speaking.chunks()) as chunks:
                async for pcm, _ in chunks:
                    yield Chunk(pcm, words.until(speaking.taken / self.rate, None), exact=False)
            cancel.check()
            if speaking.error is not None:
                raise speaking.error
            yield Chunk(b"", words.rest(), exact=False)
        finally:
            stop.set()
            speaking.close()
            await asyncio.wait({left})
            if cancel.cancelled:
                self._waste[cancel] = self.wasted(cancel) + Waste(samples=speaking.made - speaking.taken)

    def _leave(self) -> None:
        self._asked -= 1


def _said(error: BaseException) -> str:
    return f"{type(error).__name__} {str(error)[:200]}".strip()
